"""Decoding in a child process: the sound is the same, and a file that fails or exceeds a limit fails alone."""

import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from decoding_children import NAMES, children, die, end_children, long_file, same, serving, sha256, slow_to_decode
from test_cli import ROOT

from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.annotate import Annotator
from pipelines.audio import children as module
from pipelines.audio.config import DecodeConfig
from pipelines.audio.decode import Decoder
from pipelines.audio.isolated import IsolatedDecoder
from pipelines.audio.probe import probe as probe_here
from pipelines.audio.probing import Prober, probe
from pipelines.audio.sound import TrackStream, decode_sound, decode_span
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.errors import (
    ChangedAudioError,
    DecodeLimitError,
    DecoderDiedError,
    OutOfMemoryError,
    UnreachableAudioError,
    UnreadableAudioError,
)
from runtime.failures import Kind, kind_of

FACTS = ("sample_rate", "channels", "channel_layout", "decode_errors", "decode_error", "missing_s", "format_changes")


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test begins without any child."""
    end_children()


@pytest.fixture
def long(tmp_path: Path) -> str:
    return long_file(tmp_path)


@pytest.mark.recordings
@pytest.mark.parametrize("name", NAMES)
def test_blocks_facts_and_claims_are_those_of_the_decoder_itself(name: str, recordings: Path) -> None:
    path = str(recordings / name)
    here, there = Decoder(path), IsolatedDecoder(path)
    assert same(list(here), list(there))
    assert {fact: getattr(here, fact) for fact in FACTS} == {fact: getattr(there, fact) for fact in FACTS}
    assert probe(path) == probe_here(path)
    assert len(children()) == 2  # one is not closed yet
    there.close()


def test_rate_and_channels_are_known_after_the_first_block(long: str) -> None:
    decoder = IsolatedDecoder(long)
    with pytest.raises(AttributeError, match="before it is decoded"):
        _ = decoder.sample_rate
    next(iter(decoder))
    assert (decoder.sample_rate, decoder.channels, decoder.channel_layout) == (48000, 1, Decoder(long).channel_layout)
    decoder.close()


def unreadable(folder: Path) -> Iterator[str]:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no sound " * 100)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.5] * 100), 16000, subtype="FLOAT")
    (folder / "cut.flac").write_bytes(b"fLaC" + bytes(40))
    yield from map(str, sorted(folder.iterdir()))
    yield str(folder / "missing.wav")
    yield str(folder)


def test_errors_are_of_the_same_class_with_the_same_words(tmp_path: Path) -> None:
    def error(decode: Callable[[], object]) -> tuple[type, str, str] | None:
        try:
            decode()
        except UnreadableAudioError as error:
            return type(error), str(error), error.remedy
        return None

    kinds = set()
    for path in unreadable(tmp_path):
        told = error(lambda path=path: list(IsolatedDecoder(path)))
        assert told == error(lambda path=path: list(Decoder(path)))
        assert told is not None
        kinds.add(told[0])
        assert error(lambda path=path: probe(path)) == error(lambda path=path: probe_here(path))
    assert kinds == {UnreadableAudioError, UnreachableAudioError}
    assert len(children()) <= module.MAX_IDLE


def test_a_name_relative_to_a_folder_that_was_changed_to_later_is_found(
    conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(str(conversation))
    monkeypatch.chdir(conversation.parent)
    assert probe(conversation.name) == probe_here(str(conversation))
    assert len(children()) == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_dies_is_replaced_and_the_sound_goes_on(number: int, long: str) -> None:
    decoder = IsolatedDecoder(long)
    blocks = iter(decoder)
    heard = list(islice(blocks, 3))
    (child,) = children()
    child.send_signal(number)
    heard += blocks
    assert same(heard, list(Decoder(long)))
    assert (decoder.sample_rate, decoder.decode_errors) == (48000, 0)
    decoder.verify_sha256(sha256(long))
    decoder.close()
    assert [other.pid == child.pid for other in children()] == [False]


def test_a_recording_at_which_two_children_die_has_failed_and_the_next_one_is_heard(long: str) -> None:
    decoder = IsolatedDecoder(long)
    blocks = iter(decoder)
    for _ in range(2):
        next(blocks)
        while not children():  # blocks that were decoded before the death are given before it is noticed
            next(blocks)
        (child,) = children()
        die(child, signal.SIGSEGV)
    with pytest.raises(DecoderDiedError, match=r"long\.wav.*died at it twice: SIGSEGV") as raised:
        list(blocks)
    assert (kind_of(raised.value), bool(raised.value.remedy)) == (Kind.RECORDING, True)
    assert same(list(IsolatedDecoder(long)), list(Decoder(long)))


def test_a_child_that_dies_idle_is_nobodys_fault(conversation: Path) -> None:
    for _ in range(3):
        probe(str(conversation))
        (child,) = children()
        die(child, signal.SIGKILL)
    assert probe(str(conversation)) == probe_here(str(conversation))


def test_a_death_while_probing_is_made_good_by_another_child(conversation: Path) -> None:
    probe(str(conversation))
    (child,) = children()
    child.suspend()
    with Prober() as prober:
        prober.request(str(conversation))
        child.kill()
        assert prober.result(str(conversation)) == probe_here(str(conversation))


def test_decoding_that_yields_nothing_is_ended_by_its_cpu_time(tmp_path: Path) -> None:
    path = slow_to_decode(tmp_path)
    begun = time.monotonic()
    with pytest.raises(DecodeLimitError, match=r"slow\.mp3.*more than 0\.5 s of CPU time") as raised:
        list(IsolatedDecoder(path, decode=DecodeConfig(stall_s=0.5)))
    assert time.monotonic() - begun < 30
    assert (kind_of(raised.value), "decode.stall_s" in raised.value.remedy) == (Kind.RECORDING, True)
    assert children() == []


def test_probing_is_ended_by_its_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.001)  # no header that is known takes long
    path = slow_to_decode(tmp_path)
    with pytest.raises(DecodeLimitError, match=r"slow\.mp3.*reading its header took more than 1e-09 s") as raised:
        probe(path, decode=DecodeConfig(probe_s=1e-9))
    assert "decode.probe_s" in raised.value.remedy


def test_a_storage_that_is_slow_is_no_stall(tmp_path: Path, conversation: Path) -> None:
    """Waiting takes no CPU time."""
    with serving(tmp_path, conversation, pause_s=1.5) as url:
        config = StorageConfig(http_private=True)
        with_limit = IsolatedDecoder(url, config, DecodeConfig(stall_s=1.0))
        assert same(list(with_limit), list(Decoder(str(conversation))))
        with_limit.close()


def test_a_recording_longer_than_the_limit_is_refused(conversation: Path) -> None:
    assert len(list(IsolatedDecoder(str(conversation), decode=DecodeConfig(max_hours=0.01)))) > 0
    with pytest.raises(DecodeLimitError, match=r"longer than 0\.005 hours") as raised:
        list(IsolatedDecoder(str(conversation), decode=DecodeConfig(max_hours=0.005)))
    assert "decode.max_hours" in raised.value.remedy


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """64 channels, of which a block takes 67 MB."""
    soundfile.write(tmp_path / "wide.wav", np.zeros((300_000, 64), np.int16), 48000)
    return str(tmp_path / "wide.wav")


def test_a_recording_that_needs_more_memory_than_the_limit_fails_alone(wide: str, conversation: Path) -> None:
    limits = DecodeConfig(memory_gb=0.45)
    with pytest.raises(DecodeLimitError, match=r"wide\.wav.*more than 0\.45 GB") as raised:
        list(IsolatedDecoder(wide, decode=limits))
    assert (kind_of(raised.value), "decode.memory_gb" in raised.value.remedy) == (Kind.RECORDING, True)
    assert len(list(IsolatedDecoder(str(conversation), decode=limits))) == 2
    assert same(list(IsolatedDecoder(wide)), list(Decoder(wide)))


TRY = """
import resource, sys
from pipelines.audio.isolated import IsolatedDecoder
from runtime.failures import kind_of
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    list(IsolatedDecoder(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, kind_of(error).name, error)
"""


# How much the libraries of a child take depends on where they are installed.
@pytest.mark.parametrize(("limit_mb", "what"), [(450, "no memory left to decode"), (60, "can be started")])
def test_where_the_machine_gives_less_memory_than_the_recipe_the_run_stops(limit_mb: int, what: str, wide: str) -> None:
    words = [sys.executable, "-c", TRY, wide, str(limit_mb * 10**6)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.startswith("OutOfMemoryError RUN"), found.stdout + found.stderr
    assert re.search(what, found.stdout)
    assert kind_of(OutOfMemoryError("")) is Kind.RUN


@pytest.mark.parametrize("taken", [0, 1, 100])
def test_the_bytes_are_proven_after_any_block(taken: int, long: str) -> None:
    right = IsolatedDecoder(long)
    list(islice(right, taken))
    right.verify_sha256(sha256(long))
    right.close()
    wrong = IsolatedDecoder(long)
    list(islice(wrong, taken))
    with pytest.raises(ChangedAudioError, match=r"long\.wav.*sha256"):
        wrong.verify_sha256("0" * 64)
    wrong.close()
    assert len(children()) == 1


def test_sound_of_other_bytes_than_those_that_were_ingested_is_refused(tmp_path: Path, conversation: Path) -> None:
    path = tmp_path / "a.wav"
    shutil.copy(conversation, path)
    digest, size = sha256(path), path.stat().st_size
    with decode_sound(str(path), "a", size, sha256=digest) as sound:
        signal_row = {"recording_id": "a", **sound.signal}
        whole = sound.read()
    with decode_span(str(path), size, signal_row, 16000, 32000, sha256=digest) as span:
        np.testing.assert_array_equal(span.read(16000, 32000), whole[:, 16000:32000])
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    for data in (bytes(changed), b"\0" * size):  # other sound, and no sound at all
        path.write_bytes(data)
        with pytest.raises(ChangedAudioError, match=r"a\.wav.*sha256"):
            decode_sound(str(path), "a", size, sha256=digest)
        with pytest.raises(ChangedAudioError, match=r"a\.wav.*sha256"):
            decode_span(str(path), size, signal_row, 0, 100, sha256=digest)
        stream = TrackStream(str(path), 16000, signal_row)
        with pytest.raises(ChangedAudioError, match=r"a\.wav.*sha256"):
            stream.verify_sha256(digest)
        stream.close()


def test_where_one_name_holds_other_bytes_the_sound_is_read_under_the_next(tmp_path: Path, conversation: Path) -> None:
    for name in ("a.wav", "b.wav"):
        shutil.copy(conversation, tmp_path / name)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], IngestConfig())
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[1000:9000] = bytes(8000)
    (tmp_path / "a.wav").write_bytes(data)
    annotator = Annotator(lake, [Vad(VadConfig())])
    assert annotator.annotate("batch-000000").failed == 0
    (row,) = lake.read(lake.annotation_key("signal", annotator.fingerprints["signal"], "batch-000000")).to_pylist()
    with decode_sound(str(conversation), "x") as sound:
        assert row["pcm_sha256"] == sound.signal["pcm_sha256"]


def test_a_header_that_claims_gigabytes_costs_what_the_file_holds(tmp_path: Path) -> None:
    form = (b"fmt ", 16, 1, 64, 48000, 64 * 96000, 128, 16)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**31, b"WAVE", *form, b"data", 2**31)
    (tmp_path / "claim.wav").write_bytes(head + bytes(1280))
    decoder = IsolatedDecoder(str(tmp_path / "claim.wav"), decode=DecodeConfig(memory_gb=1.0))
    assert [block.shape for block in decoder] == [(64, 10)]
    (child,) = children()
    assert child.memory_info().rss < 300 << 20
    decoder.close()

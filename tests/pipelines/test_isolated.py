"""Decoding in a process that can be ended: the same sound, and no file costs more than itself."""

import hashlib
import http.server
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import soundfile
from test_cli import ROOT

from manifests.lake import Lake
from manifests.storage import StorageConfig, retry
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

RNG = np.random.default_rng(5)
FACTS = ("sample_rate", "channels", "channel_layout", "decode_errors", "decode_error", "missing_s", "format_changes")
NAMES = ("fw/jfk.flac", "lca_calls/lca_40_stereo8k.flac", "google/multi.flac")


def children() -> list[psutil.Process]:
    """The living processes that decode for this one."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # of one that is dead and has still to be waited for, too
            if any("audio.child" in word for word in child.cmdline()):
                found.append(child)
    return found


def until(met: Callable[[], bool]) -> None:
    """Wait for a condition, at most 30 s."""
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def die(child: psutil.Process, number: int) -> None:
    """Kill it, and wait until it is dead; who started it has still to be told."""
    child.send_signal(number)
    until(lambda: child.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test begins without any child."""
    for child in module._idle:
        child.end()
    module._idle.clear()
    for process in children():  # of a test that failed
        process.kill()
        process.wait()


@pytest.fixture
def long(tmp_path: Path) -> str:
    """16 blocks of noise: more than fit the shared memory at once."""
    path = tmp_path / "long.wav"
    soundfile.write(path, RNG.integers(-9000, 9000, (16 << 18) - 1000, dtype=np.int16), 48000)
    return str(path)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def slow_to_decode(folder: Path, size_bytes: int = 8 << 30) -> str:
    """A second of MP3 and then zeros, which FFmpeg searches for a further frame; they take no place on the disk."""
    path = folder / "slow.mp3"
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(RNG.integers(-3000, 3000, (1, 16000), dtype=np.int16), "s16", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    os.truncate(path, size_bytes)
    return str(path)


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


def test_stopping_early_ends_the_decoding_and_keeps_the_child(long: str, conversation: Path) -> None:
    for taken in (0, 1, 2, 7):
        decoder = IsolatedDecoder(long)
        list(islice(decoder, taken))
        decoder.close()
        assert same(list(IsolatedDecoder(str(conversation))), list(Decoder(str(conversation))))
    assert len(children()) == 1


def test_a_cancelled_decoding_that_does_not_end_is_killed(tmp_path: Path, conversation: Path) -> None:
    decoder = IsolatedDecoder(slow_to_decode(tmp_path, 1 << 40))
    until(lambda: len(children()) == 1)
    (child,) = children()
    until(lambda: child.cpu_times().user > 1)
    decoder.close()
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid == child.pid for other in children()] == [False]


def test_threads_decode_side_by_side(long: str, conversation: Path) -> None:
    paths = [long, str(conversation)] * 4
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda path: list(IsolatedDecoder(path)), paths))
    for path, blocks in zip(paths, heard, strict=True):
        assert same(blocks, list(Decoder(path)))
    assert len(children()) <= module.MAX_IDLE


@pytest.mark.slow
def test_two_hundred_decodings_leave_nothing_open(tmp_path: Path, conversation: Path, long: str) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF" + bytes(40))

    def some(count: int) -> None:
        for number in range(count):
            path = (str(conversation), str(tmp_path / "bad.wav"), long)[number % 3]
            decoder = IsolatedDecoder(path)
            try:
                list(islice(decoder, 2))
                decoder.verify_sha256(sha256(path))
            except UnreadableAudioError:
                pass
            decoder.close()
            if number % 20 == 0:
                module._idle[-1].end()  # as where it died

    def open_files() -> tuple[int, int]:
        (child,) = children()
        probe(str(conversation))
        return psutil.Process().num_fds(), child.num_fds()

    some(3)
    module._idle[-1].end()
    some(3)
    before = open_files()
    some(200)
    assert open_files() == before


KEEP_DECODING = """
import sys, time
from pipelines.audio.isolated import IsolatedDecoder
import psutil
blocks = iter(IsolatedDecoder(sys.argv[1]))
if sys.argv[2] == "waiting":
    next(blocks)
while not psutil.Process().children():
    time.sleep(0.01)
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60) if sys.argv[2] == "waiting" else next(blocks)
"""


@pytest.mark.parametrize("state", ["waiting", "busy"])
def test_a_killed_parent_leaves_no_child(state: str, long: str, tmp_path: Path) -> None:
    path = long if state == "waiting" else slow_to_decode(tmp_path, 1 << 40)
    words = [sys.executable, "-c", KEEP_DECODING, path, state]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if state == "busy":
            until(lambda: child.cpu_times().user > 1)
        parent.kill()
    until(lambda: not child.is_running())


def test_a_thread_that_ends_leaves_the_child_to_the_others(conversation: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(probe, str(conversation)).result()
    (child,) = children()
    time.sleep(0.2)
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid for other in children()] == [child.pid]


def test_ctrl_c_does_not_end_the_child(long: str) -> None:
    decoder = IsolatedDecoder(long)
    blocks = iter(decoder)
    heard = [next(blocks)]
    (child,) = children()
    assert os.getpgid(child.pid) != os.getpgid(0)  # where a terminal sends it
    child.send_signal(signal.SIGINT)
    heard += blocks
    assert same(heard, list(Decoder(long)))
    assert child.is_running()
    decoder.close()


def test_a_forked_process_starts_a_child_of_its_own(conversation: Path) -> None:
    probe(str(conversation))
    (child,) = children()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        found = probe(str(conversation)) == probe_here(str(conversation))
        os.write(writing, b"%d %d" % (found, child.pid in [other.pid for other in children()]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) == b"1 0"
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid for other in children()] == [child.pid]


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


@contextmanager
def serving(folder: Path, path: Path, pause_s: float = 0.0, refuse: int = 0, after_s: int = 0) -> Iterator[str]:
    """A server of one file on loopback, that pauses before it answers or refuses the first requests."""
    data = path.read_bytes()
    left = refuse

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal left
            time.sleep(pause_s)
            if left > 0:
                left -= 1
                self.send_response(503)
                self.send_header("Retry-After", str(after_s))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.wav"
    finally:
        server.shutdown()
        server.server_close()


def test_what_the_storage_had_to_try_again_is_told_and_counted_here(
    tmp_path: Path, conversation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("speechmill").propagate = True
    before = retry.retries()
    with serving(tmp_path, conversation, refuse=1, after_s=6) as url:
        claims = probe(url, StorageConfig(http_private=True))
    assert claims == probe_here(str(conversation))
    assert (retry.retries() - before).total() == 1
    assert {record.levelname for record in caplog.records if "status 503" in record.getMessage()} == {"WARNING"}


def test_a_header_that_claims_gigabytes_costs_what_the_file_holds(tmp_path: Path) -> None:
    form = (b"fmt ", 16, 1, 64, 48000, 64 * 96000, 128, 16)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**31, b"WAVE", *form, b"data", 2**31)
    (tmp_path / "claim.wav").write_bytes(head + bytes(1280))
    decoder = IsolatedDecoder(str(tmp_path / "claim.wav"), decode=DecodeConfig(memory_gb=1.0))
    assert [block.shape for block in decoder] == [(64, 10)]
    (child,) = children()
    assert child.memory_info().rss < 300 << 20
    decoder.close()


def test_headers_are_read_ahead_in_order_and_a_death_costs_none_of_them(recordings: Path) -> None:
    paths = [str(recordings / name) for name in NAMES] * 8
    found = []
    with Prober() as prober:
        for number, path in enumerate(prober.prefetch(paths, str)):
            found.append(prober.result(path))
            if number == 5:
                (child,) = children()
                child.kill()
    assert found == [probe_here(path) for path in paths]


def test_a_header_that_kills_twice_costs_itself(recordings: Path) -> None:
    """Killed by hand at the second of three files that are read ahead."""
    first, second, third = (str(recordings / name) for name in NAMES)
    with Prober() as prober:
        prober.request(first)
        assert prober.result(first) == probe_here(first)
        (child,) = children()
        child.suspend()
        prober.request(second)
        prober.request(third)
        child.kill()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(prober.result, second)
            until(lambda: len(children()) == 1 and children()[0].pid != child.pid)
            children()[0].kill()
            with pytest.raises(DecoderDiedError, match=r"stereo8k\.flac.*twice: SIGKILL"):
                asked.result()
        assert prober.result(third) == probe_here(third)


def test_no_header_is_read_of_names_that_nobody_asks_for(tmp_path: Path) -> None:
    with Prober() as prober:
        assert list(prober.prefetch(map(str, range(100)), str)) == [str(number) for number in range(100)]
    assert children() == []


def test_what_ends_the_names_is_raised_after_those_before_it(conversation: Path) -> None:
    def names() -> Iterator[str]:
        yield from [str(conversation)] * 20
        raise KeyError("no more")

    passed = []

    def read(prober: Prober) -> None:
        for name in prober.prefetch(names(), str):
            passed.append(prober.result(name))

    with Prober() as prober, pytest.raises(KeyError, match="no more"):
        read(prober)
    assert passed == [probe_here(str(conversation))] * 20

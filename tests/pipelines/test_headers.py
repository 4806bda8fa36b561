"""Headers that declare less or more sound than the file holds, in every format that says how many bytes follow."""

import contextlib
import hashlib
import io
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.audio.decode import Decoder
from pipelines.audio.headers import find_sound
from pipelines.audio.probe import probe
from runtime.errors import UnreadableAudioError

RATE = 16000
SOUND = np.random.default_rng(0).integers(-20000, 20000, 10 * RATE, dtype=np.int16)
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "ULAW"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
}
every_format = pytest.mark.parametrize("kind", FORMATS)


def bytes_of(kind: str) -> bytes:
    """Ten seconds of sound, with nothing after them."""
    file = io.BytesIO()
    name, subtype = FORMATS[kind]
    soundfile.write(file, SOUND, RATE, format=name, subtype=subtype)
    data = find_sound(file, file.tell())
    assert data is not None
    return file.getvalue()[: data.end]


def declaring(whole: bytes, seconds: float | None) -> bytes:
    """The same file with another size of its sound in the header; without one, the largest that it can hold."""
    data = find_sound(io.BytesIO(whole), len(whole))
    assert data is not None
    field = data.fields[0]
    size = 1 << 80 if seconds is None else round(seconds * data.size / 10) - (field.extra if seconds == 0 else 0)
    packed = field.pack(size)
    return whole[: field.offset] + packed + whole[field.offset + len(packed) :]


def decoded(path: Path) -> tuple[Decoder, np.ndarray]:
    decoder = Decoder(str(path))
    samples = np.concatenate(list(decoder), axis=1)
    decoder.close()
    return decoder, samples[0]


def written(tmp_path: Path, data: bytes, kind: str = "wav") -> Path:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data)
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


@every_format
def test_sound_beyond_the_declared_end_is_read_and_told(tmp_path: Path, kind: str) -> None:
    whole = bytes_of(kind)
    _, expected = decoded(written(tmp_path, whole, kind))
    path = written(tmp_path, declaring(whole, 4), kind)
    decoder, samples = decoded(path)
    np.testing.assert_array_equal(samples, expected)
    assert decoder.decode_errors == 1
    assert decoder.decode_error == "its header declares 4.00 s of sound, 6.000 s more follow"
    assert decoder.missing_s == pytest.approx(0)
    assert probe(str(path))["claimed_duration_s"] == 10


@every_format
@pytest.mark.parametrize("seconds", [0, None])
def test_a_header_that_was_never_finished_is_read_to_the_end(tmp_path: Path, kind: str, seconds: float | None) -> None:
    whole = bytes_of(kind)
    _, expected = decoded(written(tmp_path, whole, kind))
    path = written(tmp_path, declaring(whole, seconds), kind)
    decoder, samples = decoded(path)
    np.testing.assert_array_equal(samples, expected)
    assert (decoder.decode_errors, decoder.decode_error) == (0, None)
    assert probe(str(path))["claimed_duration_s"] == 10


@every_format
def test_a_file_that_was_cut_tells_how_much_is_missing(tmp_path: Path, kind: str) -> None:
    whole = bytes_of(kind)
    decoder, samples = decoded(written(tmp_path, declaring(whole, 25), kind))
    assert len(samples) == 10 * RATE
    assert decoder.decode_error == "sound is missing at 10.00 s; 15.000 s missing in all"
    assert decoder.missing_s == pytest.approx(15)


@every_format
def test_zeros_after_the_sound_are_padding_and_cost_no_time(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, bytes_of(kind), kind)
    os.truncate(path, 60_000_000)
    begun = time.monotonic()
    assert probe(str(path))["claimed_duration_s"] == 10
    decoder, samples = decoded(path)
    assert time.monotonic() - begun < 20
    assert (len(samples), decoder.decode_errors) == (10 * RATE, 0)


TAIL = chunk(b"LIST", b"INFOIART" + struct.pack("<I", 4) + b"abcd")


@pytest.mark.parametrize(
    "tail",
    [
        TAIL,
        chunk(b"id3 ", b"ID3\3\0\0\0\0\0\x10" + b"a" * 16) + chunk(b"bext", b"q" * 603),
        chunk(b"abcd", b"of no known name"),
        chunk(b"data", bytes(1000)),
        TAIL + bytes(5000),
        TAIL[:-10],
        chunk(b"LIST", b"INFO" + b"x" * 1001)[:-1],
        b"TAG" + b"a" * 125,
        b"ID3\3\0\0\0\0\x10\0" + b"\xfb" * 2000,
        bytes(4096),
        np.random.default_rng(1).bytes(100),
        b"JUNK\0\0\0\0" * 300_000,
    ],
    ids=["LIST", "id3+bext", "unknown", "data", "LIST+zeros", "cut", "unpadded", "TAG", "ID3", "zeros", "few", "many"],
)
def test_what_follows_the_sound_is_not_heard(tmp_path: Path, tail: bytes) -> None:
    begun = time.monotonic()
    decoder, samples = decoded(written(tmp_path, bytes_of("wav") + tail))
    assert time.monotonic() - begun < 10
    np.testing.assert_array_equal(samples * 32768, SOUND)
    assert (decoder.decode_errors, decoder.decode_error) == (0, None)


def test_chunks_behind_a_size_that_is_too_small_are_not_heard(tmp_path: Path) -> None:
    decoder, samples = decoded(written(tmp_path, declaring(bytes_of("wav"), 4) + TAIL))
    np.testing.assert_array_equal(samples * 32768, SOUND)
    assert decoder.decode_errors == 1
    decoder, samples = decoded(written(tmp_path, declaring(bytes_of("wav"), 0) + TAIL))
    np.testing.assert_array_equal(samples * 32768, SOUND)
    assert decoder.decode_errors == 0


def test_a_wav_of_no_sound_is_not_filled_with_its_tags(tmp_path: Path) -> None:
    whole = bytes_of("wav")
    path = written(tmp_path, declaring(whole, 0)[: -2 * len(SOUND)] + TAIL)
    with pytest.raises(UnreadableAudioError, match="not one sample"):
        decoded(path)


@pytest.mark.parametrize("tail", [b"", TAIL])
def test_a_size_that_wrapped_at_4_gib_is_mended(tmp_path: Path, tail: bytes) -> None:
    whole = bytes_of("wav")
    size = (1 << 32) + 5 * 2 * RATE
    path = written(tmp_path, declaring(whole, 5))
    os.truncate(path, len(whole) - 2 * len(SOUND) + size)
    with path.open("ab") as file:
        file.write(tail)
    assert probe(str(path))["claimed_duration_s"] == size / 2 / RATE
    decoder = Decoder(str(path))
    assert decoder.decode_error == "its header declares 5.00 s of sound, 134217.728 s more follow"
    np.testing.assert_array_equal(next(iter(decoder))[0, : len(SOUND)] * 32768, SOUND)
    decoder.close()


@pytest.mark.parametrize("kept", [36, 60, 1000])
@every_format
def test_a_recorder_that_lost_power_costs_seconds(tmp_path: Path, kind: str, kept: int) -> None:
    path = written(tmp_path, bytes_of(kind)[:kept], kind)
    os.truncate(path, 20_000_000)
    begun = time.monotonic()
    with contextlib.suppress(UnreadableAudioError):  # of some nothing but the beginning of a header is left
        assert len(decoded(path)[1]) <= 20_000_000
    assert time.monotonic() - begun < 20


def test_a_big_endian_wav_is_refused_since_ffmpeg_reads_noise(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", SOUND, RATE, subtype="PCM_16", endian="BIG")
    with pytest.raises(UnreadableAudioError, match=r"x\.wav.*big-endian"):
        probe(str(tmp_path / "x.wav"))


def test_the_hash_is_that_of_the_bytes_on_disk_and_not_of_the_corrected_ones(tmp_path: Path) -> None:
    path = written(tmp_path, declaring(bytes_of("wav"), 4) + TAIL)
    decoder = Decoder(str(path))
    assert sum(block.shape[1] for block in decoder) == len(SOUND)
    decoder.verify_sha256(hashlib.sha256(path.read_bytes()).hexdigest())
    decoder.close()


def test_a_claim_of_ages_is_counted_by_the_bytes_that_follow(tmp_path: Path) -> None:
    whole = bytes_of("rf64")
    field = find_sound(io.BytesIO(whole), len(whole)).fields[0]
    path = written(tmp_path, whole[: field.offset] + struct.pack("<Q", 1 << 62) + whole[field.offset + 8 :])
    assert probe(str(path))["claimed_duration_s"] == 10

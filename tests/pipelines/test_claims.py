"""Lengths that headers claim, beside lengths that FFmpeg only estimates."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from sounds import write_coded

from pipelines.audio.claims import mp3_duration_s
from pipelines.audio.probe import probe


@pytest.fixture(scope="module")
def uneven(conversation: Path) -> np.ndarray:
    """20 s of silence, then 30 s of speech at 16 kHz: what a bit rate taken from the beginning tells falsely."""
    speech = soundfile.read(conversation, dtype="float32")[0]
    return np.concatenate([np.zeros(320000, np.float32), speech])[None]


def claimed_s(path: Path) -> float | None:
    return probe(str(path))["claimed_duration_s"]


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "options"),
    [
        ("aac", "aac", 16000, {}),
        ("mp3", "libmp3lame", 16000, {"write_xing": "0"}),
        ("mp2", "mp2", 16000, {}),
        ("ac3", "ac3", 48000, {}),
        ("eac3", "eac3", 48000, {}),
        ("amr", "libopencore_amrnb", 8000, {}),
        ("ts", "aac", 16000, {}),
    ],
)
def test_an_estimated_length_is_no_claim(
    tmp_path: Path, uneven: np.ndarray, suffix: str, codec: str, rate: int, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no encoder {codec}")
    write_coded(tmp_path / f"x.{suffix}", uneven, rate, codec, options)
    assert claimed_s(tmp_path / f"x.{suffix}") is None


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [
        ("mp3", "libmp3lame", 44100),
        ("mp3", "libmp3lame", 16000),
        ("m4a", "aac", 16000),
        ("mov", "pcm_s16be", 16000),
        ("mkv", "aac", 16000),
        ("webm", "libopus", 48000),
        ("opus", "libopus", 48000),
        ("wma", "wmav2", 16000),
        ("flv", "aac", 44100),
        ("avi", "libmp3lame", 16000),
        ("wv", "wavpack", 16000),
        ("wav", "pcm_s16le", 16000),
        ("caf", "alac", 16000),
    ],
)
def test_a_length_that_the_file_holds_is_a_claim(
    tmp_path: Path, uneven: np.ndarray, suffix: str, codec: str, rate: int
) -> None:
    write_coded(tmp_path / f"x.{suffix}", uneven, rate, codec)
    assert claimed_s(tmp_path / f"x.{suffix}") == pytest.approx(uneven.shape[1] / rate, abs=0.2)


def test_a_live_recording_without_a_length_claims_none(tmp_path: Path, uneven: np.ndarray) -> None:
    for name, codec in (("x.webm", "libopus"), ("x.mkv", "pcm_s16le"), ("y.mkv", "libmp3lame")):
        write_coded(tmp_path / name, uneven, 48000, codec, {"live": "1"})
        assert claimed_s(tmp_path / name) is None


@pytest.mark.parametrize("rates", [(16000, 16000), (44100, 44100)])
def test_chained_ogg_claims_no_length_that_is_too_long(tmp_path: Path, uneven: np.ndarray, rates: tuple[int]) -> None:
    whole, lengths = b"", 0.0
    for number, rate in enumerate(rates):
        soundfile.write(tmp_path / f"{number}.ogg", np.resize(uneven[0], (number + 1) * 10 * rate), rate)
        whole += (tmp_path / f"{number}.ogg").read_bytes()
        assert claimed_s(tmp_path / f"{number}.ogg") == pytest.approx((number + 1) * 10)
        lengths += (number + 1) * 10
    (tmp_path / "chained.ogg").write_bytes(whole)
    assert (claimed_s(tmp_path / "chained.ogg") or 0.0) <= lengths


def test_joined_mp3_claims_no_length(tmp_path: Path, uneven: np.ndarray) -> None:
    write_coded(tmp_path / "a.mp3", uneven, 16000, "libmp3lame")
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "b.mp3").write_bytes(data + data)
    with (tmp_path / "a.mp3").open("rb") as file:
        assert mp3_duration_s(file) == pytest.approx(uneven.shape[1] / 16000, abs=0.2)
    assert claimed_s(tmp_path / "b.mp3") is None


def test_a_cover_before_an_mp3_does_not_hide_its_length(tmp_path: Path, uneven: np.ndarray) -> None:
    write_coded(tmp_path / "a.mp3", uneven, 16000, "libmp3lame", {"id3v2_version": "0"})
    cover = b"APIC" + (1 << 20).to_bytes(4, "big") + b"\0\0" + bytes(1 << 20)
    size = bytes((len(cover) >> shift) & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "b.mp3").write_bytes(b"ID3\3\0\0" + size + cover + (tmp_path / "a.mp3").read_bytes())
    assert claimed_s(tmp_path / "b.mp3") == claimed_s(tmp_path / "a.mp3")


def test_a_claim_beyond_what_the_bytes_can_hold_is_none(tmp_path: Path, uneven: np.ndarray) -> None:
    write_coded(tmp_path / "x.wv", uneven, 16000, "wavpack")
    data = bytearray((tmp_path / "x.wv").read_bytes())
    data[12:16] = (0xFFFFFF00).to_bytes(4, "little")
    (tmp_path / "x.wv").write_bytes(data[:20000])
    assert (claimed_s(tmp_path / "x.wv") or 0.0) <= 20001
    write_coded(tmp_path / "x.mkv", uneven, 16000, "flac")
    data = (tmp_path / "x.mkv").read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    for claim_s in (1e5, 1e9, 1e16):
        (tmp_path / "x.mkv").write_bytes(data[:at] + struct.pack(">d", claim_s * 1e3) + data[at + 8 :])
        claimed = claimed_s(tmp_path / "x.mkv")
        assert claimed is None or claimed == claim_s <= len(data)

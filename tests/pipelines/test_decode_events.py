"""What happens inside a recording: changes of format, gaps, jumps of the clock, late and several streams of sound."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import write_coded

from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.decode import Decoder
from pipelines.audio.probe import probe
from pipelines.audio.sound import TrackStream, decode_sound
from runtime.errors import UnreadableAudioError

FILL = DecodeConfig(fill_gaps=True)


@pytest.fixture(scope="module")
def speech(conversation: Path) -> np.ndarray:
    """30 s at 16 kHz, (1, samples)."""
    return soundfile.read(conversation, dtype="float32")[0][None]


def decoded(path: Path, decode: DecodeConfig = DECODE) -> tuple[Decoder, np.ndarray]:
    decoder = Decoder(str(path), decode=decode)
    samples = np.concatenate(list(decoder), axis=1)
    decoder.close()
    return decoder, samples


def joined(tmp_path: Path, speech: np.ndarray, suffix: str, codec: str, *forms: tuple[int, int]) -> Path:
    """Ten seconds in each (rate, channels), one file after the other."""
    whole = tmp_path / f"joined.{suffix}"
    with whole.open("wb") as file:
        for number, (rate, channels) in enumerate(forms):
            part = np.resize(speech[:, number * 160000 :], (1, 10 * rate)).repeat(channels, axis=0)
            write_coded(tmp_path / f"{number}.{suffix}", part, rate, codec, start_s=10.0 * number)
            file.write((tmp_path / f"{number}.{suffix}").read_bytes())
    return whole


@pytest.mark.parametrize(
    ("suffix", "codec", "first", "second"),
    [
        ("mp3", "libmp3lame", (44100, 2), (44100, 1)),
        ("mp3", "libmp3lame", (48000, 1), (44100, 1)),
        ("ac3", "ac3", (48000, 1), (44100, 2)),
        ("aac", "aac", (16000, 1), (44100, 2)),
        ("ts", "aac", (44100, 2), (16000, 1)),
    ],
)
def test_a_change_of_format_is_decoded_on_in_the_first_one_and_told(
    tmp_path: Path, speech: np.ndarray, suffix: str, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    path = joined(tmp_path, speech, suffix, codec, first, second)
    decoder, samples = decoded(path)
    assert (decoder.sample_rate, decoder.channels) == first
    assert samples.shape[1] / decoder.sample_rate == pytest.approx(20, abs=0.3)
    assert decoder.format_changes >= 1
    assert decoder.format_change
    assert decoder.format_change.startswith(f"from {first[0]} Hz x {first[1]} to ")
    assert " at 10." in decoder.format_change
    assert decoder.missing_s < 0.1
    assert samples[:, -9 * first[0] :].std(axis=1).min() > 0.3 * samples[:, : 9 * first[0]].std()
    np.testing.assert_array_equal(decoded(path)[1], samples)


def test_a_recording_of_one_format_tells_of_no_change(conversation: Path) -> None:
    with decode_sound(str(conversation), "x") as sound:
        assert (sound.signal["format_changes"], sound.signal["format_change"]) == (0, None)
        assert (sound.signal["missing_s"], sound.signal["filled_s"]) == (0, None)


GAPS = ((4.0, 6.0), (10.0, 17.0), (20.0, 20.5))


def test_gaps_of_packets_that_were_not_sent_are_filled_only_on_request(tmp_path: Path, speech: np.ndarray) -> None:
    path, whole = tmp_path / "gaps.mkv", tmp_path / "whole.mkv"
    write_coded(whole, speech, 16000, "flac")
    write_coded(path, speech, 16000, "flac", left_out=GAPS)
    decoder, samples = decoded(path)
    lost_s = 30 - samples.shape[1] / 16000
    assert lost_s == pytest.approx(9.5, abs=1)
    assert decoder.decode_errors == 3
    assert decoder.missing_s == pytest.approx(lost_s, abs=0.002)
    assert decoder.filled_s == 0
    filling, filled = decoded(path, FILL)
    assert filled.shape[1] == pytest.approx(30 * 16000, abs=32)
    assert filling.filled_s == pytest.approx(lost_s, abs=0.002)
    assert filling.missing_s == pytest.approx(0, abs=0.002)
    assert f", {filling.filled_s:.3f} s of it filled with silence" in (filling.decode_error or "")
    expected = decoded(whole)[1]
    last = slice(22 * 16000, 29 * 16000)
    offsets = [np.abs(filled[:, last.start + k : last.stop + k] - expected[:, last]).max() for k in range(-16, 17)]
    assert min(offsets) == 0  # what comes after the gaps stands where it stood, but for the rounding of times
    assert not filled[:, 12 * 16000 : 16 * 16000].any()


def test_what_is_encoded_is_filled_as_it_was_when_it_was_annotated(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "gaps.mkv"
    write_coded(path, speech, 16000, "flac", left_out=GAPS)
    for decode in (DecodeConfig(), FILL):
        with decode_sound(str(path), "x", decode=decode) as sound:
            again = np.concatenate(list(TrackStream(str(path), 16000, sound.signal)), axis=1)
            np.testing.assert_array_equal(again, sound.read())


def test_a_track_that_starts_late_is_aligned_with_its_container_on_request(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "late.mp4"
    write_coded(path, speech[:, :160000], 16000, "aac", start_s=5.0, video_s=15)
    assert decoded(path)[1].shape[1] / 16000 == pytest.approx(10, abs=0.2)
    decoder, samples = decoded(path, FILL)
    assert samples.shape[1] / 16000 == pytest.approx(15, abs=0.2)
    assert not samples[:, : 4 * 16000].any()
    assert decoder.filled_s == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("start_s", [4000.0, 40000.0])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_jump_of_the_clock_is_no_missing_sound(
    tmp_path: Path, speech: np.ndarray, start_s: float, backwards: bool
) -> None:
    write_coded(tmp_path / "a.ts", speech[:, :160000], 16000, "aac")
    write_coded(tmp_path / "b.ts", speech[:, 160000:320000], 16000, "aac", start_s=start_s)
    parts = [(tmp_path / name).read_bytes() for name in ("a.ts", "b.ts")]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts[::-1] if backwards else parts))
    for decode in (DecodeConfig(), FILL):
        decoder, samples = decoded(path, decode)
        assert samples.shape[1] / 16000 == pytest.approx(20, abs=0.3)
        assert decoder.decode_errors == 1
        assert "clock jumps by " in (decoder.decode_error or "")
        assert "missing" not in (decoder.decode_error or "")
        assert decoder.missing_s == pytest.approx(0, abs=0.01)
    assert probe(str(path))["claimed_duration_s"] is None


@pytest.mark.parametrize(("codec", "rate"), [("aac", 16000), ("ac3", 48000), ("mp2", 16000)])
@pytest.mark.parametrize("start_s", [3.0, 12.5, 60.0])
def test_sound_that_begins_late_in_a_transport_stream_is_found(
    tmp_path: Path, speech: np.ndarray, codec: str, rate: int, start_s: float
) -> None:
    path = tmp_path / "late.ts"
    write_coded(path, np.resize(speech, (1, 5 * rate)), rate, codec, start_s=start_s, video_s=round(start_s) + 5)
    claims = probe(str(path))
    assert (claims["sample_rate"], claims["channels"]) == (rate, 1)
    decoder, samples = decoded(path)
    assert samples.shape[1] / rate == pytest.approx(5, abs=0.2)
    assert decoder.decode_errors == 0


def test_the_streams_of_a_file_are_counted_and_each_can_be_decoded(tmp_path: Path, speech: np.ndarray) -> None:
    for name, codec in (("x.mkv", "flac"), ("x.mp4", "aac"), ("x.ts", "mp2")):
        path = tmp_path / name
        write_coded(path, speech, 16000, codec, streams=3)
        assert probe(str(path))["audio_streams"] == 3
        lengths = {sum(block.shape[1] for block in Decoder(str(path), stream=number)) for number in range(3)}
        assert len(lengths) == 1
        with pytest.raises(UnreadableAudioError, match=f"{name}.*3 audio streams"):
            Decoder(str(path), stream=3)


def test_windows_media_without_damage_has_no_error(tmp_path: Path, speech: np.ndarray) -> None:
    for codec in ("wmav1", "wmav2"):
        write_coded(tmp_path / "x.wma", speech, 16000, codec)
        decoder, samples = decoded(tmp_path / "x.wma")
        assert (decoder.decode_errors, decoder.decode_error) == (0, None)
        assert samples.shape[1] / 16000 == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_vorbis_without_damage_has_no_error(tmp_path: Path, speech: np.ndarray, rate: int) -> None:
    sound = np.resize(speech[0], 20 * rate)
    soundfile.write(tmp_path / "x.ogg", np.stack([sound, sound], axis=1), rate)
    decoder, samples = decoded(tmp_path / "x.ogg")
    assert (decoder.decode_errors, decoder.decode_error) == (0, None)
    assert samples.shape[1] == 20 * rate


def test_sound_that_breaks_off_misses_an_unknown_length(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "chained.ogg"
    with path.open("wb") as file:
        for rate, channels in ((16000, 1), (44100, 2)):
            soundfile.write(tmp_path / "part.ogg", np.resize(speech[0], 10 * rate)[:, None].repeat(channels, 1), rate)
            file.write((tmp_path / "part.ogg").read_bytes())
    with decode_sound(str(path), "x") as sound:
        assert sound.signal["duration_s"] == 10
        assert sound.signal["decode_errors"] == 1
        assert "what follows does not decode" in sound.signal["decode_error"]
        assert sound.signal["missing_s"] is None


def wav(tag: int = 1, rate: int = 16000, bits: int = 16, channels: int = 1) -> bytes:
    width = channels * bits // 8
    fields = struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * width, width, bits)
    return b"RIFF" + struct.pack("<I", 32036) + b"WAVEfmt " + fields + b"data" + struct.pack("<I", 32000) + bytes(32000)


@pytest.mark.parametrize("data", [wav(tag=0xFFFE), wav(tag=0x7777), wav(bits=0), wav(tag=0xFFFE, bits=0)])
def test_an_unknown_codec_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(UnreadableAudioError, match=r"x\.wav"):
        probe(str(tmp_path / "x.wav"))


@pytest.mark.parametrize("rate", [1, 2, 4, 7, 50, 500, 2000, 3999])
def test_a_rate_too_low_for_speech_is_refused(tmp_path: Path, rate: int) -> None:
    (tmp_path / "x.wav").write_bytes(wav(rate=rate))
    for read in (probe, lambda path: decode_sound(path, "x")):
        with pytest.raises(UnreadableAudioError, match=rf"x\.wav.* {rate} Hz .*4000 to 768000 Hz"):
            read(str(tmp_path / "x.wav"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [4000, 6000, 11025, 768000])
def test_every_rate_that_is_read_is_measured(tmp_path: Path, rate: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate)
    soundfile.write(tmp_path / "x.wav", noise, rate)
    with decode_sound(str(tmp_path / "x.wav"), "x") as sound:
        assert np.isfinite(sound.signal["loudness_lufs"])
        assert sound.num_samples == 32000

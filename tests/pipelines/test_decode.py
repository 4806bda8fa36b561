"""Probing and decoding of real files, and of files that lie or are broken."""

import csv
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipelines.audio.decode import Decoder
from pipelines.audio.probe import probe
from pipelines.audio.resample import rechunk, resampled
from runtime.errors import UnreadableAudioError

RNG = np.random.default_rng(0)


def decode(path: Path) -> tuple[Decoder, np.ndarray]:
    decoder = Decoder(str(path))
    return decoder, np.concatenate(list(decoder), axis=1)


@pytest.mark.recordings
def test_every_real_recording_decodes_to_what_its_index_says(recordings: Path) -> None:
    with (recordings / "index.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) > 80
    for row in rows:
        path = recordings / row["path"]
        if row["rate"] == "?":
            with pytest.raises(UnreadableAudioError, match="finds no sound"):
                probe(str(path))
            continue
        claims = probe(str(path))
        decoder = Decoder(str(path))
        num_samples = sum(block.shape[1] for block in decoder)
        assert (decoder.sample_rate, decoder.channels) == (int(row["rate"]), int(row["channels"])), path
        assert claims["sample_rate"] == decoder.sample_rate
        assert num_samples / decoder.sample_rate == pytest.approx(float(row["seconds"]), abs=0.05), path
        assert decoder.decode_errors == 0, path


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_samples_are_those_of_libsndfile(tmp_path: Path, subtype: str, channels: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, RNG.uniform(-1, 1, (5000, channels)), 16000, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    decoder, samples = decode(path)
    assert decoder.channels == channels
    np.testing.assert_array_equal(samples, expected.T)


@pytest.mark.parametrize(
    ("kind", "subtype", "bits"),
    [
        ("wav", "PCM_U8", 8),
        ("wav", "PCM_16", 16),
        ("wav", "PCM_24", 24),
        ("wav", "ULAW", 8),
        ("au", "ALAW", 8),
        ("wav", "DOUBLE", 64),
        ("wav", "IMA_ADPCM", None),
        ("flac", "PCM_S8", 8),
        ("flac", "PCM_16", 16),
        ("flac", "PCM_24", 24),
        ("caf", "ALAC_20", 20),
        ("mp3", "MPEG_LAYER_III", None),
    ],
)
def test_the_bit_depth_is_that_of_the_file_and_not_of_the_decoder(
    tmp_path: Path, kind: str, subtype: str, bits: int | None
) -> None:
    soundfile.write(tmp_path / f"x.{kind}", np.zeros(1000), 16000, subtype=subtype)
    assert probe(str(tmp_path / f"x.{kind}"))["bit_depth"] == bits


@pytest.mark.parametrize("rate", [8000, 44100, 384000])
def test_wav_and_flac_of_the_same_sound_decode_alike(tmp_path: Path, rate: int) -> None:
    sound = RNG.integers(-(2**15), 2**15, (3000, 2), dtype=np.int16)  # libsndfile rounds floats unlike in each
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype="PCM_16")
    soundfile.write(tmp_path / "x.flac", sound, rate, subtype="PCM_16")
    np.testing.assert_array_equal(decode(tmp_path / "x.wav")[1], decode(tmp_path / "x.flac")[1])


@pytest.mark.parametrize("name", ["-i.wav", "ü 日本.wav", "a\nb.wav", "concat:x|y.wav", "%03d.wav", "x" * 240 + ".wav"])
def test_odd_names_are_only_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(name, np.zeros(1), 16000)
    assert probe(name)["claimed_duration_s"] == 1 / 16000
    assert decode(Path(name))[1].shape == (1, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "empty"), (b"hello, this is text\n" * 50, "finds no sound"), (b"RIFF\xff\xff\xff\xffWAVE", "x.mp3")],
)
def test_what_is_no_sound_is_named_with_a_remedy(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.mp3"
    path.write_bytes(data)
    with pytest.raises(UnreadableAudioError, match=message) as caught:
        decode(path)
    assert "x.mp3" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(10), 16000)
    path.chmod(0)
    with pytest.raises(UnreadableAudioError, match="no permission"):
        probe(str(path))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UnreadableAudioError, match="no such file"):
        probe("nowhere.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_samples_that_are_not_finite_are_refused_where_they_stand(tmp_path: Path, bad: float) -> None:
    sound = np.zeros(9000)
    sound[7000] = bad
    soundfile.write(tmp_path / "x.wav", sound, 16000, subtype="DOUBLE")
    sound[8000:] = bad
    soundfile.write(tmp_path / "y.wav", sound, 16000, subtype="DOUBLE")
    with pytest.raises(UnreadableAudioError, match="1 of 9000 samples are not finite, the first is sample 7000"):
        decode(tmp_path / "x.wav")
    with pytest.raises(UnreadableAudioError, match="1001 of 9000 samples are not finite, the first is sample 7000"):
        list(Decoder(str(tmp_path / "y.wav"), block_samples=100))


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (4_000_000_000, 1), (16000, 0), (16000, 65535)])
def test_absurd_headers_are_refused(tmp_path: Path, rate: int, channels: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(1000), 16000)
    data = bytearray(path.read_bytes())
    data[22:24] = channels.to_bytes(2, "little")
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableAudioError, match=r"x\.wav"):
        decode(path)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_file_cut_anywhere_gives_its_beginning_or_a_named_error(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"whole.{kind}"
    soundfile.write(whole, RNG.uniform(-0.5, 0.5, 32000), 16000)
    data = whole.read_bytes()
    samples = decode(whole)[1]
    lengths = []
    for cut in np.linspace(0, len(data) - 1, 25).astype(int):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(data[:cut])
        try:
            part = decode(path)[1]
        except UnreadableAudioError as error:
            part = np.zeros((1, 0))
            named = f"cut.{kind}" in str(error)
        else:
            named = True
        assert named
        assert part.shape[1] <= samples.shape[1]
        lengths.append(part.shape[1])
    assert lengths[0] == 0
    assert lengths[-1] > 0.8 * samples.shape[1]
    assert lengths == sorted(lengths)


def encoded(path: Path, seconds: int = 4) -> list[tuple[int, int]]:
    """Write a noisy tone; returns position and size of every packet."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(seconds * 16000) / 16000)
    sound = tone + RNG.uniform(-0.1, 0.1, seconds * 16000)
    if path.suffix in (".flac", ".mp3", ".ogg"):
        soundfile.write(path, sound, 16000)
    else:
        codec = {".wv": "wavpack", ".tta": "tta"}[path.suffix]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(
                codec, rate=16000, layout="mono", format="s16p" if codec == "wavpack" else "s16"
            )
            fifo = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], stream.format.name, "mono")
            frame.sample_rate, frame.pts = 16000, 0
            fifo.write(frame)
            while frame := fifo.read(stream.codec_context.frame_size or 4096, partial=True):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux() if packet.size]


def damaged(path: Path, start: int, length: int) -> tuple[Decoder, np.ndarray]:
    """Decode a copy in which bytes from `start` on are drawn anew."""
    data = bytearray(path.read_bytes())
    data[start : start + length] = RNG.bytes(len(data[start : start + length]))
    copy = path.with_name(f"damaged{path.suffix}")
    copy.write_bytes(data)
    return decode(copy)


@pytest.mark.parametrize("kind", ["flac", "wv", "tta"])
def test_each_damaged_frame_of_a_lossless_file_is_counted_and_never_heard(tmp_path: Path, kind: str) -> None:
    packets = encoded(tmp_path / f"x.{kind}", seconds=4 if kind == "flac" else 12)
    decoder, whole = decode(tmp_path / f"x.{kind}")
    assert (decoder.decode_errors, decoder.decode_error) == (0, None)
    for start, size in packets:
        decoder, samples = damaged(tmp_path / f"x.{kind}", start + size // 2, 8)
        lost = whole.shape[1] - samples.shape[1]
        assert lost > 0
        assert decoder.decode_errors >= 1
        kept = int(np.argmin(np.append(samples[0] == whole[0, : -lost or None], False)))
        np.testing.assert_array_equal(samples[0, kept:], whole[0, kept + lost :])
        place = re.search(r" at (\d+\.\d\d) s", decoder.decode_error or "")
        assert place
        assert float(place[1]) == pytest.approx(kept / 16000, abs=0.8)  # FFmpeg may join 3 frames of FLAC to a bad one
        if kind == "flac" or kept < samples.shape[1]:  # of the last frame only FLAC's header tells how long it was
            assert f"; {lost / 16000:.3f} s missing in all" in decoder.decode_error


def test_a_dropped_page_of_ogg_is_counted_by_the_gap_it_leaves(tmp_path: Path) -> None:
    packets = encoded(tmp_path / "x.ogg", seconds=10)
    whole = decode(tmp_path / "x.ogg")[1]
    decoder, samples = damaged(tmp_path / "x.ogg", packets[len(packets) // 2][0] + 100, 1)
    lost_s = (whole.shape[1] - samples.shape[1]) / 16000
    assert lost_s > 0.1
    assert decoder.decode_errors == 1
    assert decoder.decode_error
    assert decoder.decode_error.startswith("sound is missing at ")
    assert f"; {lost_s:.3f} s missing in all" in decoder.decode_error


def test_a_corrupt_middle_of_an_mp3_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    packets = encoded(tmp_path / "x.mp3", seconds=10)
    start, size = packets[len(packets) // 2]
    decoder, samples = damaged(tmp_path / "x.mp3", start, 3 * size)
    assert decoder.decode_errors > 0
    assert decoder.decode_error
    assert " s missing in all" in decoder.decode_error
    assert 9 * 16000 < samples.shape[1] < 10 * 16000


def test_a_video_without_sound_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableAudioError, match="no audio stream"):
        probe(str(path))


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 40))
def test_rechunking_keeps_every_sample_in_order(sizes: list[int], block_samples: int) -> None:
    sound = np.arange(sum(sizes), dtype=np.float32)[None]
    blocks = list(rechunk(iter(np.split(sound, np.cumsum(sizes)[:-1], axis=1)) if sizes else [], block_samples))
    assert all(block.shape[1] == block_samples for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate([*blocks, sound[:, :0]], axis=1), sound)


@pytest.mark.parametrize(("rate_in", "rate_out"), [(8000, 16000), (16000, 24000), (44100, 16000), (48000, 24000)])
def test_resampling_does_not_depend_on_the_blocks_and_keeps_the_length(rate_in: int, rate_out: int) -> None:
    sound = RNG.uniform(-1, 1, (2, 200_001)).astype(np.float32)
    whole = np.concatenate(list(resampled([sound], rate_in, rate_out)), axis=1)
    pieces = np.split(sound, np.sort(RNG.integers(0, sound.shape[1], 30)), axis=1)
    np.testing.assert_array_equal(np.concatenate(list(resampled(pieces, rate_in, rate_out)), axis=1), whole)
    assert whole.shape == (2, round(200_001 * rate_out / rate_in))


@pytest.mark.parametrize("rate_in", [8000, 44100])
def test_a_tone_keeps_its_frequency_level_and_phase(rate_in: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate_in * 2) / rate_in).astype(np.float32)[None]
    out = np.concatenate(list(resampled([tone], rate_in, 16000)), axis=1)[0]
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(out)) / 16000)
    assert np.abs(out - expected)[1000:-1000].max() < 1e-3


def test_a_playlist_opens_no_other_file_and_a_name_is_no_format(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", np.zeros(1000), 16000)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    (tmp_path / "x.m3u8").write_text(playlist)
    (tmp_path / "x.ul").write_bytes(RNG.bytes(5000))
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("x.m3u8", "x.ul", "pipe.wav"):
        with pytest.raises(UnreadableAudioError, match=name):
            decode(tmp_path / name)

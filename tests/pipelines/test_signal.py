"""Signal measures against libraries and constructed sounds, and the relation of channels on real recordings."""

import doctest
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipelines.audio import signal
from pipelines.audio.decode import Decoder
from pipelines.audio.signal import ChannelMeter, ClipCounter, RunCounter, SignalMeter
from pipelines.audio.sound import DecodedSound, TrackStream, decode_sound
from pipelines.stages.vad import Vad
from runtime.errors import UnreadableAudioError

RNG = np.random.default_rng(1)


def measured(sound: np.ndarray, rate: int = 16000, layout: str = "") -> dict:
    meter = SignalMeter(rate, sound.shape[0], layout)
    for block in np.array_split(sound.astype(np.float32), 7, axis=1):
        meter.push(block)
    return meter.finish()


def sound_of(tmp_path: Path, channels: np.ndarray, rate: int = 16000) -> DecodedSound:
    soundfile.write(tmp_path / "x.wav", channels.T, rate, subtype="FLOAT")
    return decode_sound(str(tmp_path / "x.wav"), "x")


@pytest.mark.recordings
@pytest.mark.parametrize(
    "name",
    ["pyannote_ami/trn03.flac", "google/multi.flac", "librosa/198-209-0000.ogg", "lca_calls/lca_40_stereo8k.flac"],
)
def test_loudness_is_pyloudnorms(recordings: Path, name: str) -> None:
    decoder = Decoder(str(recordings / name))
    sound = np.concatenate(list(decoder), axis=1)
    # BS.1770 leaves out an incomplete last block; pyloudnorm counts it as if it were whole.
    sound = sound[:, : sound.shape[1] // (decoder.sample_rate // 10) * (decoder.sample_rate // 10)]
    expected = pyloudnorm.Meter(decoder.sample_rate).integrated_loudness(sound.T.astype(np.float64))
    assert measured(sound, decoder.sample_rate)["loudness_lufs"] == pytest.approx(expected, abs=0.05)


def test_examples() -> None:
    outcome = doctest.testmod(signal)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("layout", "weights"),
    [
        ("5.1", [1, 1, 1, 0, 1.41, 1.41]),
        ("5.1(side)", [1, 1, 1, 0, 1.41, 1.41]),
        ("5.0", [1, 1, 1, 1.41, 1.41]),
        ("7.1", [1, 1, 1, 0, 1, 1, 1.41, 1.41]),
        ("6 channels", [1] * 6),
        ("quad", [1] * 4),
        ("stereo", [1, 1]),
    ],
)
def test_loudness_weighs_channels_by_what_they_are(layout: str, weights: list[float]) -> None:
    noise = RNG.normal(0, 0.05, 32000)
    alone = measured(noise[None])["loudness_lufs"]
    for place, weight in enumerate(weights):
        sound = np.zeros((len(weights), 32000))
        sound[place] = noise
        found = measured(sound, layout=layout)["loudness_lufs"]
        if weight == 0:
            assert found is None
        else:
            assert found == pytest.approx(alone + 10 * np.log10(weight), abs=1e-6)


def test_the_effects_channel_of_a_file_is_not_loud(tmp_path: Path) -> None:
    sound = RNG.normal(0, 0.01, (32000, 6))
    sound[:, 3] = 0.5 * np.sin(2 * np.pi * 60 * np.arange(32000) / 16000)
    for name, kind in (("x.wav", "WAVEX"), ("x.flac", "FLAC")):
        soundfile.write(tmp_path / name, sound, 16000, format=kind, subtype="PCM_16")
        with decode_sound(str(tmp_path / name), "x") as decoded:
            expected = measured(np.delete(sound, 3, axis=1).T, layout="5.0")["loudness_lufs"]
            assert decoded.signal["loudness_lufs"] == pytest.approx(expected, abs=0.01)


def test_levels_of_a_known_tone() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000) + 0.01
    row = measured(tone[None])
    assert row["peak_dbfs"] == pytest.approx(20 * np.log10(0.51), abs=0.01)
    assert row["rms_dbfs"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.02)
    assert row["dc_offset"] == pytest.approx(0.01, abs=1e-4)
    assert row["bandwidth_hz"] == pytest.approx(1000, abs=50)
    assert (row["clipped_share"], row["digital_silence_share"]) == (0, 0)


def test_an_offset_does_not_narrow_the_bandwidth() -> None:
    noise = RNG.normal(0, 0.01, 32000)
    assert measured((noise + 0.3)[None])["bandwidth_hz"] == pytest.approx(8000, abs=20)
    assert measured(noise[None])["bandwidth_hz"] == pytest.approx(8000, abs=20)


def test_clipping_and_digital_silence_are_shares_of_samples() -> None:
    sound = RNG.uniform(-0.5, 0.5, 10000)
    sound[1000:1100] = 1.0
    sound[3000] = -1.0
    sound[5000:6000] = 0.0
    row = measured(sound[None])
    assert row["clipped_share"] == pytest.approx(0.01)
    assert row["digital_silence_share"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("wav", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "ALAW")] + [("flac", "PCM_24")],
)
def test_every_format_clips_at_its_own_ceiling(tmp_path: Path, kind: str, subtype: str) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    shares = []
    for gain in (0.5, 1.0, 1.5):
        clipped = np.clip(gain * tone, -1, 1)
        soundfile.write(tmp_path / f"x.{kind}", clipped, 16000, subtype=subtype)
        with decode_sound(str(tmp_path / f"x.{kind}"), "x") as decoded:
            shares.append(decoded.signal["clipped_share"])
    assert shares[0] == 0
    if subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT"):
        assert shares[1] == 0  # a tone that just fits; in 8 bits its tops are flat
    assert shares[2] == pytest.approx(1 - 2 / np.pi * np.arcsin(1 / 1.5), abs=0.06)


def test_float_beyond_full_scale_is_clipped_and_a_low_ceiling_is_not() -> None:
    tone = np.sin(2 * np.pi * 110 * np.arange(16000) / 16000)[None]
    assert measured(1.5 * tone)["clipped_share"] == pytest.approx(1 - 2 / np.pi * np.arcsin(1 / 1.5), abs=0.02)
    assert measured(np.clip(tone, -0.6, 0.6))["clipped_share"] == 0
    assert measured(np.clip(tone, -0.98, 1))["clipped_share"] == pytest.approx(np.arccos(0.98) / np.pi, abs=0.02)


levels = st.sampled_from([-1.5, -1.0, -0.98, 0.0, 0.5, 0.97, 0.98, 0.99, 1.0, 1.25])


@given(st.lists(levels, max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_clipping_does_not_depend_on_the_blocks(values: list[float], cuts: list[int]) -> None:
    samples = np.array(values, np.float32)
    counter = ClipCounter()
    for block in np.split(samples, sorted(min(cut, len(values)) for cut in cuts)):
        counter.push(block)
    expected = 0
    for side in (samples.clip(max=1), (-samples).clip(max=1)):
        if side.max(initial=0) > 0.97:
            runs = "".join("x" if value == side.max() else " " for value in side).split()
            expected += sum(len(run) for run in runs if len(run) >= 3)
    assert counter.total() == expected


def test_silence_has_no_level() -> None:
    row = measured(np.zeros((1, 16000)))
    assert (row["loudness_lufs"], row["peak_dbfs"], row["rms_dbfs"], row["bandwidth_hz"]) == (None,) * 4
    assert row["digital_silence_share"] == 1


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.lists(st.integers(0, 60), max_size=5))
def test_runs_are_counted_over_block_edges(values: list[bool], shortest: int, cuts: list[int]) -> None:
    counter = RunCounter(shortest)
    for block in np.split(np.array(values, bool), sorted(min(cut, len(values)) for cut in cuts)):
        counter.push(block)
    runs = "".join("x" if value else " " for value in values).split()
    assert counter.total() == sum(len(run) for run in runs if len(run) >= shortest)


def test_the_same_samples_in_another_container_have_the_same_hash(tmp_path: Path) -> None:
    sound = RNG.integers(-(2**15), 2**15, (20000, 2), dtype=np.int16)
    hashes = set()
    for kind in ("wav", "flac", "aiff"):
        soundfile.write(tmp_path / f"x.{kind}", sound, 44100, subtype="PCM_16")
        with decode_sound(str(tmp_path / f"x.{kind}"), "x") as decoded:
            hashes.add(decoded.signal["pcm_sha256"])
    assert len(hashes) == 1


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("name", "relation", "tracks"),
    [
        ("lca_calls/lca_40_stereo8k.flac", "speakers", 2),
        ("fw/stereo_diarization.wav", "speakers", 2),
        ("google/multi.flac", "room", 1),
        ("fw/jfk.flac", "dual_mono", 1),
        ("uberi/audio-stereo-32-bit-44100Hz.wav", "dual_mono", 1),
        ("whisperkit/8_Channel_ID.m4a", "surround", 1),
        ("lhotse/big_buck_bunny_small.mp4", "surround", 1),
        ("vosk/test.wav", "mono", 1),
    ],
)
def test_how_the_channels_of_real_recordings_relate(recordings: Path, name: str, relation: str, tracks: int) -> None:
    with decode_sound(str(recordings / name), "x") as sound:
        assert (sound.signal["channel_relation"], sound.tracks) == (relation, tracks)
        assert sound.read(0, 1000).shape == (tracks, 1000)


@pytest.mark.recordings
def test_delay_and_leakage_tell_a_room_from_speakers(recordings: Path, tmp_path: Path) -> None:
    call = np.concatenate(list(Decoder(str(recordings / "lca_calls/lca_40_stereo8k.flac"))), axis=1)[:, : 8000 * 60]
    leaking = call + 0.1 * call[::-1]
    with sound_of(tmp_path, leaking, 8000) as sound:
        assert sound.signal["channel_relation"] == "speakers"
        assert -24 < sound.signal["leakage_db"] < -14
    mixed = call.sum(axis=0)
    with sound_of(tmp_path, np.stack([mixed, 0.6 * np.roll(mixed, 40)]), 8000) as sound:
        assert sound.signal["channel_relation"] == "room"
    with sound_of(tmp_path, np.stack([call[0], np.zeros_like(call[0])]), 8000) as sound:
        assert (sound.signal["channel_relation"], sound.signal["live_channel"]) == ("one_sided", 0)


def test_ranges_read_back_are_the_whole_and_spooling_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = RNG.uniform(-0.5, 0.5, (1, 50000)).astype(np.float32)
    with sound_of(tmp_path, samples) as sound:
        np.testing.assert_array_equal(sound.read(), samples)
        np.testing.assert_array_equal(sound.read(100, 300), samples[:, 100:300])
        assert sound.read(49990, 60000).shape == (1, 10)
    monkeypatch.setattr("pipelines.audio.sound.MEMORY_BYTES", 1000)
    with sound_of(tmp_path, samples) as sound:
        np.testing.assert_array_equal(sound.read(100, 300), samples[:, 100:300])


def test_the_encoder_hears_the_same_tracks(tmp_path: Path) -> None:
    samples = RNG.uniform(-0.5, 0.5, (2, 50000)).astype(np.float32)
    with sound_of(tmp_path, samples) as sound:
        again = np.concatenate(list(TrackStream(str(tmp_path / "x.wav"), 16000, sound.signal)), axis=1)
        np.testing.assert_array_equal(again, sound.read())


def test_a_file_that_changed_since_ingest_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16000)
    with pytest.raises(UnreadableAudioError, match="when it was ingested") as caught:
        decode_sound(str(tmp_path / "x.wav"), "x", 7)
    assert "ingest again" in caught.value.remedy


def test_silent_inverted_and_very_short_channels_are_one_track(tmp_path: Path) -> None:
    noise = RNG.uniform(-0.5, 0.5, 16000)
    for channels in (np.zeros((2, 16000)), np.stack([noise, -noise]), np.zeros((2, 1))):
        with sound_of(tmp_path, channels) as sound:
            assert (sound.signal["channel_relation"], sound.tracks) == ("dual_mono", 1)
    with sound_of(tmp_path, np.stack([noise, -noise])) as sound:
        assert np.abs(sound.read()).max() > 0.4
    with sound_of(tmp_path, RNG.uniform(-0.5, 0.5, (2, 100))) as sound:
        assert sound.signal["leakage_db"] is None


@pytest.mark.recordings
@pytest.mark.parametrize("noise_db", [None, 30, 20, 15, 10, 5])
@pytest.mark.parametrize(("level", "late"), [(1.0, 0), (0.5, 0), (1.0, 1), (1.0, 2)])
def test_a_voice_in_opposite_phase_is_not_averaged_away(
    recordings: Path, tmp_path: Path, vad: Vad, noise_db: float | None, level: float, late: int
) -> None:
    voice = soundfile.read(recordings / "watson/en-US_Broadband_sample1.flac")[0][: 20 * 16000]

    def heard(voice: np.ndarray) -> np.ndarray:
        noise = 0 if noise_db is None else voice.std() * 10 ** (-noise_db / 20) * RNG.standard_normal(len(voice))
        return 0.5 * (voice + noise)

    with sound_of(tmp_path, np.stack([heard(voice), -level * heard(np.roll(voice, late))])) as sound:
        row = vad.annotate(sound, {"signal": {"status": "ok", **sound.signal}})
        assert row["speech_share"] == pytest.approx(0.87, abs=0.06)
        assert sound.signal["tracks"] == 1
        assert sound.signal["channel_relation"] in ("dual_mono", "room")
        assert sound.signal["phase_correlation"] < -0.5
        assert np.abs(np.corrcoef(sound.read()[0], voice)[0, 1]) > 0.8
        again = np.concatenate(list(TrackStream(str(tmp_path / "x.wav"), 16000, sound.signal)), axis=1)
        np.testing.assert_array_equal(again, sound.read())


@pytest.mark.recordings
@pytest.mark.parametrize("kind", ["mp3", "opus"])
def test_a_coded_voice_in_opposite_phase_is_not_averaged_away(recordings: Path, tmp_path: Path, kind: str) -> None:
    voice = soundfile.read(recordings / "watson/en-US_Broadband_sample1.flac")[0][: 20 * 16000]
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, 0.5 * np.stack([voice, -voice], axis=1), 16000, format={"opus": "OGG"}.get(kind), **(
        {"subtype": "OPUS"} if kind == "opus" else {}
    ))  # fmt: skip
    with decode_sound(str(path), "x") as sound:
        assert sound.read().std() > 0.4 * voice.std()


@pytest.mark.parametrize("direct", [0.0, 0.5, 1.0])
def test_microphones_of_one_room_are_averaged_as_they_are(conversation: Path, tmp_path: Path, direct: float) -> None:
    voice = soundfile.read(conversation)[0]
    channels = []
    for seed in (1, 2):
        echo = np.random.default_rng(seed).standard_normal(4800) * np.exp(-np.arange(4800) / 1280)
        echo /= np.sqrt(np.square(echo).sum())
        echo[0] += direct
        channels.append(0.2 * np.convolve(voice, echo)[: len(voice)])
    with sound_of(tmp_path, np.stack(channels)) as sound:
        assert (sound.signal["channel_relation"], sound.signal["inverted_channels"]) == ("room", [])
        np.testing.assert_allclose(sound.read()[0], np.mean(channels, axis=0), atol=1e-6)


def test_of_many_microphones_the_inverted_ones_are_found(conversation: Path, tmp_path: Path) -> None:
    voice = soundfile.read(conversation)[0]
    signs = (1, -1, -1, 1)
    noisy = [0.5 * sign * (voice + 0.5 * voice.std() * RNG.standard_normal(len(voice))) for sign in signs]
    with sound_of(tmp_path, np.stack(noisy)) as sound:
        assert (sound.signal["channel_relation"], sound.signal["inverted_channels"]) == ("room", [1, 2])
        assert np.corrcoef(sound.read()[0], voice)[0, 1] > 0.95


def turns_of_two(first: np.ndarray, second: np.ndarray, overlap: float, seconds: int = 60) -> np.ndarray:
    """Speakers of equal level who take turns of 2 s, silent otherwise, both heard in `overlap` of the time."""
    turn = 2 * 16000
    voices = np.zeros((2, seconds * 16000))
    for index, start in enumerate(range(0, voices.shape[1] - turn, round(turn / (1 + overlap)))):
        speech = (first, second)[index % 2]
        voices[index % 2, start : start + turn] = np.take(
            speech / speech.std(), np.arange(start, start + turn), mode="wrap"
        )
    return 0.05 * voices


def leakage(voices: np.ndarray, leak_db: float) -> float:
    """Measured where each channel also hears the other's voice, 2 ms later, over noise 60 dB below the speech."""
    leaking = voices + 10 ** (leak_db / 20) * np.roll(voices[::-1], 32, axis=1) + RNG.normal(0, 5e-5, voices.shape)
    found = leakage_of(leaking)
    assert found is not None
    return found


def leakage_of(channels: np.ndarray) -> float | None:
    meter = ChannelMeter(2)
    meter.push(channels.astype(np.float32))
    return signal._leakage(np.concatenate(meter.levels, axis=1))


@pytest.mark.parametrize("leak_db", [-10, -20, -40])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.4])
def test_overlapping_speech_is_no_leakage(conversation: Path, leak_db: float, overlap: float) -> None:
    speech, _ = soundfile.read(conversation)
    turns = [line.split() for line in conversation.with_suffix(".rttm").read_text().splitlines()]
    spoken = np.zeros((2, len(speech)), bool)
    for turn in turns:
        start, end = (round(16000 * float(s)) for s in (turn[3], float(turn[3]) + float(turn[4])))
        spoken[int(turn[7] == turns[0][7]), start:end] = True
    voices = turns_of_two(speech[spoken[0] & ~spoken[1]], speech[spoken[1] & ~spoken[0]], overlap)
    assert ((voices != 0).all(axis=0)).mean() == pytest.approx(overlap, abs=0.03)
    assert leakage(voices, leak_db) == pytest.approx(leak_db, abs=1)


@pytest.mark.recordings
@pytest.mark.parametrize("leak_db", [-10, -20, -40])
def test_overlap_of_other_speakers_is_no_leakage_either(recordings: Path, leak_db: float) -> None:
    speech = [
        np.concatenate(list(Decoder(str(recordings / name))), axis=1)[0]
        for name in ("watson/en-GB_Broadband_sample1.wav", "watson/fr-FR_Broadband_sample1.wav")
    ]
    assert leakage(turns_of_two(*speech, 0.2), leak_db) == pytest.approx(leak_db, abs=1)


def test_a_speaker_who_is_never_alone_says_nothing_of_leakage(conversation: Path) -> None:
    speech = soundfile.read(conversation)[0][7 * 16000 : 27 * 16000]
    voices = turns_of_two(speech, speech[::-1], 0.0)
    voices[0, voices[1] != 0] = RNG.normal(0, 0.05, int((voices[1] != 0).sum()))
    assert leakage(voices, -30) == pytest.approx(-30, abs=1)  # the other is alone, at times
    assert leakage_of(RNG.normal(0, 0.05, (2, 160000))) is None

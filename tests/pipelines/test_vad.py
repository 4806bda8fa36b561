"""Voice activity is upstream's, segment for segment, whatever the blocks and tracks."""

from pathlib import Path

import numpy as np
import pytest
import silero_vad
import torch
from sounds import ArraySound

from pipelines.stages.vad import Vad, VadConfig

FILES = [
    "pyannote_ami/trn00.flac",
    "watson/de-DE_NarrowbandModel_sample1.wav",
    "librosa/198-209-0000.ogg",
    "speechbrain/noise1.flac",
    "whisperkit/jfk_441khz.m4a",
    "ina/silence2sec.wav",
]


@pytest.fixture(scope="module")
def jit() -> torch.nn.Module:
    torch.set_num_threads(1)
    return silero_vad.load_silero_vad()


def vad(**settings: object) -> Vad:
    stage = Vad(VadConfig(**settings))
    stage.setup()
    return stage


def spans(stage: Vad, sound: ArraySound, track: int = 0) -> list[dict[str, int]]:
    segments = stage.annotate(sound, {})["segments"]
    return [
        {"start": round(s["start_s"] * 16000), "end": round(s["end_s"] * 16000)}
        for s in segments
        if s["track"] == track
    ]


@pytest.mark.recordings
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "settings", [{}, {"threshold": 0.3, "min_silence_duration_ms": 400, "max_speech_duration_s": 5.0}]
)
def test_segments_equal_upstreams_jit_model(
    recordings: Path, jit: torch.nn.Module, name: str, settings: dict[str, float]
) -> None:
    sound = ArraySound.from_file(recordings / name)
    upstream = silero_vad.get_speech_timestamps(torch.from_numpy(sound.samples[0]), jit, **settings)
    assert spans(vad(**settings), sound) == upstream


@pytest.mark.recordings
@pytest.mark.parametrize("name", FILES)
def test_segments_equal_upstreams_streaming_onnx(recordings: Path, name: str) -> None:
    sound = ArraySound.from_file(recordings / name)
    streaming = silero_vad.load_silero_vad(onnx=True)
    assert spans(vad(), sound) == silero_vad.get_speech_timestamps(torch.from_numpy(sound.samples[0]), streaming)


def test_the_blocks_change_nothing_beyond_rounding(conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    expected = vad().measured(sound)[0]
    assert expected.max() > 0.9
    for block_frames in (1, 100, 4096):
        found = vad(block_frames=block_frames).measured(sound)[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_tracks_are_heard_apart(conversation: Path) -> None:
    mono = ArraySound.from_file(conversation)
    silence = np.zeros_like(mono.samples[0])
    both = ArraySound(np.stack([silence, mono.samples[0]]))
    stage = vad()
    row = stage.annotate(both, {})
    assert spans(stage, both, 0) == []
    assert spans(stage, both, 1) == spans(stage, mono)
    assert row["speech_per_track_s"] == pytest.approx([0, row["speech_s"]])
    assert 0 < row["speech_share"] < 1


def two_channels(first: np.ndarray, second: np.ndarray, leak_db: float) -> ArraySound:
    """Voices in channels that each hear the other voice, too, 2 ms later, over noise 70 dB below full scale."""
    voices = np.stack([first, second])
    leaking = voices + 10 ** (leak_db / 20) * np.roll(voices[::-1], 32, axis=1)
    return ArraySound(leaking + np.random.default_rng(0).normal(0, 3e-4, voices.shape))


def heard_s(stage: Vad, sound: ArraySound, track: int, start_s: float, end_s: float) -> float:
    """Seconds of speech of a track between two times."""
    found = [(max(s["start"] / 16000, start_s), min(s["end"] / 16000, end_s)) for s in spans(stage, sound, track)]
    return sum(max(0.0, end - start) for start, end in found)


@pytest.mark.parametrize("leak_db", [-12, -25, -40])
def test_leakage_is_no_speech_and_those_who_talk_at_once_are_heard(
    conversation: Path, monkeypatch: pytest.MonkeyPatch, leak_db: float
) -> None:
    speech = ArraySound.from_file(conversation).samples[0]
    first, second = np.zeros((2, 16000 * 25), np.float32)
    first[: 15 * 16000] = speech[7 * 16000 : 22 * 16000]
    second[10 * 16000 :] = speech[15 * 16000 :]  # both talk from 10 to 15 s
    stage, sound = vad(), two_channels(first, second, leak_db)
    for track, voice, others in ((0, first, (15, 25)), (1, second, (0, 10))):
        assert heard_s(stage, sound, track, *others) < 0.4
        alone = heard_s(stage, ArraySound(voice), 0, 10, 15)
        assert alone > 3
        assert heard_s(stage, sound, track, 10, 15) > 0.9 * alone
    if leak_db > -40:  # weaker leakage is hardly taken for speech by itself
        assert min(stage.annotate(sound, {})["leaked_per_track_s"]) > 2
        monkeypatch.setattr("pipelines.stages.leakage.MARGIN_DB", -100.0)
        assert heard_s(stage, sound, 0, 15, 25) > 4


def test_a_side_that_is_silent_for_the_whole_call_has_no_speech(conversation: Path) -> None:
    speech = ArraySound.from_file(conversation).samples[0]
    stage, sound = vad(), two_channels(speech, np.zeros_like(speech), -25)
    row = stage.annotate(sound, {})
    assert row["speech_per_track_s"] == pytest.approx([heard_s(stage, ArraySound(speech), 0, 0, 30), 0], abs=0.3)
    assert row["leaked_per_track_s"][0] == 0
    assert row["leaked_per_track_s"][1] > 10


def test_equal_noise_and_equal_sound_are_no_leakage(conversation: Path) -> None:
    speech = ArraySound.from_file(conversation).samples[0]
    row = vad().annotate(ArraySound(np.stack([speech, speech])), {})
    assert row["leaked_per_track_s"] == [0, 0]
    assert row["speech_per_track_s"][0] == row["speech_per_track_s"][1] > 10
    assert vad().annotate(ArraySound(np.zeros((2, 0))), {})["leaked_per_track_s"] == [0, 0]


@pytest.mark.parametrize("samples", [0, 1, 511, 513])
def test_very_short_sounds_have_no_speech(samples: int) -> None:
    row = vad().annotate(ArraySound(np.zeros((1, samples))), {})
    assert (row["segments"], row["speech_s"], row["speech_share"]) == ([], 0, 0)


def test_the_fingerprint_moves_with_configuration_and_not_otherwise() -> None:
    assert Vad(VadConfig()).fingerprint({}) == Vad(VadConfig()).fingerprint({})
    assert Vad(VadConfig()).fingerprint({}) != Vad(VadConfig(threshold=0.4)).fingerprint({})


@pytest.mark.parametrize("settings", [{"threshold": 0}, {"threshold": 1.5}, {"block_frames": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        VadConfig(**settings)

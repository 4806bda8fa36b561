"""Quality is speechmos' to the third decimal, falls with noise, and knows the level of speech over the rest."""

from pathlib import Path

import numpy as np
import pytest
import speechmos.dnsmos
from sounds import ArraySound

from manifests.schemas import QUALITY, table
from pipelines.stages.quality import (
    WINDOW_SAMPLES,
    Dnsmos,
    Quality,
    QualityConfig,
    mel_features,
    snr_db,
    spans,
    window_starts,
)
from pipelines.stages.vad import Vad


@pytest.fixture(scope="module")
def dnsmos() -> Dnsmos:
    return Dnsmos("dnsmos-p835", "dnsmos-p808")


@pytest.fixture(scope="module")
def quality() -> Quality:
    stage = Quality(QualityConfig(max_windows=2))
    stage.setup()
    return stage


def segments(*spoken_s: tuple[float, float], track: int = 0) -> dict[str, list[dict[str, float]]]:
    return {"segments": [{"track": track, "start_s": start, "end_s": end} for start, end in spoken_s]}


def upstream(samples: np.ndarray) -> list[float]:
    found = speechmos.dnsmos.run(samples, 16000)
    return [found[name] for name in ("sig_mos", "bak_mos", "ovrl_mos", "p808_mos")]


@pytest.mark.recordings
@pytest.mark.parametrize(
    "name",
    [
        "pyannote_ami/trn00.flac",
        "librosa/198-209-0000.ogg",
        "watson/de-DE_NarrowbandModel_sample1.wav",
        "librosa/Kevin_MacLeod_-_Vibe_Ace.ogg",
        "speechbrain/noise1.flac",
    ],
)
def test_scores_equal_speechmos(recordings: Path, dnsmos: Dnsmos, name: str) -> None:
    samples = ArraySound.from_file(recordings / name).samples[0, :WINDOW_SAMPLES]
    assert dnsmos(samples) == pytest.approx(upstream(samples), abs=1e-3)


def test_a_short_sound_is_repeated_as_speechmos_does(conversation: Path, dnsmos: Dnsmos) -> None:
    samples = ArraySound.from_file(conversation).samples[0, 112000 : 112000 + 77000]  # doubled, one window upstream
    assert dnsmos(samples) == pytest.approx(upstream(samples), abs=1e-3)


def test_mel_features_equal_librosa(conversation: Path) -> None:
    import librosa

    samples = ArraySound.from_file(conversation).samples[0, : WINDOW_SAMPLES - 160]
    mel = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=321, hop_length=160, n_mels=120)
    expected = (librosa.power_to_db(mel, ref=np.max) + 40) / 40
    np.testing.assert_allclose(mel_features(samples), expected.T, atol=1e-4)


@pytest.mark.recordings
def test_white_noise_lowers_every_score(recordings: Path, dnsmos: Dnsmos) -> None:
    speech = ArraySound.from_file(recordings / "librosa/198-209-0000.ogg").samples[0, :WINDOW_SAMPLES]
    noise = np.random.default_rng(0).standard_normal(WINDOW_SAMPLES).astype(np.float32)
    noise *= np.sqrt(np.mean(speech**2))
    scores = np.array([dnsmos(speech + noise * 10 ** (-snr / 20)) for snr in (40, 20, 10, 0)])
    assert (np.diff(scores[:, 1:], axis=0) < -0.02).all()
    assert scores[0, 0] - scores[-1, 0] > 0.5


@pytest.mark.recordings
@pytest.mark.parametrize("expected_db", [0, 5, 10, 20])  # the recording's own room is 28 dB below its speech
def test_a_known_ratio_is_recovered(recordings: Path, vad: Vad, expected_db: float) -> None:
    speech = ArraySound.from_file(recordings / "librosa/198-209-0000.ogg").samples[0]
    pause = np.zeros(32000, np.float32)
    padded = np.concatenate([pause, speech, pause])
    row = vad.annotate(ArraySound(padded), {})
    spoken = spans(row, 0, len(padded))
    power = np.mean(np.concatenate([padded[start:stop] for start, stop in spoken]) ** 2)
    noise = np.random.default_rng(1).standard_normal(len(padded)) * np.sqrt(power) * 10 ** (-expected_db / 20)
    assert snr_db(ArraySound(padded + noise), 0, spoken, 0.1) == pytest.approx(expected_db, abs=1.5)


def test_the_ratio_is_null_without_speech_or_noise() -> None:
    generator = np.random.default_rng(2)
    noise = generator.standard_normal(48000) * 0.01
    spoken = [(16000, 32000)]
    assert snr_db(ArraySound(noise), 0, [], 0.1) is None
    assert snr_db(ArraySound(noise), 0, [(0, 48000)], 0.1) is None
    assert snr_db(ArraySound(noise), 0, spoken, 0.1) == -20
    digital_silence = noise.copy()
    digital_silence[:16000] = digital_silence[32000:] = 0
    assert snr_db(ArraySound(digital_silence), 0, spoken, 0.1) is None
    gated = noise.copy()
    gated[:8000] = 0
    gated[16000:32000] *= 10
    assert snr_db(ArraySound(gated), 0, spoken, 0.1) == pytest.approx(20, abs=0.5)


def test_reading_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(3).standard_normal(160000) * np.repeat([0.01, 0.3, 0.02, 0.1], 40000)
    spoken = [(40000, 80000), (120000, 160000)]
    expected = snr_db(ArraySound(noise), 0, spoken, 0.1)
    monkeypatch.setattr("pipelines.stages.quality.BLOCK_SAMPLES", 3200)
    assert snr_db(ArraySound(noise), 0, spoken, 0.1) == pytest.approx(expected)


def test_windows_are_spread_over_the_speech() -> None:
    hour = 3600 * 16000
    assert window_starts([], hour, 4) == []
    assert window_starts([(0, 16000)], 16000, 4) == [0]
    assert window_starts([(hour - 16000, hour)], hour, 4) == [hour - WINDOW_SAMPLES]
    spoken = [(0, 1_600_000), (hour - 1_600_000, hour)]
    starts = window_starts(spoken, hour, 4)
    middles = [start + WINDOW_SAMPLES // 2 for start in starts]
    assert middles == [400_000, 1_200_000, hour - 1_200_000, hour - 400_000]
    assert len(window_starts([(0, 2 * WINDOW_SAMPLES)], hour, 4)) == 2


def test_each_track_is_scored_on_its_own_speech(conversation: Path, vad: Vad, quality: Quality) -> None:
    mono = ArraySound(ArraySound.from_file(conversation).samples[:, : 20 * 16000])
    silence = np.zeros_like(mono.samples[0])
    both = ArraySound(np.stack([silence, mono.samples[0]]))
    one = quality.annotate(mono, {"vad": vad.annotate(mono, {})})
    two = quality.annotate(both, {"vad": vad.annotate(both, {})})
    assert one["dnsmos_windows"] == two["dnsmos_windows"] == 2
    for name in ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808", "snr_db"):
        assert one[name] == pytest.approx(two[name]), name
    assert table([{"recording_id": "a", "status": "ok", **one}], QUALITY).num_rows == 1


@pytest.mark.parametrize("samples", [0, 1, 16000])
def test_without_speech_scores_are_null(quality: Quality, samples: int) -> None:
    row = quality.annotate(ArraySound(np.zeros((1, samples))), {"vad": segments()})
    assert row["dnsmos_windows"] == 0
    assert all(row[name] is None for name in ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808", "snr_db"))
    assert row["music_likelihood"] == (0 if samples == 16000 else None)


def test_the_fingerprint_moves_with_configuration() -> None:
    needed = {"vad": "x"}
    assert Quality(QualityConfig()).fingerprint(needed) == Quality(QualityConfig()).fingerprint(needed)
    assert Quality(QualityConfig()).fingerprint(needed) != Quality(QualityConfig(max_windows=1)).fingerprint(needed)


@pytest.mark.parametrize("settings", [{"max_windows": 0}, {"max_music_blocks": 0}, {"guard_s": -1.0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        QualityConfig(**settings)

"""Quality of the speech: DNSMOS in windows, the signal-to-noise ratio, and the likelihood of music."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.mel import hann, hz_to_mel, mel_to_hz
from manifests.schemas import QUALITY
from pipelines.stages.base import Row, Sound, Stage
from pipelines.stages.music import music_likelihood
from runtime import models

Spans = list[tuple[int, int]]

RATE = 16000
WINDOW_SAMPLES = 144160
"""9.01 s, the length of the input of the P.835 model."""
FRAME_SAMPLES = 320
BLOCK_SAMPLES = 1500 * FRAME_SAMPLES
MIN_NOISE_S = 0.5
SILENT_PEAK = 2.0**-16
"""Half a step of 16 bits, below which a frame is digital silence. Resampling does not keep zeros exact."""
LOWEST_SNR_DB = -20.0


@dataclass(frozen=True)
class QualityConfig:
    """Models, and how much of a recording is measured."""

    p835_model: str = "dnsmos-p835"
    """Weights of DNSMOS P.835 in the registry of models."""
    p808_model: str = "dnsmos-p808"
    """Weights of DNSMOS P.808 in the registry of models."""
    max_windows: int = 4
    """The most windows of 9.01 s that DNSMOS scores on each track."""
    guard_s: float = 0.1
    """Time beside speech that counts as neither speech nor noise, because it holds reverberation and soft onsets."""
    music_threshold: float = 1.5
    """Activation above which a block is music; see `pipelines.stages.music.activation`."""
    max_music_blocks: int = 240
    """The most blocks of 2.6 s that are searched for music, spread over the recording."""

    def __post_init__(self) -> None:
        for name in ("max_windows", "max_music_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.guard_s < 0:
            raise ValueError(f"guard_s must not be negative, not {self.guard_s}")


class Quality(Stage):
    """Rows of `manifests.schemas.QUALITY`. Each track is scored where there is speech in it; the row holds the mean
    over tracks.

    DNSMOS (Reddy et al., ICASSP 2021 for P.808 and 2022 for P.835) is computed as by the package speechmos, except that
    it scores windows spread over the speech instead of one every second. Without speech, all columns but
    music_likelihood are null.
    """

    name = "quality"
    version = 1
    needs = ("vad",)
    packages = ("onnxruntime",)
    schema = QUALITY
    config: QualityConfig

    def registered(self) -> tuple[str, ...]:
        return self.config.p835_model, self.config.p808_model

    def model_hashes(self) -> dict[str, str]:
        return {name: models.get(name).sha256 for name in (self.config.p835_model, self.config.p808_model)}

    def setup(self) -> None:
        self.dnsmos = Dnsmos(self.config.p835_model, self.config.p808_model)

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        assert sound.sample_rate == RATE
        scores, snrs = [], []
        windows = 0
        for track in range(sound.tracks):
            speech = spans(rows["vad"], track, sound.num_samples)
            starts = window_starts(speech, sound.num_samples, self.config.max_windows)
            if starts:
                scored = [self.dnsmos(sound.read(at, at + WINDOW_SAMPLES)[track]) for at in starts]
                scores.append(np.mean(scored, axis=0))
                windows += len(starts)
            snr = snr_db(sound, track, speech, self.config.guard_s)
            if snr is not None:
                snrs.append(snr)
        names = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808")
        means = np.mean(scores, axis=0).tolist() if scores else [None] * len(names)
        return {
            **dict(zip(names, means, strict=True)),
            "dnsmos_windows": windows,
            "snr_db": float(np.mean(snrs)) if snrs else None,
            "music_likelihood": music_likelihood(sound, self.config.music_threshold, self.config.max_music_blocks),
        }


class Dnsmos:
    """Both DNSMOS models on one thread, with the inputs of speechmos 0.0.1.1, which itself would require librosa and
    pandas."""

    def __init__(self, p835_model: str, p808_model: str) -> None:
        paths = [models.verified(name) for name in (p835_model, p808_model)]
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # One thread on any machine, so that results do not depend on where a unit ran.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.p835, self.p808 = (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths
        )

    def __call__(self, samples: np.ndarray) -> tuple[float, float, float, float]:
        """MOS of signal, background, overall and P.808 for float32 (samples,) at 16 kHz, not empty.

        Only the first 9.01 s are scored; shorter sound is repeated to that length. Samples beyond full scale, which
        resampling may cause and speechmos refuses, are clipped.
        """
        window = np.clip(np.resize(samples, WINDOW_SAMPLES) if len(samples) < WINDOW_SAMPLES else samples, -1, 1)
        window = window[:WINDOW_SAMPLES].astype(np.float32)
        sig, bak, ovrl = self.p835.run(None, {"input_1": window[None]})[0][0].astype(float)
        p808 = float(self.p808.run(None, {"input_1": mel_features(window[:-160])[None]})[0][0][0])
        # The polynomials of the release, which map the scores of the network to those of listeners.
        return (
            -0.08397278 * sig**2 + 1.22083953 * sig + 0.0052439,
            -0.13166888 * bak**2 + 1.60915514 * bak - 0.39604546,
            -0.06766283 * ovrl**2 + 1.11546468 * ovrl + 0.04602535,
            p808,
        )


def mel_features(samples: np.ndarray) -> np.ndarray:
    """The input of the P.808 model, float32 (frames, 120), from float32 (samples,) at 16 kHz.

    This is librosa's melspectrogram(n_fft=321, hop_length=160, n_mels=120) in dB relative to its maximum, bounded to at
    least -80, then (dB + 40) / 40.
    """
    padded = np.pad(samples, 160)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 321)[::160]
    power = np.abs(np.fft.rfft(frames * hann(321), axis=1)) ** 2
    mel_db = 10 * np.log10(np.maximum(power @ mel_filters().T, 1e-10))
    return ((np.maximum(mel_db - mel_db.max(), -80) + 40) / 40).astype(np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """Slaney's 120 triangles of equal area over the 161 bins from 0 to 8 kHz (Auditory Toolbox, 1998)."""
    edges_hz = mel_to_hz(np.linspace(0, hz_to_mel(np.array(8000.0)), 122))
    bins_hz = np.fft.rfftfreq(321, 1 / RATE)
    low, centre, high = (edges_hz[at : at + 120, None] for at in range(3))
    triangles = np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre))
    return np.asarray(np.maximum(triangles, 0) * 2 / (high - low))


def spans(vad: Row, track: int, num_samples: int) -> Spans:
    """The segments of speech of a track as samples [start, stop), in order."""
    segments = [(s["start_s"], s["end_s"]) for s in vad["segments"] if s["track"] == track]
    return [(round(start * RATE), min(round(end * RATE), num_samples)) for start, end in segments]


def window_starts(speech: Spans, num_samples: int, max_windows: int) -> list[int]:
    """First samples of the windows that DNSMOS scores: as many as the speech fills, centred at even shares of it."""
    total = sum(stop - start for start, stop in speech)
    count = min(max_windows, math.ceil(total / WINDOW_SAMPLES))
    starts = set()
    for i in range(count):
        left = (2 * i + 1) * total // (2 * count)
        for start, stop in speech:
            if left < stop - start:
                starts.add(max(0, min(start + left - WINDOW_SAMPLES // 2, num_samples - WINDOW_SAMPLES)))
                break
            left -= stop - start
    return sorted(starts)


def snr_db(sound: Sound, track: int, speech: Spans, guard_s: float) -> float | None:
    """Level of a track's speech over that of the rest: 10 log10((S - N) / N), S and N mean powers of 20 ms frames.

    Frames at most `guard_s` from speech are left out, and so are frames of digital silence, which come from a noise
    gate or from editing. The voice of another speaker that leaks into the track counts as noise. The result is None
    without speech or with less than 0.5 s of noise, and at least -20 dB, below which S cannot be distinguished from
    N.
    """
    guard = round(guard_s * RATE)
    power = np.zeros(2)
    count = np.zeros(2, int)
    for at in range(0, sound.num_samples - FRAME_SAMPLES + 1, BLOCK_SAMPLES):
        block = sound.read(at, min(at + BLOCK_SAMPLES, sound.num_samples))[track].astype(float)
        frames = block[: len(block) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        inside = _mask(speech, at, len(frames))
        near = _mask([(start - guard, stop + guard) for start, stop in speech], at, len(frames))
        sounding = np.abs(frames).max(axis=1) > SILENT_PEAK
        for kind, chosen in enumerate((inside, ~near & sounding)):
            power[kind] += np.square(frames[chosen]).mean(axis=1).sum()
            count[kind] += chosen.sum()
    if not count[0] or count[1] * FRAME_SAMPLES < MIN_NOISE_S * RATE:
        return None
    signal, noise = power / count
    return 10 * math.log10(max((signal - noise) / noise, 10 ** (LOWEST_SNR_DB / 10)))


def _mask(spans: Spans, at: int, frames: int) -> np.ndarray:
    """Which of the frames from sample `at` have their middle in a span, bool (frames,)."""
    middles = at + FRAME_SAMPLES * np.arange(frames) + FRAME_SAMPLES // 2
    if not spans:
        return np.zeros(frames, bool)
    starts, stops = np.array(spans).T
    return np.asarray(np.searchsorted(starts, middles, "right") > np.searchsorted(stops, middles, "right"))

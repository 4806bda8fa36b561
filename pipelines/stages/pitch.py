"""The pitch of frames of 16 ms, by the network SwiftF0, and their level after K-weighting."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manifests.install import install
from pipelines.audio.signal import k_weighting
from runtime import models
from runtime.errors import MissingExtraError

RATE = 16000
HOP = 256
FRAME_S = HOP / RATE
WINDOW_FRAMES = 1875
"""Frames that the network is given at once, 30 s."""
BEFORE, AFTER = 11, 10
"""Frames of context on both sides that results depend on: half of a window of 2,048 samples, and seven frames."""
SILENT_PEAK = 1e-3
"""Frames whose peak is not above this have no pitch, because the network detects one in digital silence."""
LOWEST_HZ = 46.875
LOWEST_DB = -120.0


@dataclass(frozen=True)
class Frames:
    """The pitch in Hz, NaN where there is none, and the level in LU of frames of 16 ms of a track from `start_s` on."""

    start_s: float
    pitch_hz: np.ndarray
    level_lu: np.ndarray

    def packed(self) -> dict[str, str]:
        """The frames as text for JSON: cents above `LOWEST_HZ` and hundredths of a LU, both in 16 bits."""
        cents = np.where(np.isnan(self.pitch_hz), -1, 1200 * np.log2(np.maximum(self.pitch_hz, 1) / LOWEST_HZ))
        arrays = {"pitch": cents, "level": 100 * self.level_lu}
        return {name: base64.b64encode(np.rint(a).astype("<i2").tobytes()).decode() for name, a in arrays.items()}

    @classmethod
    def unpacked(cls, start_s: float, texts: dict[str, str]) -> Frames:
        """The frames from the result of `packed`, in its precision."""
        cents, level = (
            np.frombuffer(base64.b64decode(texts[name]), "<i2").astype(float) for name in ("pitch", "level")
        )
        return cls(start_s, np.where(cents < 0, np.nan, LOWEST_HZ * 2 ** (cents / 1200)), level / 100)


class PitchTracker:
    """SwiftF0 (Nieradzik 2025, arXiv 2508.18440): a network of 14,386 weights over a spectrogram, on one thread."""

    def __init__(self, model: str, floor_hz: float, ceiling_hz: float, confidence: float) -> None:
        path = models.verified(model)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(f"prosody needs onnxruntime: {error}", install(["prosody"])) from error
        options = onnxruntime.SessionOptions()
        # One thread on any machine, so that results do not depend on where a unit ran.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.limits = {"fmin": np.array(floor_hz, np.float32), "fmax": np.array(ceiling_hz, np.float32)}
        self.confidence = confidence
        self.sections = k_weighting(RATE)

    def frames(self, samples: np.ndarray, start_s: float) -> Frames:
        """The frames of float32 (samples,) at 16 kHz; an incomplete last frame is left out."""
        count = len(samples) // HOP
        pitch = np.concatenate([np.zeros(0), *self._pitch(samples, count)])
        return Frames(start_s, pitch, np.concatenate([np.zeros(0), *self._levels(samples, count)]))

    def _pitch(self, samples: np.ndarray, count: int) -> Iterator[np.ndarray]:
        for first in range(0, count, WINDOW_FRAMES):
            last = min(first + WINDOW_FRAMES, count)
            peaks = np.abs(samples[first * HOP : last * HOP].reshape(-1, HOP)).max(axis=1)
            if peaks.max() < SILENT_PEAK:
                yield np.full(last - first, np.nan)
                continue
            before = max(0, first - BEFORE)
            window = samples[before * HOP : (last + AFTER) * HOP if last < count else None]
            outputs = self.session.run(["pitch", "confidence"], {"audio": window[None], **self.limits})
            pitch, confidence = (np.asarray(one[0], float)[first - before : last - before] for one in outputs)
            yield np.where((confidence >= self.confidence) & (peaks >= SILENT_PEAK), pitch, np.nan)

    def _levels(self, samples: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Levels of frames around the times at which the network estimates the pitch."""
        from scipy.signal import sosfilt

        state = np.zeros((len(self.sections), 2))
        before = 0.0
        for first in range(0, count, WINDOW_FRAMES):
            block = samples[first * HOP : min(first + WINDOW_FRAMES, count) * HOP].astype(np.float64)
            weighted, state = sosfilt(self.sections, block, zi=state)
            powers = np.square(weighted).reshape(-1, HOP).mean(axis=1)
            around = (np.concatenate([[before], powers[:-1]]) + powers) / 2
            before = powers[-1]
            yield np.maximum(-0.691 + 10 * np.log10(np.maximum(around, 1e-12)), LOWEST_DB)

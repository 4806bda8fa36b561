"""The contract of an encoder: sound in, continuous features out, on a fixed frame grid.

An encoder knows nothing of recordings, windows' origins or shards, and imports nothing else of this project.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np


class Encoder(ABC):
    """Base of all encoders. A subclass sets the variables below and implements `_encode_one`, or `encode` itself.

    The frame grid belongs to the recording: frame t starts at (or is centred on, as the encoder says) sample
    t * `hop_samples`. A window therefore begins at a multiple of the hop, and windows that meet give the frames of the
    whole recording, without a seam, as long as each carries `context_samples` of real sound on both sides.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever the same settings would give other numbers."""
    config_class: ClassVar[type]
    """Frozen dataclass of the settings; its checks raise ValueError."""

    sample_rate: int
    """Hz, of what `encode` takes."""
    hop_samples: int
    """Samples from one frame to the next."""
    dim: int
    """Values per frame."""
    context_samples: int
    """Neighbouring samples that `encode` wants on each side of a window; zeros where the recording ends."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    def model_hashes(self) -> dict[str, str]:
        """sha256 of every weight file by model name; empty for an encoder without weights."""
        return {}

    @property
    def fingerprint(self) -> str:
        """First 12 hex digits of a sha256 over name, version, settings and weights: all that can change a feature."""
        identity = {
            "encoder": self.name,
            "version": self.version,
            "config": dataclasses.asdict(self.config),
            "models": self.model_hashes(),
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def frames(self, num_samples: int) -> int:
        """Frames that a window of `num_samples` (context not counted) gives; a rest shorter than a hop gives none."""
        return num_samples // self.hop_samples

    def encode(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of each window: float32 (channels, frames, dim), in the order given.

        A window is float32 (channels, context_samples + N + context_samples), full scale 1, N = frames * hop_samples.
        Channels are independent. The result for a window is bit for bit the same whatever else is in the call.
        ValueError for another dtype, another number of axes, or an N that is not a whole number of frames.
        """
        return [self._encode_one(window, self._window_frames(window)) for window in windows]

    @abstractmethod
    def _encode_one(self, window: np.ndarray, num_frames: int) -> np.ndarray:
        """Features, float32 (channels, num_frames, dim), of one window that has been checked."""

    def _window_frames(self, window: np.ndarray) -> int:
        if window.ndim != 2 or window.dtype != np.float32:
            raise ValueError(
                f"{self.name}: a window is float32 (channels, samples), not {window.dtype} with shape {window.shape}"
            )
        num_samples = window.shape[1] - 2 * self.context_samples
        if num_samples < 0 or num_samples % self.hop_samples:
            raise ValueError(
                f"{self.name}: a window of {window.shape[1]} samples is not 2 x {self.context_samples} of context and "
                f"a multiple of the hop, {self.hop_samples}"
            )
        return self.frames(num_samples)

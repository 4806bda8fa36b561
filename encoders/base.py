"""The interface of an encoder, which turns the sound of a window into continuous features on a fixed frame grid.

An encoder does not know which recording a window comes from, or into which shard its features go.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

EXECUTION_SETTINGS = ("device", "batch", "compile")
"""Settings that say how an encoder is run. The fingerprint leaves them out, because they change features by no more
than the encoder's `tolerance`."""
LOCATION_SETTINGS = ("model",)
"""Settings that say where the weights are. The fingerprint contains the hash of the weights instead, because the same
weights give the same features wherever they are stored."""


class WindowSound(NamedTuple):
    """A window with the sound before and after it, up to the ends of the recording."""

    sound: np.ndarray
    """float32 (tracks, before + N + after) with full scale 1, where N = frames * hop_samples. It is never padded."""
    before: int
    """Samples before the window: `look_back_samples` of the encoder, or fewer at the beginning of the recording."""
    frames: int
    """Number of frames to compute for the window."""


class Encoder(ABC):
    """Base class of all encoders.

    A subclass sets the attributes below and implements `_encode_one`, or overrides `encode`.

    The frame grid belongs to the recording: frame t starts at sample t * `hop_samples`, or is centred on it; the class
    says which. A window therefore begins at a multiple of the hop. Adjacent windows give exactly the frames of the
    whole recording as long as each comes with its `look_back_samples` and `look_ahead_samples` of sound.

    Creating an instance is cheap. It knows its rates and its fingerprint, and loads no weights until `setup`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Increase it whenever the same settings would give different numbers."""
    config_class: ClassVar[type]
    """Frozen dataclass of the settings. It raises ValueError for invalid ones."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that it imports and that the core does not install. For our own encoders, the extra `latents` does."""
    deterministic: bool = True
    """Whether equal sound gives equal features. Encoders that draw samples are refused: no dataset could be rebuilt."""

    sample_rate: int
    """Sampling rate of the sound that `encode` takes, Hz."""
    hop_samples: int
    """Samples from one frame to the next."""
    dim: int
    """Values per frame."""
    look_back_samples: int
    """Samples before a frame that can change its features."""
    look_ahead_samples: int
    """Samples after the end of a frame's hop that can change its features; zero for a causal encoder."""
    local: bool = True
    """Whether a frame depends only on the sound from look-back to look-ahead. It does not if the model attends
    to the whole input of a call, for example. The features of a frame then depend on where its window is cut."""
    tolerance: float = 0.0
    """Largest difference between features computed on different kinds of devices, in batches of different sizes or, if
    the encoder is `local`, in chunks of different lengths. In standard deviations of the features; zero if all of these
    give equal bits."""
    batch: int = 1
    """Number of windows per call at which `encode` is efficient."""
    cpus: float = 1.0
    """CPU cores that one worker occupies."""
    gpus: float = 0.0
    """GPUs, or the fraction of one, that one worker occupies."""
    device: str = "cpu"
    """Where it runs: 'cpu' or 'cuda'."""
    precision: str = "float32"
    """Floating-point type in which it computes."""
    licence: str | None = None
    """Licence of the weights, if it is known."""
    vocoder: str | None = None
    """Name in `encoders.vocoders` of the vocoder that `decode` uses; None if it uses none."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    @property
    def causal(self) -> bool:
        """Whether no frame depends on sound after its own hop, so that a prefix of the sound gives a prefix of the
        frames."""
        return self.look_ahead_samples == 0

    def model_hashes(self) -> dict[str, str]:
        """Return the sha256 of every weight file, or its commit on a hub, by model name; empty if there are none."""
        return {}

    @property
    def fingerprint(self) -> str:
        """First 12 hex digits of a sha256 over everything that can change a feature: name, version, settings and
        weights."""
        settings = dataclasses.asdict(self.config)
        identity = {
            "encoder": self.name,
            "version": self.version,
            "config": {
                name: value for name, value in settings.items() if name not in EXECUTION_SETTINGS + LOCATION_SETTINGS
            },
            "models": self.model_hashes(),
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def normalisation(self) -> Mapping[str, Sequence[float]]:
        """Return the constants by which the model's authors normalise its features, by name. Stored features are not
        normalised."""
        return {}

    def setup(self) -> None:  # noqa: B027 (an encoder without weights has nothing to load)
        """Load the weights. Each process calls it once, before the first `encode`."""

    def frames(self, num_samples: int) -> int:
        """Return the number of frames in a window of `num_samples`. A remainder shorter than a hop gives no frame."""
        return num_samples // self.hop_samples

    def cut(self, recording: np.ndarray, first: int, frames: int) -> WindowSound:
        """Cut a window out of a recording, float32 (tracks, samples): `frames` frames from frame `first` on."""
        start, stop = first * self.hop_samples, (first + frames) * self.hop_samples
        before = min(start, self.look_back_samples)
        return WindowSound(recording[:, start - before : stop + self.look_ahead_samples], before, frames)

    def encode(self, windows: Sequence[WindowSound]) -> list[np.ndarray]:
        """Compute the features of each window, float32 (tracks, frames, dim), in the order given.

        Tracks are encoded independently. The features of a window are bit-identical whatever else is in the call.

        Raises:
            ValueError: The sound has another dtype or number of axes, or its length does not match its frames.
        """
        return [self._encode_one(self._check_window(window)) for window in windows]

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Turn features that `encode` computed back into sound.

        Args:
            features: float32 (tracks, frames, dim) of one window.

        Returns:
            float32 (tracks, frames * hop_samples) at `sample_rate`.

        Raises:
            NotImplementedError: The encoder has no decoder.
        """
        raise NotImplementedError(f"{self.name} has no decoder")

    @property
    def has_decoder(self) -> bool:
        """Whether `decode` is implemented."""
        return type(self).decode is not Encoder.decode

    @abstractmethod
    def _encode_one(self, window: WindowSound) -> np.ndarray:
        """Compute the features, float32 (tracks, frames, dim), of one window, which has been checked."""

    def _check_window(self, window: WindowSound) -> WindowSound:
        sound = window.sound
        if sound.ndim != 2 or sound.dtype != np.float32:
            raise ValueError(
                f"{self.name}: the sound of a window must be float32 (tracks, samples), not {sound.dtype} with shape "
                f"{sound.shape}"
            )
        if not 0 <= window.before <= self.look_back_samples:
            raise ValueError(
                f"{self.name}: a window comes with {window.before} samples before it; there must be 0 to "
                f"{self.look_back_samples}"
            )
        after = sound.shape[1] - window.before - window.frames * self.hop_samples
        if window.frames < 0 or not 0 <= after <= self.look_ahead_samples:
            raise ValueError(
                f"{self.name}: a window has {sound.shape[1]} samples, which does not fit {window.frames} frames of "
                f"{self.hop_samples} samples with {window.before} before them and 0 to {self.look_ahead_samples} after"
            )
        return window

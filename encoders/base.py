"""The contract of an encoder: sound in, continuous features out, on a fixed frame grid.

An encoder knows nothing of recordings, windows' origins or shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

EXECUTION = ("device", "batch", "compile")
"""Settings that say how an encoder is run. They are no part of its fingerprint: what they change in a feature lies
within the `tolerance` that the encoder states."""
PLACES = ("model",)
"""Settings that say where weights lie. The fingerprint has the hash of the weights instead: equal weights in another
place give equal features."""


class WindowSound(NamedTuple):
    """A window and the sound around it, as far as the recording reaches."""

    sound: np.ndarray
    """float32 (tracks, before + N + after), full scale 1, N = frames * hop_samples: real samples, no padding."""
    before: int
    """Samples ahead of the window: the encoder's `look_back_samples`, or fewer where the recording begins."""
    frames: int
    """Frames that the window is to give."""


class Encoder(ABC):
    """Base of all encoders. A subclass sets the variables below and implements `_encode_one`, or `encode` itself.

    The frame grid belongs to the recording: frame t starts at (or is centred on, as the encoder says) sample
    t * `hop_samples`. A window therefore begins at a multiple of the hop, and windows that meet give the frames of the
    whole recording, without a seam, as long as each carries the sound of `look_back_samples` and `look_ahead_samples`.

    An instance is cheap to make: it knows its rates, its fingerprint and nothing of weights until `setup`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever the same settings would give other numbers."""
    config_class: ClassVar[type]
    """Frozen dataclass of the settings; its checks raise ValueError."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What it imports beyond the core; the extra that brings them is `latents`."""
    deterministic: bool = True
    """Whether equal sound gives equal features. One that draws samples is refused: nothing could be made again."""

    sample_rate: int
    """Hz, of what `encode` takes."""
    hop_samples: int
    """Samples from one frame to the next."""
    dim: int
    """Values per frame."""
    look_back_samples: int
    """Samples before a frame that reach it."""
    look_ahead_samples: int
    """Samples past the end of a frame's hop that reach it; zero for a causal encoder."""
    local: bool = True
    """Whether what lies between look-back and look-ahead is all that reaches a frame. Where it is not, as with
    attention over all that a call is given, a frame depends on its window: one cut elsewhere gives other features."""
    tolerance: float = 0.0
    """Largest difference, in standard deviations of the features, between those made on different kinds of devices, in
    batches of other sizes or, where it is `local`, in chunks of other lengths; zero where all are equal bit for bit."""
    batch: int = 1
    """Windows that `encode` likes to be given in one call."""
    cpus: float = 1.0
    """CPU cores that one worker occupies."""
    gpus: float = 0.0
    """GPUs, or the share of one, that one worker occupies."""
    device: str = "cpu"
    """'cpu' or 'cuda', where it runs."""
    precision: str = "float32"
    """Type of the numbers that it calculates with."""
    licence: str | None = None
    """Licence of the weights, where it is known."""
    vocoder: str | None = None
    """Name in `encoders.vocoders` of the vocoder by which `decode` makes sound; None for one that needs none."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    @property
    def causal(self) -> bool:
        """Whether no frame depends on sound past its own hop: a prefix of the sound gives a prefix of the frames."""
        return self.look_ahead_samples == 0

    def model_hashes(self) -> dict[str, str]:
        """sha256, or commit on a hub, of every weight file by model name; empty for an encoder without weights."""
        return {}

    @property
    def fingerprint(self) -> str:
        """First 12 hex digits of a sha256 over name, version, settings and weights: all that can change a feature."""
        settings = dataclasses.asdict(self.config)
        identity = {
            "encoder": self.name,
            "version": self.version,
            "config": {name: value for name, value in settings.items() if name not in EXECUTION + PLACES},
            "models": self.model_hashes(),
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def normalisation(self) -> Mapping[str, Sequence[float]]:
        """Constants that the model's own trainers apply to its features, by name; what is stored is without them."""
        return {}

    def setup(self) -> None:  # noqa: B027 (one without weights has nothing to load)
        """Load the weights. Called once a process, before the first `encode`."""

    def frames(self, num_samples: int) -> int:
        """Frames that a window of `num_samples` gives; a rest shorter than a hop gives none."""
        return num_samples // self.hop_samples

    def cut(self, recording: np.ndarray, first: int, frames: int) -> WindowSound:
        """The window of `frames` from frame `first` on, out of a whole recording, float32 (tracks, samples)."""
        start, stop = first * self.hop_samples, (first + frames) * self.hop_samples
        before = min(start, self.look_back_samples)
        return WindowSound(recording[:, start - before : stop + self.look_ahead_samples], before, frames)

    def encode(self, windows: Sequence[WindowSound]) -> list[np.ndarray]:
        """Features of each window: float32 (tracks, frames, dim), in the order given.

        Tracks are independent. The result for a window is bit for bit the same whatever else is in the call.
        ValueError for sound of another dtype or another number of axes, or that is shorter than the frames need.
        """
        return [self._encode_one(self._checked(window)) for window in windows]

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Sound of a window, float32 (tracks, frames * hop_samples) at `sample_rate`, from its features, float32
        (tracks, frames, dim), as `encode` gives them. NotImplementedError where the encoder has no decoder."""
        raise NotImplementedError(f"{self.name} has no decoder")

    @property
    def has_decoder(self) -> bool:
        """Whether `decode` is there."""
        return type(self).decode is not Encoder.decode

    @abstractmethod
    def _encode_one(self, window: WindowSound) -> np.ndarray:
        """Features, float32 (tracks, frames, dim), of one window that has been checked."""

    def _checked(self, window: WindowSound) -> WindowSound:
        sound = window.sound
        if sound.ndim != 2 or sound.dtype != np.float32:
            raise ValueError(
                f"{self.name}: the sound of a window is float32 (tracks, samples), not {sound.dtype} with shape "
                f"{sound.shape}"
            )
        if not 0 <= window.before <= self.look_back_samples:
            raise ValueError(
                f"{self.name}: {window.before} samples before a window, where 0 to {self.look_back_samples} are wanted"
            )
        after = sound.shape[1] - window.before - window.frames * self.hop_samples
        if window.frames < 0 or not 0 <= after <= self.look_ahead_samples:
            raise ValueError(
                f"{self.name}: {window.frames} frames of {self.hop_samples} samples with {window.before} before them "
                f"and 0 to {self.look_ahead_samples} after do not make {sound.shape[1]} samples"
            )
        return window

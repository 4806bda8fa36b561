"""Voice activity detection: the network of Silero runs over each track in bounded memory; segments equal upstream's.

Where each track is a speaker's, speech that is only the leakage of another track is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.install import install
from manifests.schemas import VAD
from manifests.windows import covered_s
from pipelines.stages.base import Row, Sound, Stage
from pipelines.stages.leakage import leaked
from runtime import models
from runtime.batches import reproducible
from runtime.errors import MissingExtraError


@dataclass(frozen=True)
class VadConfig:
    """Names and defaults are those of `get_speech_timestamps` of silero-vad."""

    model: str = "silero-vad"
    """Weights in the registry of models."""
    threshold: float = 0.5
    """Probability from which on a frame is speech."""
    neg_threshold: float | None = None
    """Probability below which speech ends; threshold - 0.15 if not given."""
    min_speech_duration_ms: int = 250
    """Shorter segments of speech are dropped."""
    min_silence_duration_ms: int = 100
    """Shorter pauses do not end a segment."""
    speech_pad_ms: int = 30
    """Time that is added to both sides of a segment."""
    max_speech_duration_s: float | None = None
    """Longer segments are split at a pause; unlimited if not given."""
    block_frames: int = 256
    """Frames of 32 ms in one call of the model."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, not {self.threshold}")
        if self.block_frames < 1:
            raise ValueError("block_frames must be at least 1")


class Vad(Stage):
    """Rows of `manifests.schemas.VAD`. The network processes each track alone, and its state is kept through the
    recording. Where a track is no louder than what leaks into it from the others, its probability of speech is 0."""

    name = "vad"
    version = 3
    packages = ("silero_vad", "torch")
    schema = VAD
    config: VadConfig

    def registered(self) -> tuple[str, ...]:
        return (self.config.model,)

    def model_hashes(self) -> dict[str, str]:
        return {self.config.model: models.get(self.config.model).sha256}

    def setup(self) -> None:
        path = models.verified(self.config.model)
        try:
            from silero_vad import get_speech_timestamps_from_probs

            from pipelines.stages.silero import Silero
        except ImportError as error:
            raise MissingExtraError(f"vad needs silero-vad: {error}", install(["vad"])) from error
        self.to_segments = get_speech_timestamps_from_probs
        self.network = Silero(path)

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        from pipelines.stages.silero import FRAME

        duration_s = sound.num_samples / sound.sample_rate
        segments: list[dict[str, Any]] = []
        per_track_s, leaked_s = [], []
        probabilities, powers = self.measured(sound)
        for track, (probability, is_leaked) in enumerate(zip(probabilities, leaked(powers), strict=True)):
            mine = [
                {"track": track, "start_s": span["start"] / 16000, "end_s": span["end"] / 16000}
                for span in self._segments(np.where(is_leaked, 0.0, probability), sound.num_samples)
            ]
            segments += mine
            per_track_s.append(sum(segment["end_s"] - segment["start_s"] for segment in mine))
            leaked_s.append(int((is_leaked & (probability >= self.config.threshold)).sum()) * FRAME / 16000)
        speech_s = covered_s([(segment["start_s"], segment["end_s"]) for segment in segments])
        return {
            "segments": segments,
            "speech_s": speech_s,
            "speech_share": speech_s / duration_s if duration_s else 0.0,
            "speech_per_track_s": per_track_s,
            "leaked_per_track_s": leaked_s,
        }

    def measured(self, sound: Sound) -> tuple[np.ndarray, np.ndarray]:
        """Probability of speech and mean square of each frame of 32 ms, both float32 (tracks, frames).

        The last frame is padded with zeros.
        """
        import torch

        from pipelines.stages.silero import CONTEXT, FRAME

        assert sound.sample_rate == 16000
        state = None
        context = np.zeros((sound.tracks, CONTEXT), np.float32)
        blocks = [np.zeros((2, sound.tracks, 0), np.float32)]
        step = self.config.block_frames * FRAME
        # One thread on any machine, so that results do not depend on where a unit ran.
        with torch.inference_mode(), reproducible(threads=1):
            for start in range(0, sound.num_samples, step):
                block = sound.read(start, min(start + step, sound.num_samples))
                missing = -block.shape[1] % FRAME
                samples = np.concatenate([context, block, np.zeros((sound.tracks, missing), np.float32)], axis=1)
                context = samples[:, -CONTEXT:]
                probabilities, state = self.network(torch.from_numpy(samples), state)
                powers = np.square(samples[:, CONTEXT:]).reshape(sound.tracks, -1, FRAME).mean(axis=2)
                blocks.append(np.stack([probabilities.numpy(), powers]))
        together = np.concatenate(blocks, axis=2)
        return together[0], together[1]

    def _segments(self, probabilities: np.ndarray, num_samples: int) -> list[dict[str, int]]:
        config = self.config
        limit = config.max_speech_duration_s
        spans: list[dict[str, int]] = self.to_segments(
            probabilities.tolist(),  # upstream compares each in Python, where numpy scalars are slow
            threshold=config.threshold,
            neg_threshold=config.neg_threshold,
            min_speech_duration_ms=config.min_speech_duration_ms,
            min_silence_duration_ms=config.min_silence_duration_ms,
            speech_pad_ms=config.speech_pad_ms,
            max_speech_duration_s=math.inf if limit is None else limit,
            audio_length_samples=num_samples,
        )
        return spans

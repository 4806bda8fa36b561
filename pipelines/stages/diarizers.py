"""What the models of the stage `diarize` have in common: what each of them returns for one chunk of a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Read = Callable[[int, int], np.ndarray]
"""Returns the samples [start, stop) of one track at 16 kHz, float32 (samples,), clipped to the recording."""

Turn = tuple[str, float, float, float | None]
"""Speaker, start and end in seconds from the beginning of the chunk, and the confidence, or None where the model gives
none: the probability that the speaker speaks, averaged over the turn (see docs/diarization.md)."""


@dataclass(frozen=True)
class ChunkTurns:
    """The turns of the speakers in one chunk, as plain values that JSON can hold."""

    turns: list[Turn]
    embeddings: dict[str, list[float]] | None
    """An embedding of each speaker, by which speakers of several chunks are linked; None where the model gives none."""


class Diarizer(Protocol):
    """A diarization model that is loaded."""

    def __call__(self, read: Read, num_samples: int, name: str) -> ChunkTurns:
        """Diarize `num_samples` at 16 kHz, which `read` gives by range; `name` is used in messages."""
        ...

"""The contract of a stage: it measures one recording and returns one row.

A stage never catches what it cannot name: the runner turns an exception into a `failed` row and goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from manifests.fingerprint import fingerprint

Row = dict[str, Any]
Span = tuple[float, float]


class Outline(Protocol):
    """What is known of a recording's sound without hearing it.

    `tracks` is 1, or the number of channels where each channel is a speaker.
    """

    recording_id: str
    sample_rate: int
    num_samples: int
    tracks: int


class Sound(Outline, Protocol):
    """A decoded recording, at 16 kHz, read by range so that its length does not matter to memory."""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) as float32 (tracks, samples), full scale 1; clipped to what exists."""
        ...


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage occupies."""

    cpus: float = 1.0
    gpus: float = 0.0


class Stage:
    """Base of all stages. Subclasses set the class variables and implement `annotate`."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: tuple[str, ...] = ()
    """The stages whose rows it reads."""
    packages: tuple[str, ...] = ()
    """What it imports beyond the core."""
    schema: ClassVar[pa.Schema]
    piecewise: ClassVar[bool] = False
    """Whether it hears chunks of a recording on their own: `chunks`, `hear` and `join` are then `annotate` in parts."""
    resources: Resources = Resources()
    at_once: int = 1
    """Recordings that a worker has it measure side by side, in threads, for fuller batches of its models."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def extra(self) -> str:
        """The extra that brings its packages."""
        return self.name

    def model_hashes(self) -> dict[str, str]:
        """sha256 of every weight file by model name."""
        return {}

    def registered(self) -> tuple[str, ...]:
        """Names of the models that it loads; those in the registry lie inside packages of their own."""
        return ()

    @property
    def trusted(self) -> str | None:
        """The model whose files may run code of their own, as the recipe allows; None where no file is run."""
        return None

    def fingerprint(self, needed: Mapping[str, str]) -> str:
        """Hash of configuration, weights, version and the fingerprints of the stages this one reads."""
        return fingerprint(
            {
                "stage": self.name,
                "version": self.version,
                "config": dataclasses.asdict(self.config),
                "models": self.model_hashes(),
                "needs": {name: needed[name] for name in self.needs},
            }
        )

    def setup(self) -> None:
        """Load models. Called once a process, before the first `annotate`."""

    def annotate(self, sound: Sound, known: Mapping[str, Row]) -> Row:
        """Measure `sound`; `known` holds the rows of the stages named in `needs`. Returns this schema's own columns."""
        raise NotImplementedError

    def chunks(self, sound: Outline, known: Mapping[str, Row]) -> list[Span]:
        """What `hear` is to hear, in seconds, in order of time."""
        raise NotImplementedError

    def hear(self, sound: Sound, chunk: Span) -> Row:
        """The result for one chunk, JSON-serialisable; no other part of `sound` is read."""
        raise NotImplementedError

    def join(self, sound: Outline, known: Mapping[str, Row], heard: Sequence[Row]) -> Row:
        """The row of `annotate`, from what was heard in each of `chunks`."""
        raise NotImplementedError

"""The interface of a stage, which measures one recording and returns one row.

A stage catches only exceptions that it expects. The runner turns any other one into a `failed` row and continues.
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
    """What is known of the sound of a recording before it is decoded.

    `tracks` is 1, or the number of channels where each channel is a speaker.
    """

    recording_id: str
    sample_rate: int
    num_samples: int
    tracks: int


class Sound(Outline, Protocol):
    """A decoded recording at 16 kHz. It is read by range, so that memory does not depend on its length."""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) as float32 (tracks, samples) with a full scale of 1; the range is clipped to the
        sound."""
        ...


@dataclass(frozen=True)
class Resources:
    """The resources that one worker of a stage occupies."""

    cpus: float = 1.0
    gpus: float = 0.0


class Stage:
    """Base of all stages. Subclasses set the class variables and implement `annotate`."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: tuple[str, ...] = ()
    """Names of the stages whose rows this one reads."""
    packages: tuple[str, ...] = ()
    """Packages that the stage imports beyond those that are always installed."""
    schema: ClassVar[pa.Schema]
    piecewise: ClassVar[bool] = False
    """Whether chunks of a recording can be processed separately, by `chunks`, `annotate_chunk` and `join`. Together
    these return the same row as `annotate`."""
    resources: Resources = Resources()
    at_once: int = 1
    """Recordings that a worker processes at once, in threads, so that the batches of the models are fuller."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def extra(self) -> str:
        """The extra of this project that installs `packages`."""
        return self.name

    def model_hashes(self) -> dict[str, str]:
        """The sha256 of each file of weights, by the name of the model."""
        return {}

    def registered(self) -> tuple[str, ...]:
        """Names of the models that the stage loads. Those in the registry ship inside installed packages."""
        return ()

    @property
    def trusted(self) -> str | None:
        """The model whose files may run code, if the recipe allows it; None where no file is run as code."""
        return None

    def fingerprint(self, needed: Mapping[str, str]) -> str:
        """Hash of the configuration, the weights, the version and the fingerprints of the stages that this one
        reads."""
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
        """Load models. This is called once in a process, before the first `annotate`."""

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        """Measure `sound` and return the columns of `schema`. `rows` holds the rows of the stages named in `needs`."""
        raise NotImplementedError

    def chunks(self, sound: Outline, rows: Mapping[str, Row]) -> list[Span]:
        """The chunks that `annotate_chunk` is called for, in seconds, in order of time."""
        raise NotImplementedError

    def annotate_chunk(self, sound: Sound, rows: Mapping[str, Row], chunk: Span) -> Row:
        """Measure one chunk and return plain values that JSON can hold. No other part of `sound` is read."""
        raise NotImplementedError

    def join(self, sound: Outline, rows: Mapping[str, Row], results: Sequence[Row]) -> Row:
        """The row that `annotate` returns, from the results of `annotate_chunk` for each of `chunks`."""
        raise NotImplementedError

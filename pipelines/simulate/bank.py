"""The bank of a simulation: voices with their utterances, noises, and the sound of both on disk, read by range."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.output import to_json
from manifests.storage import StorageConfig
from manifests.whole import whole, whole_text
from pipelines.simulate.utterances import Span, Utterance

LEAST_RMS = 1e-5
"""A quieter recording is taken for silence: -100 dB of full scale."""


@dataclass(frozen=True)
class Voice:
    """One speaker."""

    name: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class Noise:
    """A recording of noise or music, at the rate of the simulation."""

    recording_id: str
    num_samples: int


@dataclass(frozen=True)
class Kept:
    """What is known of a recording whose sound the bank keeps."""

    num_samples: int
    rms: float
    """Root mean square over the speech of a voice, or over all of a noise; 1 is full scale."""


@dataclass(frozen=True)
class Bank:
    """What conversations are made of. Cheap to send to a worker: sound stays on disk."""

    folder: Path
    rate: int
    voices: tuple[Voice, ...]
    """Of one side, sorted by name."""
    noises: tuple[Noise, ...]
    rms: Mapping[str, float]
    """By the id of a recording, as in `Kept`."""

    def read(self, recording_id: str, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of a recording, float32 (samples,), with a root mean square of 1 over its speech."""
        import soundfile

        samples, _ = soundfile.read(
            sound_path(self.folder, recording_id, self.rate), stop - start, start, dtype="float32"
        )
        return samples / np.float32(self.rms[recording_id])


def sound_path(folder: Path, recording_id: str, rate: int) -> Path:
    """Where the sound of a recording is kept: mono W64 of float32, which takes any length."""
    return folder / f"{recording_id}-{rate}.w64"


def keep(
    row: Mapping[str, Any], stretches: Sequence[Span] | None, folder: Path, rate: int, config: StorageConfig
) -> Kept:
    """Decode a recording once and for all, mixed to mono at `rate`; what was kept before is not decoded again.

    `row` is a row of the view `annotations`; the level is measured over `stretches`, or over everything where there are
    none. Raises as `pipelines.audio.sound.TrackStream`.
    """
    path = sound_path(folder, row["recording_id"], rate)
    told = path.with_suffix(".json")
    if not told.exists():
        kept = _write(row, stretches, path, rate, config)
        with whole_text(told) as file:  # written last: it says that the sound is complete
            file.write(to_json({"num_samples": kept.num_samples, "rms": kept.rms}))
    return Kept(**json.loads(told.read_text()))


def _write(
    row: Mapping[str, Any], stretches: Sequence[Span] | None, path: Path, rate: int, config: StorageConfig
) -> Kept:
    import soundfile

    from pipelines.audio.reach import first_available_uri
    from pipelines.audio.sound import TrackStream

    position, energy, measured = 0, 0.0, 0
    with closing(TrackStream(first_available_uri(row, config), rate, row, config)) as stream, whole(path) as unfinished:
        with soundfile.SoundFile(unfinished, "w", rate, 1, "FLOAT", format="W64") as file:
            for block in stream:
                mono = block.mean(axis=0, dtype=np.float32)
                file.write(mono)
                for start, stop in _inside(stretches, position, position + len(mono)):
                    energy += float(np.sum(np.square(mono[start:stop], dtype=np.float64)))
                    measured += stop - start
                position += len(mono)
        stream.verify_sha256(row["sha256"])
    return Kept(position, (energy / max(1, measured)) ** 0.5)


def _inside(stretches: Sequence[Span] | None, first: int, last: int) -> Iterator[Span]:
    """Parts of stretches between two positions, counted from the first one; all of it where there are no stretches."""
    for start, stop in [(first, last)] if stretches is None else stretches:
        if start < last and stop > first:
            yield max(start, first) - first, min(stop, last) - first

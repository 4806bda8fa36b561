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
"""A recording with a lower level, -100 dB of full scale, is taken to be silent."""


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
class StoredSound:
    """The properties of a recording whose sound is in the bank."""

    num_samples: int
    rms: float
    """Root mean square over the speech of a voice, or over the whole of a noise; 1 is full scale."""


@dataclass(frozen=True)
class Bank:
    """The voices and noises that conversations are made from. It is small, since sound stays on disk."""

    folder: Path
    rate: int
    voices: tuple[Voice, ...]
    """The voices of one side, sorted by name."""
    noises: tuple[Noise, ...]
    rms: Mapping[str, float]
    """The root mean square of each recording, by its id, as in `StoredSound`."""

    def read(self, recording_id: str, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of a recording, float32 (samples,), with a root mean square of 1 over its speech."""
        import soundfile

        samples, _ = soundfile.read(
            sound_path(self.folder, recording_id, self.rate), stop - start, start, dtype="float32"
        )
        return samples / np.float32(self.rms[recording_id])


def sound_path(folder: Path, recording_id: str, rate: int) -> Path:
    """The file with the sound of a recording: mono W64 in float32, a format without a limit on its length."""
    return folder / f"{recording_id}-{rate}.w64"


def store_sound(
    row: Mapping[str, Any], stretches: Sequence[Span] | None, folder: Path, rate: int, config: StorageConfig
) -> StoredSound:
    """Decode a recording, mixed to mono at `rate`, unless it is in the bank already.

    `row` is a row of the view `annotations`; the level is measured over `stretches`, or over the whole recording
    if there are none. Raises as `pipelines.audio.sound.TrackStream`.
    """
    path = sound_path(folder, row["recording_id"], rate)
    properties = path.with_suffix(".json")
    if not properties.exists():
        stored = _write(row, stretches, path, rate, config)
        with whole_text(properties) as file:  # written last, as a sign that the sound is complete
            file.write(to_json({"num_samples": stored.num_samples, "rms": stored.rms}))
    return StoredSound(**json.loads(properties.read_text()))


def _write(
    row: Mapping[str, Any], stretches: Sequence[Span] | None, path: Path, rate: int, config: StorageConfig
) -> StoredSound:
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
    return StoredSound(position, (energy / max(1, measured)) ** 0.5)


def _inside(stretches: Sequence[Span] | None, first: int, last: int) -> Iterator[Span]:
    """The parts of stretches between two positions, relative to the first; without stretches, the whole range."""
    for start, stop in [(first, last)] if stretches is None else stretches:
        if start < last and stop > first:
            yield max(start, first) - first, min(stop, last) - first

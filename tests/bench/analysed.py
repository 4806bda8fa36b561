"""What the models of the built-in diarization give for a recording, kept in a folder, so that one run serves many.

The segmentation and the speaker embeddings take nearly all the time. Clustering and everything after it is cheap, and
can be repeated with other settings from what is kept here.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyannote.core import Annotation, Segment
from sounds import ArraySound

from manifests.fingerprint import fingerprint
from pipelines.audio.signal import ChannelMeter
from pipelines.audio.sound import tracks_of
from pipelines.stages.built_in import BuiltIn
from pipelines.stages.diarize import Diarize, speech_within
from pipelines.stages.diarizers import ChunkTurns
from pipelines.stages.speakers import Compensation
from pipelines.stages.stretches import Windows, stretches_of
from pipelines.stages.vad import Vad

COMPENSATION = Compensation.packaged()


@dataclass
class Chunk:
    """The output of the models for one track of a chunk of a recording."""

    start_s: float
    end_s: float
    track: int
    windows: Windows
    raw: np.ndarray
    """Unit speaker embeddings of the stretches, before compensation; NaN where a stretch has none."""

    @property
    def vectors(self) -> np.ndarray:
        """Compensated embeddings, as the stage has them."""
        return COMPENSATION(self.raw)


@dataclass
class Analysed:
    """The voice activity of a recording and the output of the models for each of its chunks."""

    vad: dict[str, Any]
    tracks: int
    num_samples: int
    chunks: list[Chunk]
    cpu_s: float


def load_sound(path: Path) -> ArraySound:
    """A file with its channels arranged as `speechmill annotate` arranges them: one track, or one for each speaker."""
    sound = ArraySound.from_file(path)
    meter = ChannelMeter(sound.tracks)
    meter.push(sound.samples)
    return ArraySound(tracks_of(sound.samples, meter.finish("")), path.stem)


def analysed(stage: Diarize, vad: Vad, path: Path, cache: Path | None) -> Analysed:
    """The output of the models for a file, from the cache if it is there."""
    name = hashlib.sha256(path.read_bytes()).hexdigest()[:20]
    key = fingerprint(
        {
            "step": stage.config.window_step_s,
            "chunk": stage.config.chunk_s,
            "models": stage.model_hashes(),
            "vad": vad.fingerprint({}),
        }
    )
    file = None if cache is None else cache / f"{name}-{key[:12]}.npz"
    if file is not None and file.is_file():
        return _read(file)
    diarizer = stage.diarizer
    assert isinstance(diarizer, BuiltIn)
    diarizer.embedding.compensate = lambda vectors: vectors  # type: ignore[assignment]  # applied afterwards
    sound = load_sound(path)
    row = vad.annotate(sound, {})
    known: Mapping[str, Any] = {"vad": row}
    chunks = []
    begun = time.process_time()
    for start_s, end_s in stage.chunks(sound, known):
        first, last = (round(edge * sound.sample_rate) for edge in (start_s, end_s))
        for track in range(sound.tracks):
            speech = None if sound.tracks == 1 else speech_within(row, track, (start_s, end_s))
            if speech != []:
                windows, _, raw = diarizer.analyse(sound.samples[track, first:last], speech)
                chunks.append(Chunk(start_s, end_s, track, windows, raw))
    found = Analysed(row, sound.tracks, sound.num_samples, chunks, time.process_time() - begun)
    if file is not None:
        _write(file, found)
    return found


@dataclass
class _Outline:
    """What the stage wants to know of a recording to join its chunks."""

    recording_id: str
    num_samples: int
    tracks: int
    sample_rate: int = 16000


def diarized(stage: Diarize, output: Analysed) -> dict[str, Any]:
    """The row of the stage, from the output of the models."""
    diarizer = stage.diarizer
    assert isinstance(diarizer, BuiltIn)
    found: dict[tuple[float, float], list[ChunkTurns]] = {}
    for chunk in output.chunks:
        tracks = found.setdefault((chunk.start_s, chunk.end_s), [ChunkTurns([], {}) for _ in range(output.tracks)])
        given = chunk.windows, stretches_of(chunk.windows), chunk.vectors
        if output.tracks == 1:
            tracks[0] = diarizer.decide(*given, chunk.windows.num_samples)
        else:
            speech = speech_within(output.vad, chunk.track, (chunk.start_s, chunk.end_s))
            tracks[chunk.track] = diarizer.decide_side(*given, speech, stage.config.side_prior)
    chunks = [{"tracks": [dataclasses.asdict(turns) for turns in tracks]} for tracks in found.values()]
    return stage.join(_Outline("", output.num_samples, output.tracks), {"vad": output.vad}, chunks)


def annotation(row: dict[str, Any]) -> Annotation:
    """The turns of a row as an object of pyannote.core."""
    turns = Annotation()
    for number, turn in enumerate(row["turns"]):
        turns[Segment(turn["start_s"], turn["end_s"]), number] = turn["speaker"]
    return turns


def _write(file: Path, found: Analysed) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"vad": found.vad, "tracks": found.tracks, "num_samples": found.num_samples, "cpu_s": found.cpu_s}
    about["chunks"] = [[chunk.start_s, chunk.end_s, chunk.track, chunk.windows.num_samples] for chunk in found.chunks]
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, chunk in enumerate(found.chunks):
        arrays |= {
            f"starts{number}": chunk.windows.starts,
            f"classes{number}": chunk.windows.classes,
            f"raw{number}": chunk.raw,
        }
    unfinished = file.with_suffix(".unfinished")
    with unfinished.open("wb") as opened:
        np.savez_compressed(opened, **arrays)
    unfinished.rename(file)


def _read(file: Path) -> Analysed:
    with np.load(file, allow_pickle=False) as saved:
        about = json.loads(saved["about"].tobytes())
        chunks = [
            Chunk(start_s, end_s, track, Windows(saved[f"starts{n}"], saved[f"classes{n}"], count), saved[f"raw{n}"])
            for n, (start_s, end_s, track, count) in enumerate(about["chunks"])
        ]
    for chunk in chunks:
        if len(stretches_of(chunk.windows).first) != len(chunk.raw):
            raise ValueError(f"{file}: the stretches have changed since it was written; delete it")
    return Analysed(about["vad"], about["tracks"], about["num_samples"], chunks, about["cpu_s"])

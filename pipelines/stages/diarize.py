"""Diarization: which speaker speaks when.

A diarization model processes the recording in chunks, and the speakers of the chunks are linked. Where each channel is
one side of a conversation, each is processed by itself, and its turns cover what voice activity found there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.install import install
from manifests.schemas import DIARIZE
from pipelines.stages.base import Outline, Resources, Row, Sound, Span, Stage
from pipelines.stages.clustering import log_odds
from pipelines.stages.confidence import of_count
from pipelines.stages.diarizers import ChunkTurns, Diarizer
from pipelines.stages.linking import REVISED_S, centroid, chunk_edges, link
from pipelines.stages.sortformer import EXTRA, PACKAGES, is_sortformer
from pipelines.stages.turns import summary
from runtime import models
from runtime.batches import PRECISIONS, resolve_device
from runtime.errors import MissingExtraError, SpeechmillError
from runtime.memory import release

if TYPE_CHECKING:
    from pipelines.stages.built_in import BuiltIn

BUILT_IN = ("pyannote-segmentation-3.0", "campplus")
"""Models of the registry that the built-in pipeline loads."""
RELEASED_S = 60.0
"""After a chunk of this length, freed memory is given back to the system. After shorter ones that would take a
noticeable share of their time."""


@dataclass(frozen=True)
class DiarizeConfig:
    """Defaults: the built-in pipeline with models from installed packages. See docs/diarization.md."""

    pipeline: str | None = None
    """Another model instead of the built-in pipeline: a pipeline of pyannote.audio or a Sortformer for transformers, by
    hub id, folder or config.yaml. None of its files is run as code, unless `trust` is set."""
    trust: bool = False
    """Load a pipeline whose files may run code of their own: other classes than pyannote's, pickled checkpoints."""
    revision: str | None = None
    """Commit or branch of a hub id; main if not given. The fingerprint holds the commit that it resolved to."""
    window_step_s: float = 5.0
    """Step in seconds between the windows of 10 s in which the segmentation model tells voices apart. Built-in pipeline
    only."""
    one_speaker_prior: float = 1.0
    """Prior log odds that two groups of speech are of one speaker: a larger value finds fewer speakers. Built-in
    pipeline only."""
    side_prior: float = 10.0
    """Added to it where each channel is one side of a conversation, since most sides are one person. Built-in pipeline
    only: with another one, each side is taken for one speaker."""
    min_speaker_s: float = 1.5
    """Least speech of a speaker in a recording, in seconds; what somebody says who speaks less is assigned to the other
    speakers. Built-in pipeline, and linking of chunks."""
    min_speaker_share: float = 0.02
    """The same as a share of all speech in the recording; the larger of the two limits counts. Whoever speaks 10 s is a
    speaker, whatever the share."""
    max_speakers: int | None = None
    """The most speakers that a recording may have; unlimited if not given. Not for a Sortformer."""
    chunk_s: float = 600.0
    """Longer recordings are cut into chunks of about this length in seconds, whose speakers are linked afterwards. Not
    for a Sortformer, which processes a recording as a whole."""
    link_threshold: float = 0.15
    """Cosine distance of embeddings up to which speakers of different chunks are linked. Only for a pipeline of
    pyannote.audio; the built-in pipeline links speakers by the log odds by which it clusters."""
    sortformer_threshold: float = 0.5
    """Probability above which a speaker speaks in a frame. Only for a Sortformer."""
    batch_size: int = 8
    """Windows, or stretches of equal length, in one call of a model: 8 is fastest on a CPU, a GPU needs 32 or more."""
    recordings_at_once: int = 1
    """Recordings whose windows share calls of the models: where most are short, a GPU needs many of them. Results
    change in the last digits."""
    threads: int = 1
    """CPU threads of the models. More than one may change results in the last digits."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where the process that reads the recipe sees a GPU. Results differ in the last digits
    between devices."""
    precision: str = "float32"
    """Arithmetic of the segmentation model: float32, or float16 for cuda, which changes the speaker in less than 2 % of
    frames. The embedding model stays in float32, since its values exceed the range of float16."""

    def __post_init__(self) -> None:
        if not 0 < self.window_step_s <= 10:
            raise ValueError(f"window_step_s must be above 0 and at most 10, not {self.window_step_s}")
        if not -20 <= self.one_speaker_prior <= 20:
            raise ValueError(f"one_speaker_prior must lie in [-20, 20], not {self.one_speaker_prior}")
        if not -20 <= self.side_prior <= 20:
            raise ValueError(f"side_prior must lie in [-20, 20], not {self.side_prior}")
        if self.min_speaker_s < 0:
            raise ValueError(f"min_speaker_s must be at least 0, not {self.min_speaker_s}")
        if not 0 <= self.min_speaker_share < 1:
            raise ValueError(f"min_speaker_share must be at least 0 and below 1, not {self.min_speaker_share}")
        if not 0 <= self.link_threshold <= 2:
            raise ValueError(f"link_threshold must lie in [0, 2], not {self.link_threshold}")
        if self.chunk_s < 10:
            raise ValueError(f"chunk_s must be at least 10, the length of a window in seconds, not {self.chunk_s}")
        if not 0 < self.sortformer_threshold < 1:
            raise ValueError(f"sortformer_threshold must lie between 0 and 1, not {self.sortformer_threshold}")
        for name in ("batch_size", "recordings_at_once", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_speakers is not None and self.max_speakers < 1:
            raise ValueError("max_speakers must be at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        # Resolved here, once in a run: else each worker might find another device, and so have another fingerprint.
        object.__setattr__(self, "device", resolve_device(self.device))


class Diarize(Stage):
    """Rows of `manifests.schemas.DIARIZE`; speakers are named SPEAKER_00, SPEAKER_01, ... by order of first speaking.

    A diarizer (`pipelines.stages.diarizers`) processes each chunk of each track alone, so that time is linear in the
    duration and memory bounded by a chunk, and `pipelines.stages.linking` links the speakers of the chunks of a track.
    Chunks without speech are skipped. Speakers of different tracks are different people.
    """

    name = "diarize"
    version = 5
    needs = ("vad",)
    schema = DIARIZE
    piecewise = True
    config: DiarizeConfig

    def __init__(self, config: DiarizeConfig) -> None:
        super().__init__(config)
        self.resources = Resources(cpus=float(config.threads), gpus=1.0 if config.device == "cuda" else 0.0)
        self.at_once = config.recordings_at_once

    @property
    def packages(self) -> tuple[str, ...]:  # type: ignore[override]  # a class variable of stages with one set of them
        return PACKAGES if self._is_sortformer else ("pyannote.audio", "torch", "torchaudio")

    @property
    def extra(self) -> str:
        return EXTRA if self._is_sortformer else self.name

    def registered(self) -> tuple[str, ...]:
        return BUILT_IN if self._named is None else ()

    def model_hashes(self) -> dict[str, str]:
        if self._named is None:
            return {name: models.get(name).sha256 for name in BUILT_IN}
        return {self._named: models.identity(self._named)}

    @property
    def trusted(self) -> str | None:
        return self._named if self.config.trust else None

    @property
    def _named(self) -> str | None:
        """The pipeline with its revision, in the form that `runtime.models` resolves; None for the built-in one."""
        named, revision = self.config.pipeline, self.config.revision
        return f"{named}@{revision}" if named and revision else named

    @functools.cached_property
    def _is_sortformer(self) -> bool:
        """Whether the recipe names a Sortformer, which processes each recording as a whole."""
        try:
            return self._named is not None and is_sortformer(models.resolve(self._named)[0])
        except SpeechmillError:  # raised again, with its remedy, where the model is loaded
            return False

    def setup(self) -> None:
        # pyannote.audio sends usage metrics unless this is set before it is imported.
        os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
        # cuBLAS is deterministic only with a workspace of fixed size, which it reads when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.diarizer: Diarizer = self._loaded_sortformer() if self._is_sortformer else self._loaded_pipeline()

    def _loaded_sortformer(self) -> Diarizer:
        from pipelines.stages import sortformer

        config, named = self.config, self._named
        assert named is not None
        if config.max_speakers is not None:
            what = f"pipeline {named!r}: max_speakers does not apply to a Sortformer"
            raise SpeechmillError(what, "remove max_speakers from [annotate.diarize]")
        path = models.resolve(named)[0]
        return sortformer.load(
            path, named, config.device, config.precision, config.threads, config.sortformer_threshold
        )

    def _loaded_pipeline(self) -> Diarizer:
        """The built-in pipeline, or one of pyannote.audio. MissingExtraError where packages are missing."""
        try:
            from pipelines.stages.built_in import BuiltIn, Limits
            from pipelines.stages.pyannote_pipeline import Pyannote
        except ImportError as error:
            raise MissingExtraError(f"diarize needs pyannote.audio: {error}", install(["diarize"])) from error
        config = self.config
        how_to_run = config.device, config.precision, config.batch_size, config.threads
        if self._named is not None:
            return Pyannote(self._named, config.trust, config.max_speakers, *how_to_run)
        limits = Limits(config.one_speaker_prior, config.min_speaker_s, config.min_speaker_share, config.max_speakers)
        return BuiltIn(config.window_step_s, limits, *how_to_run)

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        return self.join(sound, rows, [self.annotate_chunk(sound, rows, chunk) for chunk in self.chunks(sound, rows)])

    def chunks(self, sound: Outline, rows: Mapping[str, Row]) -> list[Span]:
        if sound.tracks > 1 and self._named is not None:
            return []
        speech = [(segment["start_s"], segment["end_s"]) for segment in rows["vad"]["segments"]]
        duration_s = sound.num_samples / sound.sample_rate
        edges = [0.0, duration_s] if self._is_sortformer else chunk_edges(duration_s, self.config.chunk_s, speech)
        return [
            (start, end)
            for start, end in itertools.pairwise(edges)
            if any(first < end and last > start for first, last in speech)
        ]

    def annotate_chunk(self, sound: Sound, rows: Mapping[str, Row], chunk: Span) -> Row:
        """The fields of `pipelines.stages.diarizers.ChunkTurns` of each track, with times from the start of the
        chunk."""
        found = [self._track_turns(sound, track, rows, chunk) for track in range(sound.tracks)]
        if chunk[1] - chunk[0] >= RELEASED_S:
            release()
        return {"tracks": [dataclasses.asdict(turns) for turns in found]}

    def _track_turns(self, sound: Sound, track: int, rows: Mapping[str, Row], chunk: Span) -> ChunkTurns:
        first, last = (round(edge * sound.sample_rate) for edge in chunk)

        def read(start: int, stop: int) -> np.ndarray:
            return sound.read(first + start, first + stop)[track]

        if sound.tracks == 1:
            return self.diarizer(read, last - first, sound.recording_id)
        side: BuiltIn = self.diarizer  # type: ignore[assignment]  # no other one has chunks of several tracks
        return side.of_side(read, last - first, speech_within(rows["vad"], track, chunk), self.config.side_prior)

    def join(self, sound: Outline, rows: Mapping[str, Row], results: Sequence[Row]) -> Row:
        starts_s = [start for start, _ in self.chunks(sound, rows)]
        spoken: list[tuple[Any, ...]] = []
        certain: list[float | None] = []
        for track in range(sound.tracks):
            if sound.tracks > 1 and self._named is not None:
                mine = [row for row in rows["vad"]["segments"] if row["track"] == track]
                spoken += [(f"track {track}", track, row["start_s"], row["end_s"], None) for row in mine]
                certain.append(None)
                continue
            chunks = [chunk["tracks"][track] for chunk in results]
            linked, certainty = self._linked(starts_s, chunks, sound.tracks > 1)
            spoken += [(f"track {track} person {person}", track, *rest) for person, *rest in linked]
            certain += [certainty] if linked else []
        turns = _turns(spoken)
        known = [value for value in certain if value is not None]
        return {
            "turns": turns,
            "method": "pipeline" if sound.tracks == 1 else "channels",
            "speakers_confidence": math.prod(known) if turns and len(known) == len(certain) else None,
            "speaker_confidence": _mean_confidence(turns),
            **summary(turns, sound.num_samples / sound.sample_rate),
        }

    def _linked(
        self, starts_s: Sequence[float], results: Sequence[Row], is_side: bool
    ) -> tuple[list[tuple[int, float, float, float | None]], float | None]:
        """Link the speakers of a track from its chunks, which start at `starts_s`.

        Returns person, start, end and confidence of each turn, and the probability that the number of persons is right.
        """
        config = self.config
        # Each speaker of each chunk is one element of `vectors`, `chunk_of` and `lengths_s`.
        spoken: list[tuple[int, float, float, float | None]] = []
        vectors: list[list[float]] = []
        chunk_of: list[int] = []
        lengths_s: list[float] = []
        for number, (start_s, chunk) in enumerate(zip(starts_s, results, strict=True)):
            turns, embeddings = chunk["turns"], chunk["embeddings"]
            if len(results) > 1 and embeddings is None and turns:
                raise SpeechmillError(
                    f"pipeline {config.pipeline!r} gives no speaker embeddings to link chunks by",
                    "name another pipeline, or raise chunk_s above the longest recording",
                )
            for label in dict.fromkeys(label for label, *_ in turns):
                mine = [(start, end, confidence) for speaker, start, end, confidence in turns if speaker == label]
                spoken += [
                    (len(chunk_of), start_s + start, start_s + end, confidence) for start, end, confidence in mine
                ]
                chunk_of.append(number)
                lengths_s.append(sum(end - start for start, end, _ in mine))
                vectors.append([np.nan] if embeddings is None else embeddings[label])
        persons = list(range(len(chunk_of)))
        table, weights = np.array(vectors), np.array(lengths_s)
        if len(results) > 1 and vectors:
            side_prior = config.side_prior if is_side else 0.0
            persons = link(
                table,
                chunk_of,
                lengths_s,
                functools.partial(self._odds, side_prior),
                config.min_speaker_s,
                config.min_speaker_share,
                config.max_speakers,
                # The prior of a side would join all who speak briefly, though a chunk told them apart in spite of it.
                revised_s=0.0 if is_side else REVISED_S,
            )
        turns = [(persons[speaker], *rest) for speaker, *rest in spoken]
        if self._named is not None or not persons:
            return turns, None
        groups = [np.flatnonzero(np.array(persons) == person) for person in sorted(set(persons))]
        centroids = np.stack([centroid(table, weights, group) for group in groups])
        total_s = sum(end - start for _, start, end, _ in spoken)
        mean = sum((end - start) * (confidence or 0.0) for _, start, end, confidence in spoken) / total_s
        spoken_s = np.array([weights[group].sum() for group in groups])
        return turns, of_count(mean, centroids, spoken_s, is_side)

    def _odds(self, more_prior: float, cosine: np.ndarray, one_s: np.ndarray, other_s: np.ndarray) -> np.ndarray:
        """Log odds, or another measure that is above zero where speakers of two chunks are to be linked."""
        if self._named is None:
            return log_odds(cosine, one_s, other_s) + self.config.one_speaker_prior + more_prior
        return cosine - 1 + self.config.link_threshold


def speech_within(vad: Row, track: int, chunk: Span) -> list[Span]:
    """The speech of a track within a chunk, in seconds from the start of the chunk."""
    start_s, end_s = chunk
    mine = [(row["start_s"], row["end_s"]) for row in vad["segments"] if row["track"] == track]
    inside = [(max(first, start_s), min(last, end_s)) for first, last in mine if first < end_s and last > start_s]
    return [(first - start_s, last - start_s) for first, last in inside]


def _mean_confidence(turns: Sequence[Row]) -> dict[str, float | None]:
    """The mean confidence of the turns of each speaker, weighted by their lengths; None where turns have none."""
    mean: dict[str, float | None] = {}
    for speaker in sorted({turn["speaker"] for turn in turns}):
        mine = [turn for turn in turns if turn["speaker"] == speaker]
        weighted = [
            turn["confidence"] * (turn["end_s"] - turn["start_s"]) for turn in mine if turn["confidence"] is not None
        ]
        total_s = sum(turn["end_s"] - turn["start_s"] for turn in mine)
        mean[speaker] = sum(weighted) / total_s if len(weighted) == len(mine) else None
    return mean


def _turns(spoken: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows of turns in order of start, from (speaker, track, start, end, confidence).

    Turns of one speaker that touch become one, whose confidence is their mean, weighted by their lengths.
    """
    names: dict[str, str] = {}
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    turns: list[dict[str, Any]] = []
    for speaker, track, start, end, confidence in sorted(spoken, key=lambda turn: (turn[2], turn[1], turn[3], turn[0])):
        name = names.setdefault(speaker, f"SPEAKER_{len(names):02d}")
        before = latest.get((speaker, track))
        if before is not None and start <= before["end_s"] + 1e-6:
            length_s, more_s = before["end_s"] - before["start_s"], max(0.0, end - before["end_s"])
            if confidence is not None and more_s:
                before["confidence"] = (before["confidence"] * length_s + confidence * more_s) / (length_s + more_s)
            before["end_s"] = max(before["end_s"], round(end, 6))
            continue
        turn = {
            "speaker": name,
            "track": track,
            "start_s": round(start, 6),
            "end_s": round(end, 6),
            "confidence": confidence,
        }
        latest[speaker, track] = turn
        turns.append(turn)
    return turns

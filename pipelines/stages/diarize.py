"""Diarization: who speaks when, from the channels where each is a speaker, else by pyannote's pipeline in chunks."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.install import install
from manifests.schemas import DIARIZE
from pipelines.stages.base import Outline, Resources, Row, Sound, Span, Stage
from pipelines.stages.linking import chunk_edges, link
from pipelines.stages.turns import summary
from runtime import models
from runtime.batches import PRECISIONS, fit, resolve_device
from runtime.errors import MissingExtraError, RecipeError, SpeechmillError

OFFLINE = ("pyannote-segmentation-3.0", "ge2e")


@dataclass(frozen=True)
class DiarizeConfig:
    """Defaults: segmentation-3.0 and GE2E embeddings, both from installed packages."""

    pipeline: str | None = None
    """A whole pyannote pipeline instead: hub id, folder or config.yaml. Of its files none is run, unless `trust`."""
    trust: bool = False
    """Load a pipeline whose files may run code of their own: other classes than pyannote's, pickled checkpoints."""
    revision: str | None = None
    """Commit or branch of a hub id; main if not given. The fingerprint holds the commit that it stood for."""
    threshold: float = 0.45
    """Centroid linkage stops at this Euclidean distance of unit vectors. Built-in pipeline only."""
    min_cluster_size: int = 12
    """Smaller clusters of 10 s windows join the nearest large one. Built-in pipeline only."""
    segmentation_step: float = 0.2
    """Step of the 10 s windows, as a share of their length. Built-in pipeline only."""
    max_speakers: int | None = None
    """Most speakers a recording may have; open if not given."""
    chunk_s: float = 600.0
    """Longer recordings are cut into chunks of about this length, whose speakers are linked afterwards."""
    link_threshold: float = 0.15
    """Cosine distance up to which speakers of different chunks are one. It belongs to the embedding: set it anew for
    another pipeline."""
    min_person_s: float = 12.0
    """Linking gives those who speak less in the whole recording, or less than a tenth of its speech, to the nearest
    other: what `min_cluster_size` is in one chunk."""
    batch_size: int = 32
    """Windows in one call of either model."""
    recordings_at_once: int = 1
    """Recordings whose windows share calls: where most are short, a GPU wants many. Results move in the last digits."""
    threads: int = 1
    """CPU threads of the models. More may move results in the last digits."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where the process that reads the recipe sees a GPU. Results move in the last digits."""
    precision: str = "float32"
    """Arithmetic of the segmentation model: float32, or float16 for cuda, which gives under 2 % of frames to others.
    The embedding model keeps float32: what it hears spans more than a half float does."""

    def __post_init__(self) -> None:
        if not 0 < self.segmentation_step <= 1:
            raise ValueError(f"segmentation_step must lie in (0, 1], not {self.segmentation_step}")
        if not 0 <= self.threshold <= 2:
            raise ValueError(f"threshold must lie in [0, 2], not {self.threshold}")
        if not 0 <= self.link_threshold <= 2:
            raise ValueError(f"link_threshold must lie in [0, 2], not {self.link_threshold}")
        if not 1 <= self.min_cluster_size <= 20:
            raise ValueError(f"min_cluster_size must lie between 1 and 20, not {self.min_cluster_size}")
        if self.chunk_s < 10:
            raise ValueError(f"chunk_s must be at least the 10 s that the models read at once, not {self.chunk_s}")
        for name in ("batch_size", "recordings_at_once", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_speakers is not None and self.max_speakers < 1:
            raise ValueError("max_speakers must be at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        # Settled here, once a run: workers must not each find a device, and so a fingerprint, of their own.
        object.__setattr__(self, "device", resolve_device(self.device))


class Diarize(Stage):
    """Rows of `manifests.schemas.DIARIZE`; speakers are named SPEAKER_00, SPEAKER_01, ... by order of first speaking.

    Where each channel is a speaker, turns are the stretches that voice activity found there. Otherwise pyannote's
    pipeline hears each chunk on its own (time linear in the duration, memory bounded by a chunk) and
    `pipelines.stages.linking` joins the speakers of the chunks. Chunks without speech are not heard at all.
    """

    name = "diarize"
    version = 3
    needs = ("vad",)
    packages = ("pyannote.audio", "torch", "torchaudio")
    schema = DIARIZE
    piecewise = True
    config: DiarizeConfig

    def __init__(self, config: DiarizeConfig) -> None:
        super().__init__(config)
        self.resources = Resources(cpus=float(config.threads), gpus=1.0 if config.device == "cuda" else 0.0)
        self.at_once = config.recordings_at_once

    def registered(self) -> tuple[str, ...]:
        return OFFLINE if self._named is None else ()

    def model_hashes(self) -> dict[str, str]:
        if self._named is None:
            return {name: models.get(name).sha256 for name in OFFLINE}
        return {self._named: models.identity(self._named)}

    @property
    def trusted(self) -> str | None:
        return self._named if self.config.trust else None

    @property
    def _named(self) -> str | None:
        """The pipeline as `runtime.models` resolves it, with its revision; None for the built-in one."""
        named, revision = self.config.pipeline, self.config.revision
        return f"{named}@{revision}" if named and revision else named

    def setup(self) -> None:
        # pyannote sends usage metrics unless told not to, and reads this when imported.
        os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
        # It averages over nothing where a speaker is silent, and wants the NaN that this gives.
        for message in ("Mean of empty slice", "invalid value encountered in divide"):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        # cuBLAS is deterministic only with a fixed workspace, read when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            import torch
            from pyannote.audio import Pipeline

            from pipelines.stages.pretrained import load_pipeline
            from pipelines.stages.speakers import OfflineDiarization
        except ImportError as error:
            raise MissingExtraError(f"diarize needs pyannote.audio: {error}", install(["diarize"])) from error
        config = self.config
        pipeline: Any
        if config.pipeline is None:
            pipeline = OfflineDiarization(segmentation_step=config.segmentation_step)
            clustering = {
                "method": "centroid",
                "threshold": config.threshold,
                "min_cluster_size": config.min_cluster_size,
            }
            pipeline.instantiate({"clustering": clustering, "segmentation": {"min_duration_off": 0.0}})
        else:
            remedy = "name a folder that holds it, or a hub id whose terms you accepted, with the hub in reach"
            assert self._named is not None
            try:
                place = models.resolve(self._named)[0]
                pipeline = Pipeline.from_pretrained(place) if config.trust else load_pipeline(place)
            except RecipeError:
                raise
            except (OSError, ValueError, SpeechmillError) as error:
                raise SpeechmillError(f"pipeline {self._named!r}: {error}", remedy) from error
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = config.batch_size
        self.pipeline = pipeline.to(torch.device(config.device))
        size, threads = config.batch_size, config.threads
        fit(pipeline._segmentation.model, "diarize, segmentation", size, config.precision, threads)
        fit(pipeline._embedding.model_, "diarize, embedding", size, threads=threads)

    def annotate(self, sound: Sound, known: Mapping[str, Row]) -> Row:
        return self.join(sound, known, [self.hear(sound, chunk) for chunk in self.chunks(sound, known)])

    def chunks(self, sound: Outline, known: Mapping[str, Row]) -> list[Span]:
        if sound.tracks > 1:
            return []
        speech = [(row["start_s"], row["end_s"]) for row in known["vad"]["segments"]]
        edges = chunk_edges(sound.num_samples / sound.sample_rate, self.config.chunk_s, speech)
        return [
            (start, end)
            for start, end in itertools.pairwise(edges)
            if any(first < end and last > start for first, last in speech)
        ]

    def hear(self, sound: Sound, chunk: Span) -> Row:
        """Turns (label, start, end) in seconds from the chunk's start; speech and embedding, if any, of each label."""
        first, last = (round(edge * sound.sample_rate) for edge in chunk)
        turns, vectors = self._diarize(sound.read(first, last)[:1], sound.recording_id)
        labels = dict.fromkeys(label for label, _, _ in turns)
        embeddings = None if vectors is None else {label: vectors[label].tolist() for label in labels}
        return {"turns": turns, "embeddings": embeddings}

    def join(self, sound: Outline, known: Mapping[str, Row], heard: Sequence[Row]) -> Row:
        if sound.tracks > 1:
            method = "channels"
            segments = known["vad"]["segments"]
            spoken = [(f"track {row['track']}", row["track"], row["start_s"], row["end_s"]) for row in segments]
        else:
            method = "pipeline"
            starts = [start for start, _ in self.chunks(sound, known)]
            spoken = [(speaker, 0, start, end) for speaker, start, end in self._linked(starts, heard)]
        turns = _turns(spoken)
        return {"turns": turns, "method": method, **summary(turns, sound.num_samples / sound.sample_rate)}

    def _linked(self, starts_s: Sequence[float], heard: Sequence[Row]) -> list[tuple[str, float, float]]:
        """(speaker, start, end) of one track, from what was heard in chunks that start at `starts_s`."""
        spoken: list[tuple[int, float, float]] = []
        vectors: list[Any] = []
        where: list[int] = []
        speech_s: list[float] = []
        for number, (start_s, chunk) in enumerate(zip(starts_s, heard, strict=True)):
            turns, embeddings = chunk["turns"], chunk["embeddings"]
            if len(heard) > 1 and embeddings is None and turns:
                raise SpeechmillError(
                    f"pipeline {self.config.pipeline!r} gives no speaker embeddings to link chunks by",
                    "name another pipeline, or raise chunk_s above the longest recording",
                )
            for label in dict.fromkeys(label for label, _, _ in turns):
                mine = [(start, end) for speaker, start, end in turns if speaker == label]
                spoken += [(len(where), start_s + start, start_s + end) for start, end in mine]
                where.append(number)
                speech_s.append(sum(end - start for start, end in mine))
                vectors.append([np.nan] if embeddings is None else embeddings[label])
        persons = list(range(len(where)))
        if len(heard) > 1 and vectors:
            config = self.config
            persons = link(
                np.array(vectors), where, speech_s, config.link_threshold, config.min_person_s, config.max_speakers
            )
        return [(f"person {persons[speaker]}", start, end) for speaker, start, end in spoken]

    def _diarize(
        self, samples: np.ndarray, uri: str
    ) -> tuple[list[tuple[str, float, float]], dict[str, np.ndarray] | None]:
        """Turns (label, start, end) of float32 (1, samples) at 16 kHz and an embedding of each label, if there are."""
        import torch

        duration_s = samples.shape[1] / 16000
        file = {"waveform": torch.from_numpy(np.array(samples)), "sample_rate": 16000, "uri": uri}
        output: Any = self.pipeline(file, max_speakers=self.config.max_speakers)
        annotation = getattr(output, "speaker_diarization", output)
        vectors = getattr(output, "speaker_embeddings", None)
        embeddings = None if vectors is None else dict(zip(annotation.labels(), vectors, strict=True))
        turns = [
            (speaker, max(0.0, span.start), min(duration_s, span.end))
            for span, _, speaker in annotation.itertracks(yield_label=True)
        ]
        return [turn for turn in turns if turn[2] > turn[1]], embeddings


def _turns(heard: list[tuple[str, int, float, float]]) -> list[dict[str, Any]]:
    """Rows of turns in order of start, of (speaker, track, start, end); a speaker's turns that touch become one."""
    names: dict[str, str] = {}
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    turns: list[dict[str, Any]] = []
    for speaker, track, start, end in sorted(heard, key=lambda turn: (turn[2], turn[1], turn[3], turn[0])):
        name = names.setdefault(speaker, f"SPEAKER_{len(names):02d}")
        before = latest.get((speaker, track))
        if before is not None and start <= before["end_s"] + 1e-6:
            before["end_s"] = max(before["end_s"], round(end, 6))
            continue
        turn = {"speaker": name, "track": track, "start_s": round(start, 6), "end_s": round(end, 6)}
        latest[speaker, track] = turn
        turns.append(turn)
    return turns

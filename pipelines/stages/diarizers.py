"""What hears who speaks when in one chunk of sound: the built-in pipeline, a pyannote pipeline or a Sortformer.

Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipelines.stages import sortformer
from pipelines.stages.clustering import cluster
from pipelines.stages.segmentation import Segmentation
from pipelines.stages.sortformer import Read
from pipelines.stages.speakers import DIMENSION, HOP_SAMPLES, LENGTHS, WIDTH_SAMPLES, SpeakerEmbedding, features
from pipelines.stages.stretches import (
    FRAME_STEP,
    FRAME_WIDTH,
    Stretches,
    Windows,
    spans,
    speakers_active,
    stretches_of,
    time_of,
)
from runtime import models
from runtime.batches import batch_calls
from runtime.errors import RecipeError, SpeechmillError

SAMPLE_RATE = 16000
MIN_ALONE = 12
"""Frames in which a voice must speak alone for the others to be left out."""


Turn = tuple[str, float, float, float | None]
"""Speaker, start and end in seconds from the chunk's start, and the confidence, if there is one: the probability that
the speaker speaks, averaged over the turn. It is calibrated as it is, see docs/diarization.md."""


@dataclass(frozen=True)
class Heard:
    """Turns of the speakers of a chunk and what is known of the speakers; plain values."""

    turns: list[Turn]
    embeddings: dict[str, list[float]] | None
    """A vector of each speaker, by which those of several chunks are linked; None where the pipeline gives none."""


class Diarizer(Protocol):
    """Models that are loaded."""

    def __call__(self, read: Read, num_samples: int, name: str) -> Heard:
        """Who speaks when in `num_samples` at 16 kHz, which `read` gives by range; `name` is for messages."""
        ...


class BuiltIn:
    """Voices of windows of 10 s (segmentation-3.0), embedded (CAM++) and clustered to speakers.

    Every stretch of a voice is embedded once, in the window in which it lies most centrally, and by its middle 4 s.
    """

    def __init__(
        self,
        window_step_s: float,
        one_speaker_prior: float,
        min_speaker_s: float,
        min_speaker_share: float,
        max_speakers: int | None,
        device: str,
        precision: str,
        batch_size: int,
        threads: int,
    ) -> None:
        self.segmentation = Segmentation(window_step_s, device, precision, batch_size, threads)
        self.embedding = SpeakerEmbedding(device, batch_size, threads)
        self.limits = one_speaker_prior, min_speaker_s, min_speaker_share, max_speakers

    def __call__(self, read: Read, num_samples: int, name: str) -> Heard:
        return self.decide(*self.analyse(read(0, num_samples)), num_samples)

    def analyse(self, samples: np.ndarray) -> tuple[Windows, Stretches, np.ndarray]:
        """What the models say: windows, their stretches and the vectors (stretches, dimension) of these."""
        windows = self.segmentation(samples)
        stretches = stretches_of(windows)
        return windows, stretches, self._vectors(samples, stretches)

    def decide(self, windows: Windows, stretches: Stretches, vectors: np.ndarray, num_samples: int) -> Heard:
        """Turns of speakers, of what the models say."""
        if not len(stretches.first):
            return Heard([], {})
        found = cluster(stretches, vectors, *self.limits)
        active, probability = speakers_active(windows, stretches, found.labels, found.certainty)
        length_s = num_samples / SAMPLE_RATE
        turns: list[Turn] = []
        for speaker in range(active.shape[1]):
            for first, last in spans(active[:, speaker]):
                start, end = max(0.0, time_of(first)), min(length_s, time_of(last))
                if end > start:
                    turns.append((str(speaker), start, end, float(probability[first:last, speaker].mean())))
        heard = {speaker for speaker, *_ in turns}
        centroids = {str(number): vector.tolist() for number, vector in enumerate(found.centroids)}
        return Heard(turns, {speaker: centroids[speaker] for speaker in sorted(heard)})

    def _vectors(self, samples: np.ndarray, stretches: Stretches) -> np.ndarray:
        """Compensated embeddings (stretches, dimension); NaN for what is embedded elsewhere or too short."""
        central = np.flatnonzero(stretches.central)
        sounds = [_sound(samples, stretches, number) for number in central.tolist()]
        found = np.full((len(stretches.first), DIMENSION), np.nan)
        found[central] = self.embedding(sounds)
        return found


def _sound(samples: np.ndarray, stretches: Stretches, number: int) -> np.ndarray:
    """Features (frames, mels) of where a stretch's voice speaks alone, or of all of it where it hardly ever does."""
    frames = stretches.alone[number]
    if len(frames) < MIN_ALONE:
        frames = np.arange(stretches.first[number], stretches.last[number])
    most = LENGTHS[-1] * HOP_SAMPLES // FRAME_STEP + 1
    spare = max(0, len(frames) - most) // 2
    frames = frames[spare : spare + most]
    first = int(frames[0]) * FRAME_STEP
    powers = features(samples[first : int(frames[-1]) * FRAME_STEP + FRAME_WIDTH])
    middles = first + np.arange(len(powers)) * HOP_SAMPLES + WIDTH_SAMPLES / 2
    heard: np.ndarray = powers[np.isin(np.rint((middles - FRAME_WIDTH / 2) / FRAME_STEP), frames)]
    return heard


class Sortformer:
    """A Sortformer by path or hub id, which hears a recording as a whole and gives no embeddings."""

    def __init__(self, named: str, device: str, precision: str, threads: int) -> None:
        self.model = sortformer.load(models.resolve(named)[0], named, device, precision, threads)

    def __call__(self, read: Read, num_samples: int, name: str) -> Heard:
        return Heard([(*turn, None) for turn in self.model.turns(read, num_samples)], None)


class Pyannote:
    """A pyannote pipeline by path or hub id."""

    def __init__(
        self, named: str, trust: bool, max_speakers: int | None, device: str, precision: str, batch_size: int,
        threads: int,
    ) -> None:  # fmt: skip
        from pyannote.audio import Pipeline

        from pipelines.stages.pretrained import load_pipeline

        # The pipeline averages over nothing where a speaker is silent, and wants the NaN that this gives.
        for message in ("Mean of empty slice", "invalid value encountered in divide"):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        remedy = "name a folder that holds it, or a hub id whose terms you accepted, with the hub in reach"
        try:
            place = models.resolve(named)[0]
            pipeline: Any = Pipeline.from_pretrained(place) if trust else load_pipeline(place)
        except RecipeError:
            raise
        except (OSError, ValueError, SpeechmillError) as error:
            raise SpeechmillError(f"pipeline {named!r}: {error}", remedy) from error
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = batch_size
        self.pipeline, self.max_speakers = pipeline.to(torch.device(device)), max_speakers
        batch_calls(pipeline._segmentation.model, "diarize, segmentation", batch_size, precision, threads)
        batch_calls(pipeline._embedding.model_, "diarize, embedding", batch_size, threads=threads)

    def __call__(self, read: Read, num_samples: int, name: str) -> Heard:
        length_s = num_samples / SAMPLE_RATE
        file = {
            "waveform": torch.from_numpy(np.array(read(0, num_samples)))[None],
            "sample_rate": SAMPLE_RATE,
            "uri": name,
        }
        output: Any = self.pipeline(file, max_speakers=self.max_speakers)
        annotation = getattr(output, "speaker_diarization", output)
        vectors = getattr(output, "speaker_embeddings", None)
        turns: list[Turn] = [
            (str(speaker), max(0.0, span.start), min(length_s, span.end), None)
            for span, _, speaker in annotation.itertracks(yield_label=True)
            if min(length_s, span.end) > max(0.0, span.start)
        ]
        if vectors is None:
            return Heard(turns, None)
        known = {str(label): vector.tolist() for label, vector in zip(annotation.labels(), vectors, strict=True)}
        return Heard(turns, {label: known[label] for label in sorted({label for label, *_ in turns})})

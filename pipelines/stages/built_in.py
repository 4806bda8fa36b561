"""The built-in diarization of one chunk: segmentation of windows, speaker embeddings of stretches, and clustering.

Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

import numpy as np

from pipelines.stages.clustering import cluster
from pipelines.stages.diarizers import ChunkTurns, Read, Turn
from pipelines.stages.segmentation import Segmentation
from pipelines.stages.speakers import DIMENSION, HOP_SAMPLES, LENGTHS, WIDTH_SAMPLES, SpeakerEmbedding, features
from pipelines.stages.stretches import (
    FRAME_STEP,
    FRAME_WIDTH,
    SAMPLE_RATE,
    Stretches,
    Windows,
    spans,
    speakers_active,
    stretches_of,
    time_of,
)

MIN_ALONE_FRAMES = 12
"""A stretch in which the voice speaks alone for fewer frames is embedded from all of its frames."""


class BuiltIn:
    """Segmentation of windows of 10 s (segmentation-3.0), speaker embeddings (CAM++), and agglomerative clustering.

    Each stretch of speech is embedded once, in the window in which it lies most centrally, from the middle 4 s of it.
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

    def __call__(self, read: Read, num_samples: int, name: str) -> ChunkTurns:
        return self.decide(*self.analyse(read(0, num_samples)), num_samples)

    def analyse(self, samples: np.ndarray) -> tuple[Windows, Stretches, np.ndarray]:
        """The output of the models: windows, the stretches in them, and embeddings (stretches, dimension)."""
        windows = self.segmentation(samples)
        stretches = stretches_of(windows)
        return windows, stretches, self._vectors(samples, stretches)

    def decide(self, windows: Windows, stretches: Stretches, vectors: np.ndarray, num_samples: int) -> ChunkTurns:
        """Clustering and everything after it: turns of speakers from the output of `analyse`."""
        if not len(stretches.first):
            return ChunkTurns([], {})
        speakers = cluster(stretches, vectors, *self.limits)
        active, probability = speakers_active(windows, stretches, speakers.labels, speakers.certainty)
        length_s = num_samples / SAMPLE_RATE
        turns: list[Turn] = []
        for speaker in range(active.shape[1]):
            for first, last in spans(active[:, speaker]):
                start, end = max(0.0, time_of(first)), min(length_s, time_of(last))
                if end > start:
                    turns.append((str(speaker), start, end, float(probability[first:last, speaker].mean())))
        with_turns = sorted({speaker for speaker, *_ in turns})
        centroids = {str(number): vector.tolist() for number, vector in enumerate(speakers.centroids)}
        return ChunkTurns(turns, {speaker: centroids[speaker] for speaker in with_turns})

    def _vectors(self, samples: np.ndarray, stretches: Stretches) -> np.ndarray:
        """Compensated embeddings (stretches, dimension).

        Rows are NaN for stretches that another window holds more centrally, and for those too short to embed.
        """
        central = np.flatnonzero(stretches.central)
        powers = [_features(samples, stretches, number) for number in central.tolist()]
        vectors = np.full((len(stretches.first), DIMENSION), np.nan)
        vectors[central] = self.embedding(powers)
        return vectors


def _features(samples: np.ndarray, stretches: Stretches, number: int) -> np.ndarray:
    """Log-mel features (frames, mels) of the frames of a stretch in which its voice speaks alone.

    Where these are fewer than `MIN_ALONE_FRAMES`, all frames of the stretch are taken.
    """
    frames = stretches.alone[number]
    if len(frames) < MIN_ALONE_FRAMES:
        frames = np.arange(stretches.first[number], stretches.last[number])
    most = LENGTHS[-1] * HOP_SAMPLES // FRAME_STEP + 1
    spare = max(0, len(frames) - most) // 2
    frames = frames[spare : spare + most]
    first = int(frames[0]) * FRAME_STEP
    powers = features(samples[first : int(frames[-1]) * FRAME_STEP + FRAME_WIDTH])
    middles = first + np.arange(len(powers)) * HOP_SAMPLES + WIDTH_SAMPLES / 2
    kept: np.ndarray = powers[np.isin(np.rint((middles - FRAME_WIDTH / 2) / FRAME_STEP), frames)]
    return kept

"""The built-in diarization of one chunk: segmentation of windows, speaker embeddings of stretches, and clustering.

Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


Speech = Sequence[tuple[float, float]]
"""Start and end in seconds of stretches of speech in a chunk, in order, without overlaps."""


class Limits(NamedTuple):
    """Arguments of `pipelines.stages.clustering.cluster`."""

    prior: float
    min_speaker_s: float
    min_speaker_share: float
    max_speakers: int | None


class BuiltIn:
    """Segmentation of windows of 10 s (segmentation-3.0), speaker embeddings (CAM++), and agglomerative clustering.

    Each stretch of speech is embedded once, in the window in which it lies most centrally, from the middle 4 s of it.

    Of a track that is one side of a conversation, the speech that voice activity detection found is given. Then the
    turns cover exactly this speech, and what is heard elsewhere, as the leakage of the other side, is no voice.
    """

    def __init__(
        self,
        window_step_s: float,
        limits: Limits,
        device: str,
        precision: str,
        batch_size: int,
        threads: int,
    ) -> None:
        self.segmentation = Segmentation(window_step_s, device, precision, batch_size, threads)
        self.embedding = SpeakerEmbedding(device, batch_size, threads)
        self.limits = limits

    def __call__(self, read: Read, num_samples: int, name: str) -> ChunkTurns:
        return self.decide(*self.analyse(read(0, num_samples)), num_samples)

    def of_side(self, read: Read, num_samples: int, speech: Speech, more_prior: float) -> ChunkTurns:
        """Diarize one side of a conversation, whose `speech` is known.

        `more_prior` is added to the prior log odds that two groups are of one speaker.
        """
        if not speech:
            return ChunkTurns([], {})
        analysed = self.analyse(read(0, num_samples), speech)
        return self.decide_side(*analysed, speech, more_prior)

    def analyse(self, samples: np.ndarray, speech: Speech | None = None) -> tuple[Windows, Stretches, np.ndarray]:
        """The output of the models: windows, the stretches in them, and embeddings (stretches, dimension)."""
        windows = self.segmentation(samples, None if speech is None else frames_in(speech))
        stretches = stretches_of(windows)
        return windows, stretches, self._vectors(samples, stretches)

    def decide_side(
        self, windows: Windows, stretches: Stretches, vectors: np.ndarray, speech: Speech, more_prior: float
    ) -> ChunkTurns:
        """Clustering and everything after it, for one side of a conversation: turns that cover exactly its `speech`."""
        limits = self.limits._replace(prior=self.limits.prior + more_prior)
        if not len(stretches.first):  # voice activity without a voice: the other chunks tell whose it is
            return ChunkTurns([("0", *span, 0.0) for span in speech], {"0": [np.nan] * vectors.shape[1]})
        speakers = cluster(stretches, vectors, *limits)
        active, probability = speakers_active(
            windows, stretches, speakers.labels, speakers.certainty, frames_in(speech)
        )
        turns: list[Turn] = []
        for start_s, end_s in speech:
            first, last = (min(frame, len(active)) for frame in _frames(start_s, end_s))
            inside = active[first:last]
            for speaker in np.flatnonzero(inside.any(axis=0)).tolist():
                for begin, end in spans(inside[:, speaker]):
                    start = start_s if begin == 0 else time_of(first + begin)
                    stop = end_s if end == len(inside) else time_of(first + end)
                    sure = float(probability[first + begin : first + end, speaker].mean())
                    turns.append((str(speaker), start, stop, sure))
            if not inside.any():  # shorter than a frame
                turns.append(("0", start_s, end_s, 0.0))
        return _with_centroids(turns, speakers.centroids)

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
        return _with_centroids(turns, speakers.centroids)

    def _vectors(self, samples: np.ndarray, stretches: Stretches) -> np.ndarray:
        """Compensated embeddings (stretches, dimension).

        Rows are NaN for stretches that another window holds more centrally, and for those too short to embed.
        """
        central = np.flatnonzero(stretches.central)
        powers = [_features(samples, stretches, number) for number in central.tolist()]
        vectors = np.full((len(stretches.first), DIMENSION), np.nan)
        vectors[central] = self.embedding(powers)
        return vectors


def _with_centroids(turns: list[Turn], centroids: np.ndarray) -> ChunkTurns:
    """The turns with the centroid of each speaker who has any. `centroids` is (speakers, dimension)."""
    return ChunkTurns(
        turns, {speaker: centroids[int(speaker)].tolist() for speaker in sorted({row[0] for row in turns})}
    )


def _frames(start_s: float, end_s: float) -> tuple[int, int]:
    """The first frame of a span of time, and the frame after its last one."""
    first, last = (
        round((time_s * SAMPLE_RATE - (FRAME_WIDTH - FRAME_STEP) / 2) / FRAME_STEP) for time_s in (start_s, end_s)
    )
    return max(0, first), max(0, last)


def frames_in(speech: Speech) -> np.ndarray:
    """Whether each frame lies in a stretch of speech, bool (frames up to the end of the last stretch,)."""
    edges = [_frames(start_s, end_s) for start_s, end_s in speech]
    inside = np.zeros(max((last for _, last in edges), default=0), bool)
    for first, last in edges:
        inside[first:last] = True
    return inside


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

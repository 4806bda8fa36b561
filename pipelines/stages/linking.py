"""Long recordings in chunks: where to cut them, and which speakers of different chunks are one person."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def chunk_edges(duration_s: float, chunk_s: float, speech: Sequence[tuple[float, float]]) -> list[float]:
    """Edges in seconds, from 0 to the duration, of the fewest equal chunks of at most about `chunk_s`.

    An inner edge moves by up to a tenth of a chunk to the middle of the longest pause between stretches of `speech`, so
    that few words are cut; with no pause there it stays. Chunks are thus never longer than 1.2 `chunk_s`.

    >>> chunk_edges(100.0, 60.0, [(0.0, 47.0), (49.0, 99.0)])
    [0.0, 48.0, 100.0]
    """
    count = max(1, math.ceil(duration_s / chunk_s))
    step_s = duration_s / count
    ordered = sorted(speech)
    ends = itertools.accumulate((end for _, end in ordered), max)
    pauses = [(end, after[0]) for end, after in zip(ends, ordered[1:], strict=False) if after[0] > end]
    edges = [0.0]
    for index in range(1, count):
        low, high = (index - 0.1) * step_s, (index + 0.1) * step_s
        near = [(max(start, low), min(end, high)) for start, end in pauses if start < high and end > low]
        start, end = max(near, key=lambda pause: pause[1] - pause[0], default=(index * step_s, index * step_s))
        edges.append((start + end) / 2)
    return [*edges, duration_s]


def link(
    embeddings: np.ndarray,
    chunks: Sequence[int],
    speech_s: Sequence[float],
    threshold: float,
    min_speech_s: float = 0.0,
    max_speakers: int | None = None,
) -> list[int]:
    """Group chunk-level speakers into persons: group of each, numbered by first appearance.

    `embeddings` is (speakers, dimension), a centroid of each speaker of each chunk; `chunks` and `speech_s` say where
    and how long each spoke. Agglomerative clustering with average linkage on the cosine distance; two speakers of one
    chunk never meet (the pipeline heard them as different). Merging stops above `threshold`.

    A short chunk splits speakers into fragments that the whole recording would not. So, as pyannote does with small
    clusters, persons who speak less than `min_speech_s` (or a tenth of all speech, if that is less) then join the
    person with the nearest centroid, in their own chunk too; so do those beyond the `max_speakers` who speak most. A
    speaker without a usable centroid (NaN or zero: too little speech) joins whoever speaks most. Ties go to the
    earlier. Cubic in the number of chunk-level speakers, some hundred in ten hours; all else is linear in the duration.

    >>> link(np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]]), [0, 0, 1, 1], [9, 9, 9, 9], 0.2)
    [0, 1, 1, 0]
    """
    if not len(embeddings):
        return []
    vectors = np.array(embeddings, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    usable = [index for index in range(len(vectors)) if np.isfinite(norms[index]) and norms[index] > 0]
    groups = [[index] for index in usable]
    vectors[usable] /= norms[usable, None]
    unit = vectors[usable]
    distance = np.maximum(0.0, 1 - unit @ unit.T)
    where = np.asarray([chunks[index] for index in usable])
    distance[where[:, None] == where[None, :]] = np.inf
    while len(groups) > 1:
        first, second = divmod(int(np.argmin(distance)), len(groups))
        if distance[first, second] > threshold:
            break
        sizes = len(groups[first]), len(groups[second])
        merged = (sizes[0] * distance[first] + sizes[1] * distance[second]) / sum(sizes)
        merged[first] = np.inf
        distance[first], distance[:, first] = merged, merged
        distance = np.delete(np.delete(distance, second, 0), second, 1)
        groups[first] += groups.pop(second)
    spoken_s = [sum(speech_s[member] for member in group) for group in groups]
    least_s = min(min_speech_s, 0.1 * sum(speech_s))
    ranked = sorted(range(len(groups)), key=lambda group: -spoken_s[group])
    persons = [group for group in ranked if spoken_s[group] >= least_s][:max_speakers] or ranked[:1]
    centroids = np.stack([vectors[groups[person]].mean(axis=0) for person in persons]) if persons else vectors[:0]
    found = [groups[person] for person in persons] or [[]]
    for group in sorted(set(range(len(groups))) - set(persons)):
        found[_nearest(vectors[groups[group]].mean(axis=0), centroids)].extend(groups[group])
    found[0].extend(sorted(set(range(len(vectors))) - set(usable)))
    owner = {member: number for number, group in enumerate(sorted(found, key=min)) for member in group}
    return [owner[index] for index in range(len(vectors))]


def _nearest(vector: np.ndarray, centroids: np.ndarray) -> int:
    return int(np.argmax(centroids @ vector / np.linalg.norm(centroids, axis=1)))

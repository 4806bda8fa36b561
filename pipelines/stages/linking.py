"""Long recordings in chunks: the edges of the chunks, and the linking of speakers of different chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.stages.clustering import joined, least_speech_s

REVISED_S = 10.0
"""A chunk may divide one speaker into two. Of a person who speaks less than this, the embedding may tell so later."""


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
    odds: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    min_speech_s: float = 0.0,
    min_share: float = 0.0,
    max_speakers: int | None = None,
    revised_s: float = REVISED_S,
) -> list[int]:
    """Group the speakers of chunks into persons, and return the person of each, numbered by first appearance.

    `embeddings` (speakers, dimension) holds a centroid of each speaker of each chunk, `chunks` the chunk of each, and
    `speech_s` how long each spoke. Persons are joined by `pipelines.stages.clustering.joined` with the `odds` of cosine
    and lengths; two speakers of one chunk are never joined in this way.

    In a short chunk a speaker may be split where in the whole recording they would not. So a person who speaks less
    than `revised_s` is joined to another one if their log odds are positive, even in the same chunk. Persons who speak
    less than `least_speech_s` are then joined to the person with the nearest centroid, even in the same chunk, and so
    are those beyond the `max_speakers` who speak most. A speaker without a usable centroid (NaN or zero: too little
    speech) is joined to whoever speaks most. Ties go to the earlier. Time is cubic in the number of speakers of all
    chunks, some hundred in ten hours.

    >>> def odds(cosine, one_s, other_s):
    ...     return cosine - 0.8
    >>> link(np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]]), [0, 0, 1, 1], [9, 9, 9, 9], odds)
    [0, 1, 1, 0]
    """
    if not len(embeddings):
        return []
    vectors = np.array(embeddings, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    vectors[usable] /= norms[usable, None]
    lengths_s, where = np.asarray(speech_s, np.float64), np.asarray(chunks)[usable]
    apart = where[:, None] == where[None, :]
    groups = [usable[group] for group in joined(vectors[usable], lengths_s[usable], odds, np.zeros(apart.shape), apart)]
    spoken_s = [float(lengths_s[group].sum()) for group in groups]
    least_s = least_speech_s(min_speech_s, min_share, float(lengths_s.sum()))
    ranked = sorted(range(len(groups)), key=lambda group: -spoken_s[group])
    persons = [group for group in ranked if spoken_s[group] >= least_s][:max_speakers] or ranked[:1]
    for person in reversed(persons[1:]):
        others = [other for other in persons if other != person]
        if spoken_s[person] < revised_s:
            means = np.stack([centroid(vectors, lengths_s, groups[other]) for other in others])
            cosines = means @ centroid(vectors, lengths_s, groups[person])
            if odds(cosines, np.array([spoken_s[other] for other in others]), np.array(spoken_s[person])).max() > 0:
                persons = others
    members = [groups[person].tolist() for person in persons] or [[]]
    centroids = np.stack([centroid(vectors, lengths_s, groups[person]) for person in persons] or [vectors[0]])
    for group in sorted(set(range(len(groups))) - set(persons)):
        nearest = int(np.argmax(centroids @ centroid(vectors, lengths_s, groups[group])))
        members[nearest] += groups[group].tolist()
    members[0] += sorted(set(range(len(vectors))) - set(usable.tolist()))
    owner = {member: number for number, group in enumerate(sorted(members, key=min)) for member in group}
    return [owner[index] for index in range(len(vectors))]


def centroid(vectors: np.ndarray, lengths_s: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The unit vector of the sum of some `vectors`, each weighted by its length."""
    total = (vectors[members] * np.maximum(lengths_s[members, None], 1e-3)).sum(axis=0)
    return total / max(float(np.linalg.norm(total)), 1e-12)

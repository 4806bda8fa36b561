"""Which stretches of speech are one speaker's: agglomerative clustering by log odds.

Pure functions of arrays. The distance of two embeddings means more the longer their sound is, and where speech lies in
the windows of segmentation is evidence as well. Both are counted in log odds (natural logarithm) that two groups of
stretches are one speaker's, so that they add up, and groups are joined while the sum is above zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.stages.stretches import Stretches, seconds

SAME = 0.8
"""Cosine of the compensated embeddings of two long stretches of one speaker."""
OTHER = 0.05
"""The same of two speakers."""
SPREAD = 0.15
"""Standard deviation of both."""
BRIEF_S = 0.35
"""At this length, half of an embedding's variance is noise: cosines shrink accordingly."""
RELIABLE_S = 0.7
"""Stretches with less speech of one voice alone found no speaker; they are given to one afterwards."""
ONE_VOICE = 2.0
"""Log odds that two stretches are one speaker's which one window gives to one voice."""
TWO_VOICES = 3.0
"""Log odds against, where one window gives them to two voices."""
SHARED = 4.0
"""Log odds that stretches of two windows are one speaker's which cover the same time."""
LEAST, MOST = -8.0, 6.0
"""Bounds of what windows say in sum of two groups: they err together, in whatever number."""


@dataclass(frozen=True)
class Speakers:
    """Speakers of one sound and whose each stretch is."""

    labels: np.ndarray
    """Speaker of each stretch, int64 (stretches,), numbered by speaking time; empty where there is no stretch."""
    certainty: np.ndarray
    """Probability that the stretch is that speaker's rather than another one's of the sound, float64 (stretches,)."""
    centroids: np.ndarray
    """Unit vectors, float64 (speakers, dimension)."""
    heard_s: np.ndarray
    """Seconds of speech behind each centroid, float64 (speakers,)."""


def log_odds(cosine: np.ndarray, one_s: np.ndarray, other_s: np.ndarray) -> np.ndarray:
    """Log odds that embeddings of `one_s` and `other_s` seconds of speech with this cosine are one speaker's.

    Cosines are taken as normal, around OTHER for two speakers, and for one around SAME, less what the noise of short
    stretches takes from it; with a common standard deviation, the log odds are linear in the cosine.

    >>> float(log_odds(0.8, 10.0, 10.0).round(1)), float(log_odds(0.05, 10.0, 10.0).round(1))
    (11.4, -11.6)
    >>> float(log_odds(0.4, 0.5, 0.5).round(1))
    2.4
    """
    same = SAME / np.sqrt((1 + BRIEF_S / np.asarray(one_s)) * (1 + BRIEF_S / np.asarray(other_s)))
    found: np.ndarray = (same - OTHER) * (2 * np.asarray(cosine) - same - OTHER) / (2 * SPREAD**2)
    return found


def cluster(
    stretches: Stretches,
    vectors: np.ndarray,
    prior: float = 0.0,
    min_speaker_s: float = 1.5,
    min_speaker_share: float = 0.0,
    max_speakers: int | None = None,
) -> Speakers:
    """Speakers of stretches with unit `vectors` (stretches, dimension), NaN where there is no embedding.

    `prior` is the log odds that any two groups are one speaker's before anything is heard of them. Groups that speak
    less than `min_speaker_s`, or than `min_speaker_share` of all that is spoken, are no speakers, nor are those beyond
    the `max_speakers` that speak most: their stretches go to the others, as the brief ones do. The group
    that speaks most is always a speaker.
    """
    count = len(stretches.first)
    if not count:
        empty = np.zeros(0)
        return Speakers(np.zeros(0, np.int64), empty, vectors[:0], empty)
    alone_s = stretches.alone_s
    usable = np.isfinite(vectors).all(axis=1)
    vectors = np.where(usable[:, None], vectors, 0.0)
    reliable = np.flatnonzero(usable & stretches.central & (alone_s >= RELIABLE_S))
    if not len(reliable):
        reliable = np.array([int(np.argmax(np.where(usable, alone_s, -1.0)))])
    windows = _evidence(stretches)
    within = windows[np.ix_(reliable, reliable)]
    groups = joined(vectors[reliable], alone_s[reliable], lambda *pair: log_odds(*pair) + prior, within)
    members = [reliable[group] for group in groups]
    spoken_s = np.array([_spoken_s(stretches, group) for group in members])
    ranked = np.argsort(-spoken_s, kind="stable")
    least_s = max(min_speaker_s, min_speaker_share * spoken_s.sum())
    kept = [int(group) for group in ranked if spoken_s[group] >= least_s][:max_speakers] or [int(ranked[0])]
    sums = np.stack([(vectors[members[g]] * alone_s[members[g], None]).sum(axis=0) for g in kept])
    heard_s = np.maximum([alone_s[members[group]].sum() for group in kept], 1e-3)
    centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    labels = np.full(count, -1, np.int64)
    for speaker, group in enumerate(kept):
        labels[members[group]] = speaker
    lengths_s = np.maximum(alone_s, 0.1)[:, None]
    by_sound = np.where(usable[:, None], log_odds(vectors @ centroids.T, lengths_s, heard_s[None, :]), 0.0)
    # The longer ones first: they are the surer, and the others are judged by them as well.
    for stretch in sorted(np.flatnonzero(labels < 0), key=lambda stretch: (-alone_s[stretch], stretch)):
        labels[stretch] = int(np.argmax(by_sound[stretch] + _said(windows[stretch], labels, len(kept))))
    odds = by_sound + np.stack([_said(said, labels, len(kept)) for said in windows])
    chosen = np.arange(count), labels
    certainty = np.exp(odds[chosen] - np.logaddexp.reduce(odds, axis=1))
    return Speakers(labels, certainty, centroids, heard_s)


def _evidence(stretches: Stretches) -> np.ndarray:
    """Log odds that two stretches are one speaker's, (stretches, stretches), by where they lie in windows alone."""
    window, voice, first, last = stretches.window, stretches.voice, stretches.first, stretches.last
    alone_s = stretches.alone_s
    weight = np.clip(np.minimum(alone_s[:, None], alone_s[None, :]), 0.1, 1.0)
    shared = np.minimum(last[:, None], last[None, :]) - np.maximum(first[:, None], first[None, :])
    covered = np.maximum(last[:, None], last[None, :]) - np.minimum(first[:, None], first[None, :])
    one_window = window[:, None] == window[None, :]
    one_voice = voice[:, None] == voice[None, :]
    # Two voices at once are two speakers; two after each other may be one, heard as two.
    apart = np.where(shared > 0, 3.0, 1.0) * TWO_VOICES * weight
    said = np.where(one_voice, ONE_VOICE * weight, -apart)
    found = np.where(one_window, said, np.where(shared > 0.6 * covered, SHARED, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def joined(
    vectors: np.ndarray,
    lengths_s: np.ndarray,
    odds: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    evidence: np.ndarray,
    apart: np.ndarray | None = None,
) -> list[list[int]]:
    """Groups of unit vectors (count, dimension), joined greedily while the log odds of the best pair are above zero.

    The log odds of two groups are `odds` of the cosine of their centroids and their lengths, and the `evidence` of
    pairs (count, count), summed over theirs and bounded. Pairs that are `apart`, bool (count, count), never join.
    """
    groups = [[number] for number in range(len(vectors))]
    lengths_s = np.maximum(lengths_s, 1e-3)
    sums, evidence = vectors * lengths_s[:, None], evidence.copy()
    never = np.zeros(evidence.shape, bool) if apart is None else apart.copy()

    def compared(group: int) -> np.ndarray:
        centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        found = odds(centroids @ centroids[group], lengths_s, lengths_s[group])
        found = np.where(never[group], -np.inf, found + np.clip(evidence[group], LEAST, MOST))
        found[group] = -np.inf
        return found

    table = np.stack([compared(group) for group in range(len(groups))]) if groups else np.zeros((0, 0))
    while len(groups) > 1:
        one, other = sorted(divmod(int(np.argmax(table)), len(groups)))
        if table[one, other] <= 0:
            break
        groups[one] += groups.pop(other)
        sums[one] += sums[other]
        lengths_s[one] += lengths_s[other]
        evidence[one] += evidence[other]
        evidence[:, one] += evidence[:, other]
        never[one] |= never[other]
        never[:, one] |= never[:, other]
        sums, lengths_s = np.delete(sums, other, 0), np.delete(lengths_s, other)
        evidence, never, table = (
            np.delete(np.delete(matrix, other, 0), other, 1) for matrix in (evidence, never, table)
        )
        table[one] = table[:, one] = compared(one)
    return groups


def _said(windows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Log odds (speakers,) of one stretch by the windows, from its row of `_evidence` and all labels, -1 for none."""
    known = labels >= 0
    found: np.ndarray = np.clip(np.bincount(labels[known], windows[known], minlength=count), LEAST, MOST)
    return found


def _spoken_s(stretches: Stretches, members: np.ndarray) -> float:
    """Seconds that stretches cover, those that two windows hear counted once."""
    spoken = np.zeros(int(stretches.last.max()), bool)
    for first, last in zip(stretches.first[members], stretches.last[members], strict=True):
        spoken[first:last] = True
    return seconds(int(spoken.sum()))

"""Clustering of stretches of speech into speakers: agglomerative, by log odds.

Pure functions of arrays. Two kinds of evidence are expressed as log odds (natural logarithm) that two groups of
stretches are of one speaker, so that they can be added: the cosine of their embeddings, which counts for more the more
speech they are computed from, and where the stretches lie in the windows of the segmentation. Groups are joined while
the sum is positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pipelines.stages.stretches import Stretches, seconds

OTHER = 0.05
"""Mean cosine of the embeddings of two speakers."""
SPREAD = 0.15
"""Standard deviation of both cosines."""
BRIEF_S = 0.44
"""Variance of an embedding of one second that comes from its brevity, relative to the variance between speakers. It is
inversely proportional to the length."""
VARIED = 0.25
"""The same of a long stretch, from what is said and how, so that the mean cosine of two long stretches is 0.8."""
STRETCH_S = 4.0
"""Most seconds of a stretch that are embedded. Of more speech, the stretches vary independently."""
RELIABLE_S = 0.7
"""Only stretches with this much speech of one voice alone are clustered; shorter ones are assigned to the clusters."""
ONE_VOICE = 2.0
"""Log odds that two stretches are of one speaker where the segmentation of one window gives them to one voice."""
TWO_VOICES = 3.0
"""Log odds that they are of two speakers where it gives them to two voices."""
SHARED = 4.0
"""Log odds that stretches of two windows are of one speaker where they cover the same time."""
ENOUGH_S = 10.0
"""Whoever speaks this long is a speaker in a recording of any length."""
LEAST, MOST = -8.0, 6.0
"""Bounds of the sum of the log odds from windows for two groups, since the errors of windows are not independent."""
LEAST_SHARED = 6
"""Frames that two stretches must share to count."""
MEAN_SHARE = 0.2
"""The share of the mean embedding of a recording that is subtracted from each of its embeddings."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., dimension) scaled to a length of 1; those of length 0 stay as they are."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


@dataclass(frozen=True)
class Speakers:
    """The speakers of one chunk of sound, and the speaker of each stretch."""

    labels: np.ndarray
    """Speaker of each stretch, int64 (stretches,), numbered by speaking time; empty if there are no stretches."""
    certainty: np.ndarray
    """Probability that the stretch is of that speaker and of no other of the chunk, float64 (stretches,)."""
    centroids: np.ndarray
    """Unit vectors, float64 (speakers, dimension)."""
    speech_s: np.ndarray
    """Seconds of speech from which each centroid was computed, float64 (speakers,)."""


def log_odds(cosine: np.ndarray, one_s: np.ndarray, other_s: np.ndarray) -> np.ndarray:
    """Log odds that two embeddings, of `one_s` and `other_s` seconds of speech, are of one speaker, by their cosine.

    Cosines are modelled as normal, with the mean OTHER for two speakers, and for one speaker a mean that grows with the
    lengths, up to 1 for centroids of many stretches. As both have the same standard deviation, the log odds are linear
    in the cosine.

    >>> float(log_odds(0.8, 10.0, 10.0).round(1)), float(log_odds(0.05, 10.0, 10.0).round(1))
    (12.4, -15.1)
    >>> float(log_odds(0.45, 4.0, 4.0).round(1)), float(log_odds(0.45, 300.0, 300.0).round(1))
    (1.7, -3.1)
    >>> float(log_odds(0.4, 0.5, 0.5).round(1))
    2.6
    """
    same = 1 / np.sqrt((1 + _variance(one_s)) * (1 + _variance(other_s)))
    odds: np.ndarray = (same - OTHER) * (2 * np.asarray(cosine) - same - OTHER) / (2 * SPREAD**2)
    return odds


def _variance(length_s: np.ndarray) -> np.ndarray:
    """Variance of the embedding of so much speech of one speaker, relative to the variance between speakers."""
    length_s = np.asarray(length_s)
    variance: np.ndarray = BRIEF_S / length_s + VARIED * np.minimum(1.0, STRETCH_S / length_s)
    return variance


def least_speech_s(min_speaker_s: float, min_share: float, total_s: float) -> float:
    """Return how long somebody must speak to be a speaker, of `total_s` of speech, in seconds.

    The evidence for a further speaker is weak if it is a few seconds in many minutes. Whoever speaks `ENOUGH_S` is a
    speaker in a recording of any length.

    >>> least_speech_s(1.5, 0.02, 60.0), least_speech_s(1.5, 0.02, 200.0), least_speech_s(1.5, 0.02, 36000.0)
    (1.5, 4.0, 10.0)
    """
    return max(min_speaker_s, min(min_share * total_s, ENOUGH_S))


def cluster(
    stretches: Stretches,
    vectors: np.ndarray,
    prior: float = 0.0,
    min_speaker_s: float = 1.5,
    min_speaker_share: float = 0.0,
    max_speakers: int | None = None,
) -> Speakers:
    """Cluster stretches by their unit `vectors` (stretches, dimension), which are NaN where there is no embedding.

    `prior` is the log odds that two groups are of one speaker before anything is known of them. Groups that speak for
    less than `least_speech_s` are no speakers, and neither are those beyond the `max_speakers` that speak most. Their
    stretches, and all that were too short to be clustered, are assigned to the remaining speakers. The group that
    speaks most is always a speaker.
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
    centred = _without_mean(vectors, alone_s, reliable)
    by_extent, by_frames = _window_odds(stretches)
    among = by_extent[np.ix_(reliable, reliable)]
    groups = joined(centred[reliable], alone_s[reliable], lambda *pair: log_odds(*pair) + prior, among)
    members = [reliable[group] for group in groups]
    spoken_s = np.array([_spoken_s(stretches, group) for group in members])
    ranked = np.argsort(-spoken_s, kind="stable")
    least_s = least_speech_s(min_speaker_s, min_speaker_share, float(spoken_s.sum()))
    kept = [int(group) for group in ranked if spoken_s[group] >= least_s][:max_speakers] or [int(ranked[0])]
    members = [members[group] for group in kept]
    speech_s = np.maximum([alone_s[group].sum() for group in members], 1e-3)
    labels = np.full(count, -1, np.int64)
    for speaker, group in enumerate(members):
        labels[group] = speaker
    lengths_s = np.maximum(alone_s, 0.1)[:, None]
    cosines = centred @ _centroids(centred, alone_s, members).T
    odds = np.where(usable[:, None], log_odds(cosines, lengths_s, speech_s[None, :]), 0.0)
    # Long stretches are assigned first: they are more certain, and what they are assigned to counts for the others.
    for stretch in sorted(np.flatnonzero(labels < 0), key=lambda stretch: (-alone_s[stretch], stretch)):
        labels[stretch] = int(np.argmax(odds[stretch] + _summed(by_frames[stretch], labels, len(members))))
    odds = odds + np.stack([_summed(row, labels, len(members)) for row in by_frames])
    certainty = np.exp(odds[np.arange(count), labels] - np.logaddexp.reduce(odds, axis=1))
    return Speakers(labels, certainty, _centroids(vectors, alone_s, members), speech_s)


def _without_mean(vectors: np.ndarray, alone_s: np.ndarray, reliable: np.ndarray) -> np.ndarray:
    """Unit vectors after a share of their mean, over the time of the `reliable` ones, was subtracted.

    Part of the mean is what the channel of this recording adds to all embeddings, beyond what
    `pipelines.stages.speakers.Compensation` removes; the rest is the mean of its speakers.
    """
    weights = alone_s[reliable, None]
    mean = (vectors[reliable] * weights).sum(axis=0) / max(float(weights.sum()), 1e-9)
    return unit(vectors - MEAN_SHARE * mean)


def _centroids(vectors: np.ndarray, alone_s: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """Unit vectors (groups, dimension) of the sums of the vectors of each group, weighted by length."""
    return unit(np.stack([(vectors[group] * alone_s[group, None]).sum(axis=0) for group in members]))


def _window_odds(stretches: Stretches) -> tuple[np.ndarray, np.ndarray]:
    """Log odds that two stretches are of one speaker, by where they lie in windows alone: twice (stretches, stretches).

    The two differ for stretches of different windows. In the first, such a pair counts where both have about the same
    beginning and end; it serves to cluster. In the second, it counts by the share of frames in which both voices speak
    alone; it serves to assign a stretch that was not clustered, which one window may join and another may divide.
    """
    window, voice, first, last = stretches.window, stretches.voice, stretches.first, stretches.last
    alone_s = stretches.alone_s
    weight = np.clip(np.minimum(alone_s[:, None], alone_s[None, :]), 0.1, 1.0)
    shared = np.minimum(last[:, None], last[None, :]) - np.maximum(first[:, None], first[None, :])
    covered = np.maximum(last[:, None], last[None, :]) - np.minimum(first[:, None], first[None, :])
    one_window = window[:, None] == window[None, :]
    one_voice = voice[:, None] == voice[None, :]
    # Two voices that speak at once are two speakers. If they speak in turn, they may be one that was taken for two.
    apart = np.where(shared > 0, 3.0, 1.0) * TWO_VOICES * weight
    within = np.where(one_voice, ONE_VOICE * weight, -apart)
    by_extent = np.where(one_window, within, np.where(shared > 0.6 * covered, SHARED, 0.0))
    by_frames = np.where(one_window, within, SHARED * _alone_share(stretches))
    for odds in (by_extent, by_frames):
        np.fill_diagonal(odds, 0.0)
    return by_extent, by_frames


def _alone_share(stretches: Stretches) -> np.ndarray:
    """The frames in which the voices of both stretches speak alone, as a share of the fewer such frames of the two.

    Float64 (stretches, stretches); 0 for pairs with fewer than `LEAST_SHARED` such frames.
    """
    lengths = np.array([len(frames) for frames in stretches.alone])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.concatenate([np.zeros(0, np.int64), *stretches.alone])
    size = len(lengths), int(stretches.last.max())
    speaks = sparse.csr_array((np.ones(len(rows)), (rows, columns)), size)
    shared = (speaks @ speaks.T).toarray()
    fewer = np.minimum(lengths[:, None], lengths[None, :])
    share: np.ndarray = np.where(shared >= LEAST_SHARED, shared / np.maximum(fewer, 1), 0.0)
    return share


def joined(
    vectors: np.ndarray,
    lengths_s: np.ndarray,
    odds: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    evidence: np.ndarray,
    apart: np.ndarray | None = None,
) -> list[list[int]]:
    """Join unit vectors (count, dimension) into groups, the best pair first, while its log odds are positive.

    The log odds of two groups are the sum of two terms: `odds` of the cosine of their centroids and of their lengths,
    and the `evidence` (count, count), summed over the pairs of their members and bounded by `LEAST` and `MOST`. Pairs
    for which `apart`, bool (count, count), is true are never joined.
    """
    groups = [[number] for number in range(len(vectors))]
    lengths_s = np.maximum(lengths_s, 1e-3)
    sums, evidence = vectors * lengths_s[:, None], evidence.copy()
    never = np.zeros(evidence.shape, bool) if apart is None else apart.copy()

    def compared(group: int) -> np.ndarray:
        centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        row = odds(centroids @ centroids[group], lengths_s, lengths_s[group])
        row = np.where(never[group], -np.inf, row + np.clip(evidence[group], LEAST, MOST))
        row[group] = -np.inf
        return row

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


def _summed(row: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Log odds (speakers,) of one stretch from its row of `_window_odds`, summed over the stretches of each speaker.

    `labels` is -1 for stretches that have not been assigned yet.
    """
    assigned = labels >= 0
    total: np.ndarray = np.clip(np.bincount(labels[assigned], row[assigned], minlength=count), LEAST, MOST)
    return total


def _spoken_s(stretches: Stretches, members: np.ndarray) -> float:
    """Seconds that stretches cover; time that two of them cover counts once."""
    spoken = np.zeros(int(stretches.last.max()), bool)
    for first, last in zip(stretches.first[members], stretches.last[members], strict=True):
        spoken[first:last] = True
    return seconds(int(spoken.sum()))

"""The language of each window of speech in a recording with several languages, by a hidden Markov model.

A window is given its language on the best path rather than its own most probable language, because a single short
window is often wrong, but rarely all of its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

Languages = frozenset[int]
"""A set of languages, as columns of the evidence."""


def evidence(probabilities: np.ndarray, floor: float, weights: np.ndarray) -> np.ndarray:
    """Log evidence of each window for each language, float64 (windows, languages).

    `floor` is the share of windows that are assumed to be uninformative. It bounds the evidence of one window against a
    language, however certain the model is. `weights` (windows,) scale the evidence.

    >>> logs = evidence(np.array([[1.0, 0.0]]), floor=0.1, weights=np.array([1.0]))
    >>> np.exp(logs).round(3).tolist()
    [[0.95, 0.05]]
    """
    logs: np.ndarray = np.log((1 - floor) * probabilities + floor / probabilities.shape[1]) * weights[:, None]
    return logs


def best_path(
    evidence: np.ndarray, begins: Sequence[int], languages: Languages, switch_cost: float
) -> tuple[float, list[int]]:
    """The best score of a path through some languages, and the language of each window on that path (Viterbi
    algorithm).

    `evidence` is that of windows in order of track then time, and `begins` the first window of each track. A path
    scores the evidence of its windows, less `switch_cost` for each change of language within a track.

    >>> evidence = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]))
    >>> best_path(evidence, [0], frozenset({0, 1}), switch_cost=2.0)[1]
    [0, 0, 0, 1, 1]
    """
    columns = np.array(sorted(languages))
    total, path = 0.0, []
    for begin, end in zip(begins, [*begins[1:], len(evidence)], strict=True):
        scores = evidence[begin, columns]
        came_from = []
        for row in evidence[begin + 1 : end]:
            best = int(scores.argmax())
            stays = scores >= scores[best] - switch_cost
            came_from.append(np.where(stays, np.arange(len(columns)), best))
            scores = np.where(stays, scores, scores[best] - switch_cost) + row[columns]
        at = int(scores.argmax())
        total += float(scores[at])
        backwards = [at]
        for before in reversed(came_from):
            at = int(before[at])
            backwards.append(at)
        path += [int(columns[at]) for at in reversed(backwards)]
    return total, path


def decode(
    evidence: np.ndarray, begins: Sequence[int], prior: np.ndarray, language_cost: float, switch_cost: float
) -> list[int]:
    """The language of each window on the most probable path, over all sets of languages that the recording may be in.

    `prior` (languages,) holds the log prior of each language. A set of languages scores its best path, the
    prior of each of its languages, and less `language_cost` for each language beyond the first, so that a further
    language appears only where the evidence for it exceeds odds of exp(language_cost). Sets are searched from the best
    single language by adding, dropping or exchanging one language as long as the score rises.
    """
    scores: dict[Languages, float] = {}

    def score(languages: Languages) -> float:
        if languages not in scores:
            path_score, _ = best_path(evidence, begins, languages, switch_cost)
            scores[languages] = path_score + math.fsum(prior[list(languages)]) - language_cost * (len(languages) - 1)
        return scores[languages]

    def best(sets: Iterable[Languages]) -> Languages:
        return max(sets, key=lambda languages: (score(languages), [-one for one in sorted(languages)]))

    # Only languages that are the most probable of a window, or of all windows together, can be on the best path.
    all_together = evidence.sum(axis=0) + prior
    candidates = sorted(
        {*evidence.argmax(axis=1).tolist(), *(evidence + prior).argmax(axis=1).tolist(), int(all_together.argmax())}
    )
    chosen = best(frozenset({one}) for one in candidates)
    while others := [one for one in candidates if one not in chosen]:
        added = [chosen | {one} for one in others]
        dropped = [chosen - {one} for one in chosen if len(chosen) > 1]
        exchanged = [chosen - {one} | {other} for one in chosen for other in others]
        nearby = best([*added, *dropped, *exchanged])
        if score(nearby) <= score(chosen):
            break
        chosen = nearby
    return best_path(evidence, begins, chosen, switch_cost)[1]


def score_of_parts(
    path: Sequence[int],
    evidence: np.ndarray,
    whole: np.ndarray,
    of: np.ndarray,
    shares: np.ndarray,
    begins: Sequence[int],
    prior: np.ndarray,
    language_cost: float,
    switch_cost: float,
) -> float:
    """Score of a path over parts of windows, defined as in `decode`, but with the evidence of whole windows added.

    `evidence` (parts, languages) is that of the parts, `whole` (windows, languages) that of each window before it was
    cut, `of` (parts,) the window of each part, and `shares` (parts,) the share of the part in its window. The evidence
    of a window is taken to be about one of its parts, drawn with the probabilities `shares`, since the model names one
    language for a window that holds two.
    """
    chosen = np.asarray(path)
    parts = float(evidence[np.arange(len(chosen)), chosen].sum())
    windows = np.zeros(len(whole))
    np.add.at(windows, of, shares * np.exp(whole[of, chosen]))
    starts = set(begins)
    changes = sum(one != other for n, (one, other) in enumerate(itertools.pairwise(path), 1) if n not in starts)
    languages = sorted(set(path))
    cost = switch_cost * changes + language_cost * (len(languages) - 1)
    return parts + float(np.log(windows).sum()) - cost + math.fsum(prior[languages])

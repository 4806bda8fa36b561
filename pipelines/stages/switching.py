"""Which language each window of speech is in, where languages may change within a recording: a hidden Markov model.

A window is given the language on the best path, not its own most probable one. A single short window is often wrong,
its neighbours seldom all are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

Languages = frozenset[int]
"""Languages as columns of the evidence."""


def evidence(probabilities: np.ndarray, floor: float, weights: np.ndarray) -> np.ndarray:
    """Logarithms of what each window says of each language, float64 (windows, languages).

    `floor` is the share of windows that tell nothing of their language: it bounds what one window can say against a
    language, however sure the model is. `weights` (windows,) scale what windows say.

    >>> said = evidence(np.array([[1.0, 0.0]]), floor=0.1, weights=np.array([1.0]))
    >>> np.exp(said).round(3).tolist()
    [[0.95, 0.05]]
    """
    said: np.ndarray = np.log((1 - floor) * probabilities + floor / probabilities.shape[1]) * weights[:, None]
    return said


def best_path(
    said: np.ndarray, begins: Sequence[int], languages: Languages, switch_cost: float
) -> tuple[float, list[int]]:
    """The best score of a path through some languages, and the language of each window on it (Viterbi).

    `said` is the evidence of windows in order of track then time, and `begins` the first window of each track. A path
    scores the evidence of its windows, less `switch_cost` for each change of language within a track.

    >>> said = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]))
    >>> best_path(said, [0], frozenset({0, 1}), switch_cost=2.0)[1]
    [0, 0, 0, 1, 1]
    """
    columns = np.array(sorted(languages))
    total, path = 0.0, []
    for begin, end in zip(begins, [*begins[1:], len(said)], strict=True):
        scores = said[begin, columns]
        came_from = []
        for row in said[begin + 1 : end]:
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
    said: np.ndarray, begins: Sequence[int], prior: np.ndarray, language_cost: float, switch_cost: float
) -> list[int]:
    """The language of each window on the most probable path, over all sets of languages that the recording may be in.

    `prior` (languages,) holds logarithms of how common languages are. A set of languages scores its best path, the
    prior of each of its languages, and less `language_cost` for each language beyond the first, so that a further
    language appears only where the evidence for it beats odds of exp(language_cost). Sets are searched from the best
    single language by adding, dropping or exchanging one language as long as the score rises.
    """
    scores: dict[Languages, float] = {}

    def score(languages: Languages) -> float:
        if languages not in scores:
            found, _ = best_path(said, begins, languages, switch_cost)
            scores[languages] = found + math.fsum(prior[list(languages)]) - language_cost * (len(languages) - 1)
        return scores[languages]

    def best(sets: Iterable[Languages]) -> Languages:
        return max(sets, key=lambda languages: (score(languages), [-one for one in sorted(languages)]))

    # Only languages that a window, or all together, find most probable can be on the best path.
    all_together = said.sum(axis=0) + prior
    candidates = sorted(
        {*said.argmax(axis=1).tolist(), *(said + prior).argmax(axis=1).tolist(), int(all_together.argmax())}
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
    return best_path(said, begins, chosen, switch_cost)[1]


def told_by_parts(
    path: Sequence[int],
    said: np.ndarray,
    whole: np.ndarray,
    of: np.ndarray,
    shares: np.ndarray,
    begins: Sequence[int],
    prior: np.ndarray,
    language_cost: float,
    switch_cost: float,
) -> float:
    """Score of a path over parts of windows, as `decode` scores, with what the windows say as a whole.

    `said` (parts, languages) is what parts say, `whole` (windows, languages) what each window said before it was cut,
    `of` (parts,) the window of each part and `shares` (parts,) its share of that. A window speaks for the language of
    one of its parts, drawn by their shares: whoever mixes two languages must not believe a model that heard one.
    """
    chosen = np.asarray(path)
    parts = float(said[np.arange(len(chosen)), chosen].sum())
    windows = np.zeros(len(whole))
    np.add.at(windows, of, shares * np.exp(whole[of, chosen]))
    starts = set(begins)
    changes = sum(one != other for n, (one, other) in enumerate(itertools.pairwise(path), 1) if n not in starts)
    languages = sorted(set(path))
    cost = switch_cost * changes + language_cost * (len(languages) - 1)
    return parts + float(np.log(windows).sum()) - cost + math.fsum(prior[languages])

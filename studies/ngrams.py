"""N-grams of phones: a corpus of clips, and its n-grams as a sparse matrix of counts by clip.

An n-gram lies within one stretch of speech. It never crosses a pause, a clip or a track.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array

Stretch = Sequence[str]
"""Symbols of the phones of one stretch of speech, in order of time."""


@dataclass(frozen=True)
class Corpus:
    """The phones of several clips. A clip is the unit of resampling: a recording, or a generated sound."""

    clips: tuple[str, ...]
    """Id of each clip, including those without phones."""
    alphabet: tuple[str, ...]
    """The distinct symbols, sorted."""
    phones: np.ndarray
    """int64 (phones,): index of each phone's symbol in `alphabet`, clip by clip in order of time."""
    clip_of: np.ndarray
    """int64 (phones,): index of each phone's clip in `clips`."""
    stretch_of: np.ndarray
    """int64 (phones,): ascending number of each phone's stretch of speech."""

    @classmethod
    def of(cls, clips: Iterable[tuple[str, Iterable[Stretch]]]) -> Corpus:
        """Build a corpus from the id and the stretches of speech of each clip.

        >>> Corpus.of([("one", [["h", "ə"], ["l"]])]).stretch_of.tolist()
        [0, 0, 1]
        """
        ids: list[str] = []
        symbols: list[str] = []
        clip_lengths: list[int] = []
        stretch_lengths: list[int] = []
        for clip, stretches in clips:
            ids.append(clip)
            before = len(symbols)
            for stretch in stretches:
                symbols += stretch
                stretch_lengths.append(len(stretch))
            clip_lengths.append(len(symbols) - before)
        alphabet = tuple(sorted(set(symbols)))
        places = {symbol: place for place, symbol in enumerate(alphabet)}
        return cls(
            tuple(ids),
            alphabet,
            np.array([places[symbol] for symbol in symbols], np.int64),
            np.repeat(np.arange(len(ids)), clip_lengths),
            np.repeat(np.arange(len(stretch_lengths)), stretch_lengths),
        )

    @property
    def phones_per_clip(self) -> np.ndarray:
        """Number of phones of each clip, int64 (clips,)."""
        return np.bincount(self.clip_of, minlength=len(self.clips))


def count_ngrams(corpora: Sequence[Corpus], n: int) -> list[csr_array]:
    """Count the n-grams of each corpus: float64 (clips, n-grams).

    The columns are the n-grams that occur in any of the corpora, the same ones in every matrix.
    """
    alphabet = {symbol: place for place, symbol in enumerate(sorted(set().union(*(c.alphabet for c in corpora))))}
    phones = np.concatenate([np.array([alphabet[s] for s in c.alphabet], np.int64)[c.phones] for c in corpora])
    clips = np.concatenate([np.full(len(c.phones), place) for place, c in enumerate(corpora)])
    firsts = np.cumsum([0, *(len(c.clips) for c in corpora)])
    clips = firsts[clips] + np.concatenate([c.clip_of for c in corpora])
    stretches = np.concatenate([c.stretch_of for c in corpora])
    # Number the n-grams that begin at each phone, from the numbers of the (n - 1)-grams, which keeps them small.
    codes = phones
    for at in range(1, n):
        codes = np.unique(codes[:-1] * len(alphabet) + phones[at:], return_inverse=True)[1]
    count = len(codes) if len(phones) >= n else 0
    last = slice(n - 1, n - 1 + count)
    inside = (stretches[:count] == stretches[last]) & (clips[:count] == clips[last])
    different, columns = np.unique(codes[:count][inside], return_inverse=True)
    ones = np.ones(len(columns))
    matrix = coo_array((ones, (clips[:count][inside], columns)), shape=(firsts[-1], len(different))).tocsr()
    return [matrix[first:end] for first, end in itertools.pairwise(firsts)]

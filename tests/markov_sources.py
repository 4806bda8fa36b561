"""Markov sources of phones. The probabilities of their n-grams, and so their divergences, are known exactly."""

from __future__ import annotations

import numpy as np

from studies.ngrams import Corpus
from studies.pjsd import divergence

SYMBOLS = 20
CONCENTRATION = 0.3
"""Concentration of the Dirichlet distribution of the next phone: few successors are likely, as in speech."""


class Source:
    """A first-order Markov source of phones. `mixed` is the share of another source in its transition probabilities."""

    def __init__(self, seed: int, mixed: float = 0.0, symbols: int = SYMBOLS) -> None:
        random = np.random.default_rng(seed)
        own, other = (random.dirichlet(np.full(symbols, CONCENTRATION), symbols) + 1e-6 for _ in range(2))
        mixture = (1 - mixed) * own + mixed * other
        self.symbols = symbols
        self.following = mixture / mixture.sum(axis=1, keepdims=True)
        self.first = np.linalg.matrix_power(self.following, 4096)[0]
        """The stationary distribution, from which the first phone of a clip is drawn."""

    def probabilities(self, n: int) -> np.ndarray:
        """Return the probability of every n-gram, (symbols ** n,)."""
        result = self.first
        for _ in range(n - 1):
            result = (result.reshape(-1, self.symbols)[:, :, None] * self.following).reshape(-1)
        return result

    def truth(self, other: Source, n: int) -> float:
        """Return the divergence of the n-grams of two sources, in bits."""
        return divergence(self.probabilities(n), other.probabilities(n))

    def clips(self, count: int, length: int, seed: int = 0) -> list[list[str]]:
        """Clips of one stretch each."""
        random = np.random.default_rng([seed, count, length])
        bounds = np.cumsum(self.following, axis=1)
        phones = np.empty((count, length), np.int64)
        phones[:, 0] = random.choice(self.symbols, count, p=self.first / self.first.sum())
        for at in range(1, length):
            drawn = random.random(count)
            phones[:, at] = (bounds[phones[:, at - 1]] < drawn[:, None]).sum(axis=1).clip(0, self.symbols - 1)
        return [[f"{phone:02d}" for phone in clip] for clip in phones.tolist()]

    def corpus(self, name: str, count: int, length: int, seed: int = 0) -> Corpus:
        """The same as a corpus, whose clips are called `name` and their number."""
        return Corpus.of((f"{name}{n}", [clip]) for n, clip in enumerate(self.clips(count, length, seed)))

"""Phoneme Jensen-Shannon divergence (pJSD): how far apart the phones of two corpora are, in bits, and how sure that is.

pJSD of order n is the Jensen-Shannon divergence of the distributions of n-grams: 0 for equal ones, 1 for ones that
share no n-gram. Small samples make it larger; everything here besides the value itself says by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from studies.ngrams import Corpus, counted

ORDERS = (1, 2, 3, 4, 5)
DRAWS = 200
"""Resamplings behind an interval."""
SPLITS = 20
"""Random samples of equal size behind the comparison with a corpus's own."""
FEWEST_CLIPS = 8
"""Of either side for an interval: fewer do not tell how much clips differ."""
FEWEST_TO_EXTRAPOLATE = 16
FRACTIONS = (8, 4, 2)
"""The bias curve has the value in samples of an eighth, a quarter and a half of all clips."""
CUTS = 4
"""How often all clips are cut into such samples."""
LEAST_COVERAGE = 0.9
"""A sample that has met less of its source tells nothing of endless ones: its value may stand still far from theirs."""
LEAST_RATIO = 1.6
"""A bias that falls as 1/N halves with every doubling of the sample, so that the value falls by half as much from the
half to the whole as from a quarter to the half: by a ratio of 2. Below this ratio the sample is too small for that law,
and extrapolating would leave much of the bias in (tests/bench/accuracy_pjsd.py)."""


@dataclass(frozen=True)
class Range:
    """A value, and the interval that holds 95 % of the resamplings; None where these would tell nothing."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """A point of the bias curve: the mean value over samples of one size."""

    phones_a: float
    phones_b: float
    pjsd: float


@dataclass(frozen=True)
class Matched:
    """Random samples of equally many phones, half of the smaller side: what differs by chance, and what beyond it.

    None stands for a side that is too small to be split.
    """

    phones: int
    between: Range | None = None
    """A against B, in disjoint samples."""
    within_a: Range | None = None
    """A against itself: two disjoint samples of A."""
    within_b: Range | None = None


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of one side."""

    count: int
    distinct: int
    coverage: float
    """Good-Turing estimate of the share of the source's n-grams, by their probability, that were met: 1 less the share
    of n-grams that were met once (Good, 1953). 0 without any."""


@dataclass(frozen=True)
class Order:
    """pJSD of the n-grams of one length. What could not be had is None, and `notes` say why."""

    n: int
    a: Ngrams
    b: Ngrams
    shared: int
    """Different n-grams that both sides have."""
    pjsd: Range | None
    """The value, with its 95 % bootstrap interval over clips at this sample size: it says how the value varies, and
    not how much too large it is."""
    matched: Matched
    curve: tuple[Point, ...]
    ratio: float | None
    """By how much less the value falls with a doubling of the sample than with the one before: 2 for a bias of 1/N."""
    corrected: Range | None
    """The value extrapolated to endless samples, by the terms of 1/N and 1/N^2. Given only where the ratio shows that
    the bias follows that law, or is within the interval anyway, and where both sides cover their source."""
    notes: tuple[str, ...]


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence, in bits, of two vectors of counts (n-grams,): half of KL(P||M) and of KL(Q||M).

    P and Q are the counts as shares, M is their mean. Exactly 0 for equal shares, symmetric, at most 1; no smoothing.
    ValueError where a side has no count.
    """
    totals = a.sum(), b.sum()
    if not all(totals):
        raise ValueError("no n-grams on one of the sides")
    p, q = a / totals[0], b / totals[1]
    mean = (p + q) / 2
    halves = (float(share[there] @ np.log2(share[there] / mean[there])) for share in (p, q) for there in [share > 0])
    return min(1.0, max(0.0, sum(halves) / 2))


def compare(a: Corpus, b: Corpus, orders: Sequence[int] = ORDERS, draws: int = DRAWS, seed: int = 0) -> list[Order]:
    """pJSD of each order between two corpora. Equal input and seed give equal results.

    A clip that both have, by its id, is drawn on both sides or on none: so a part is compared with its whole. Memory
    grows with the phones of both, time with phones times `draws`.
    """
    return [_Comparison(a, b, n, draws, seed).result() for n in orders]


class _Comparison:
    """The n-grams of one length, and the ways of resampling them."""

    def __init__(self, a: Corpus, b: Corpus, n: int, draws: int, seed: int) -> None:
        self.n, self.draws = n, draws
        self.random = np.random.default_rng([seed, n])
        self.counts = counted([a, b], n)
        self.phones = a.phones_per_clip, b.phones_per_clip
        places = {clip: place for place, clip in enumerate(dict.fromkeys([*a.clips, *b.clips]))}
        self.ids = [np.array([places[clip] for clip in corpus.clips], np.int64) for corpus in (a, b)]
        of_a, of_b = (np.isin(np.arange(len(places)), ids) for ids in self.ids)
        strata = (np.flatnonzero(where) for where in (of_a & ~of_b, of_b & ~of_a, of_a & of_b))
        self.strata = [stratum for stratum in strata if len(stratum)]
        """Clips of A alone, of B alone and of both, which are resampled each for themselves."""
        self.number = len(places)
        self.fewest = min(int(np.count_nonzero(phones)) for phones in self.phones)

    def result(self) -> Order:
        totals = [np.asarray(counts.sum(axis=0)).reshape(-1) for counts in self.counts]
        a, b = (_ngrams(total) for total in totals)
        shared = int(np.count_nonzero(np.minimum(*totals)))
        if not (a.count and b.count):
            notes = (f"a side has no stretch of speech of {self.n} phones",)
            return Order(self.n, a, b, shared, None, Matched(0), (), None, None, notes)
        value = divergence(*totals)
        spread = self._spread() if self.fewest >= FEWEST_CLIPS else None
        curve = self._curve(value) if self.fewest >= FEWEST_TO_EXTRAPOLATE else ()
        ratio, corrected = (None, None) if spread is None or not curve else _extrapolated(curve, spread)
        if min(a.coverage, b.coverage) < LEAST_COVERAGE:
            corrected = None
        return Order(
            self.n, a, b, shared, _around(value, spread), self._matched(), curve, ratio, corrected,
            tuple(self._notes(corrected)),
        )  # fmt: skip

    def _notes(self, corrected: Range | None) -> Iterator[str]:
        if self.fewest < FEWEST_CLIPS:
            yield f"no interval: a side has fewer than {FEWEST_CLIPS} clips with phones"
        if self.fewest < FEWEST_TO_EXTRAPOLATE:
            yield f"not corrected: a side has fewer than {FEWEST_TO_EXTRAPOLATE} clips with phones"
        elif corrected is None:
            yield "not corrected: the sample is too small for its bias to fall as 1/N; compare with the baseline"

    def _value(self, weights: np.ndarray) -> float | None:
        """The value where each clip counts as often as `weights` (clips,) says; None where a side has no n-gram."""
        return self._between(0, weights, 1, weights)

    def _between(self, side: int, weights: np.ndarray, other_side: int, other: np.ndarray) -> float | None:
        a, b = (self.counts[at].T @ given[self.ids[at]] for at, given in ((side, weights), (other_side, other)))
        return divergence(a, b) if a.any() and b.any() else None

    def _spread(self) -> np.ndarray:
        """What the bootstrap adds to the value, and takes from it, around its own mean.

        The bootstrap's mean itself is no estimate: resampling adds the bias of the sample a second time.
        """
        values = []
        for _ in range(self.draws):
            weights = np.zeros(self.number)
            for stratum in self.strata:
                weights[stratum] = self.random.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)))
            values.append(self._value(weights))
        known = np.array([value for value in values if value is not None])
        return known - known.mean()

    def _parts(self, number: int) -> Iterator[np.ndarray]:
        """Weights of disjoint parts of the clips, each side cut at random into `number` equal ones."""
        shuffled = [np.array_split(self.random.permutation(stratum), number) for stratum in self.strata]
        for parts in zip(*shuffled, strict=True):
            weights = np.zeros(self.number)
            weights[np.concatenate(parts)] = 1
            yield weights

    def _curve(self, value: float) -> tuple[Point, ...]:
        """The mean value in samples of growing size; the last one is that of all clips."""
        phones_a, phones_b = (float(phones.sum()) for phones in self.phones)
        curve = []
        for fraction in FRACTIONS:
            samples = [weights for _ in range(CUTS) for weights in self._parts(fraction)]
            values = [found for weights in samples if (found := self._value(weights)) is not None]
            curve.append(Point(phones_a / fraction, phones_b / fraction, float(np.mean(values)) if values else value))
        return (*curve, Point(phones_a, phones_b, value))

    def _matched(self) -> Matched:
        phones = int(min(of_side.sum() for of_side in self.phones)) // 2
        found: dict[str, list[float]] = {"between": [], "within_a": [], "within_b": []}
        for _ in range(SPLITS):
            order = self.random.permutation(self.number)
            a = self._sample(0, order, phones)
            b = self._sample(1, order, phones, a)
            other_a, other_b = self._sample(0, order, phones, a), self._sample(1, order, phones, b)
            for name, (side, one), (other_side, other) in (
                ("between", (0, a), (1, b)), ("within_a", (0, a), (0, other_a)), ("within_b", (1, b), (1, other_b)),
            ):  # fmt: skip
                if one is not None and other is not None:
                    value = self._between(side, one, other_side, other)
                    found[name] += [] if value is None else [value]
        return Matched(phones, **{name: _range(values) for name, values in found.items()})

    def _sample(
        self, side: int, order: np.ndarray, phones: int, without: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Weights (clips,) of the first clips of a side, in this order, that have about so many phones together.

        Clips of the sample `without` are left out. None where fewer than four fifths of the phones are left.
        """
        of_clip = np.zeros(self.number)
        of_clip[self.ids[side]] = self.phones[side]
        if without is not None:
            of_clip[without > 0] = 0
        sums = np.cumsum(of_clip[order])
        if sums[-1] < 0.8 * phones:
            return None
        weights = np.zeros(self.number)
        weights[order[: np.searchsorted(sums, phones) + 1]] = 1
        return weights * (of_clip > 0)


def _ngrams(counts: np.ndarray) -> Ngrams:
    total = int(counts.sum())
    once = int(np.count_nonzero(counts == 1))
    return Ngrams(total, int(np.count_nonzero(counts)), 1 - once / total if total else 0.0)


def _extrapolated(curve: Sequence[Point], spread: np.ndarray) -> tuple[float | None, Range | None]:
    """The ratio of a curve, and its value for endless samples by Richardson's extrapolation in 1/N, to second order.

    The interval is that of the spread, wider on both sides by what the second order adds to the first.
    """
    quarter, half, value = (point.pjsd for point in curve[-3:])
    ratio = (quarter - half) / (half - value) if half > value else None
    matters = half - value > np.ptp(np.quantile(spread, [0.025, 0.975])) / 2
    if matters and ratio is not None and ratio < LEAST_RATIO:
        return ratio, None
    first, second = 2 * value - half, (8 * value - 6 * half + quarter) / 3
    return ratio, _around(min(1.0, max(0.0, second)), spread, abs(second - first))


def _around(value: float, spread: np.ndarray | None, more: float = 0.0) -> Range:
    """A value with the interval that its spread gives, wider by `more`, within the bounds of a divergence."""
    if spread is None:
        return Range(value)
    low, high = np.quantile(spread, [0.025, 0.975])
    return Range(value, max(0.0, value + float(low) - more), min(1.0, value + float(high) + more))


def _range(values: Sequence[float]) -> Range | None:
    if not values:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return Range(float(np.mean(values)), float(low), float(high))

"""Phoneme Jensen-Shannon divergence (pJSD): a distance in bits between the phones of two corpora, with its uncertainty.

The pJSD of order n is the Jensen-Shannon divergence of the distributions of n-grams: 0 if they are equal, 1 if they
share no n-gram. Small samples bias it upwards. The other results, besides the value itself, say by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from studies.ngrams import Corpus, count_ngrams

ORDERS = (1, 2, 3, 4, 5)
DRAWS = 200
"""Bootstrap resamples for an interval."""
SPLITS = 20
"""Random splits for the comparison at equal size."""
FEWEST_CLIPS = 8
"""Fewest clips on each side for an interval. With fewer, the variation between clips is unknown."""
FEWEST_TO_EXTRAPOLATE = 16
"""Fewest clips on each side for a corrected value."""
FRACTIONS = (8, 4, 2)
"""The bias curve has the values in samples of an eighth, a quarter and a half of all clips."""
CUTS = 4
"""How often the clips are divided into such samples."""
LEAST_COVERAGE = 0.9
"""Smallest coverage for a corrected value. Below it, the value can change little with the sample size and still be far
from that of an infinite sample."""
LEAST_RATIO = 1.6
"""Smallest ratio for a corrected value. A bias proportional to 1/N halves with every doubling of the sample, so the
value falls half as much from the half to the whole as from the quarter to the half: a ratio of 2. Below this limit the
sample is too small for that law, and extrapolation would leave much of the bias (tests/bench/accuracy_pjsd.py)."""


@dataclass(frozen=True)
class Range:
    """A value with the interval that contains 95 % of the resamples; None if there are too few clips for one."""

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
    """The values in random samples with equal numbers of phones, half as many as the smaller side has.

    The values within a side show what differs by chance. A value is None if a side is too small to be split.
    """

    phones: int
    between: Range | None = None
    """A against B, in disjoint samples."""
    within_a: Range | None = None
    """Two disjoint samples of A."""
    within_b: Range | None = None
    """Two disjoint samples of B."""


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of one side."""

    count: int
    distinct: int
    coverage: float
    """Good-Turing estimate of the total probability of the n-grams that occur in the sample: 1 minus the share of
    n-grams that occur once (Good, 1953). 0 if there are none."""


@dataclass(frozen=True)
class Order:
    """The pJSD of the n-grams of one length. Values that could not be computed are None, and `notes` say why."""

    n: int
    a: Ngrams
    b: Ngrams
    shared: int
    """Distinct n-grams that both sides have."""
    pjsd: Range | None
    """The value, with its 95 % bootstrap interval over clips. The interval shows the variation at this sample size, not
    the bias."""
    matched: Matched
    curve: tuple[Point, ...]
    ratio: float | None
    """Decrease of the value with the last-but-one doubling of the sample over that with the last: 2 for a 1/N bias."""
    corrected: Range | None
    """The value extrapolated to infinite samples, with terms in 1/N and 1/N^2. It is only given if both sides cover
    their source and either the ratio shows that the bias follows that law, or the bias is within the interval."""
    notes: tuple[str, ...]


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two vectors of counts, (n-grams,), in bits.

    It is KL(P||M) / 2 + KL(Q||M) / 2, where P and Q are the counts as shares and M is their mean. It is symmetric,
    exactly 0 for equal shares, and at most 1. Counts are not smoothed.

    Raises:
        ValueError: A side has no counts.
    """
    totals = a.sum(), b.sum()
    if not all(totals):
        raise ValueError("no n-grams on one of the sides")
    p, q = a / totals[0], b / totals[1]
    mean = (p + q) / 2
    halves = (float(share[used] @ np.log2(share[used] / mean[used])) for share in (p, q) for used in [share > 0])
    return min(1.0, max(0.0, sum(halves) / 2))


def compare(a: Corpus, b: Corpus, orders: Sequence[int] = ORDERS, draws: int = DRAWS, seed: int = 0) -> list[Order]:
    """Compute the pJSD of each order between two corpora. Equal inputs and seeds give equal results.

    A clip with the same id in both corpora is drawn on both sides or on neither, so that a part can be compared with
    its whole. Memory grows with the number of phones, and time with the number of phones times `draws`.
    """
    return [_Comparison(a, b, n, draws, seed).result() for n in orders]


class _Comparison:
    """Computes and resamples the n-grams of one length."""

    def __init__(self, a: Corpus, b: Corpus, n: int, draws: int, seed: int) -> None:
        self.n, self.draws = n, draws
        self.random = np.random.default_rng([seed, n])
        self.counts = count_ngrams([a, b], n)
        self.phones = a.phones_per_clip, b.phones_per_clip
        places = {clip: place for place, clip in enumerate(dict.fromkeys([*a.clips, *b.clips]))}
        self.ids = [np.array([places[clip] for clip in corpus.clips], np.int64) for corpus in (a, b)]
        of_a, of_b = (np.isin(np.arange(len(places)), ids) for ids in self.ids)
        strata = (np.flatnonzero(where) for where in (of_a & ~of_b, of_b & ~of_a, of_a & of_b))
        self.strata = [stratum for stratum in strata if len(stratum)]
        """Clips of only A, of only B and of both. Each group is resampled separately."""
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
        ratio, corrected = (None, None) if spread is None or not curve else _extrapolate(curve, spread)
        if min(a.coverage, b.coverage) < LEAST_COVERAGE:
            corrected = None
        return Order(
            self.n, a, b, shared, _with_interval(value, spread), self._matched(), curve, ratio, corrected,
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
        """Return the value with clips weighted by `weights`, (clips,); None if a side has no n-grams."""
        return self._between(0, weights, 1, weights)

    def _between(self, side: int, weights: np.ndarray, other_side: int, other: np.ndarray) -> float | None:
        a, b = (self.counts[at].T @ of_clips[self.ids[at]] for at, of_clips in ((side, weights), (other_side, other)))
        return divergence(a, b) if a.any() and b.any() else None

    def _spread(self) -> np.ndarray:
        """Return the deviations of the bootstrap values from their mean.

        The mean itself is not an estimate of the value, because resampling adds the bias of the sample again.
        """
        values = []
        for _ in range(self.draws):
            weights = np.zeros(self.number)
            for stratum in self.strata:
                weights[stratum] = self.random.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)))
            values.append(self._value(weights))
        defined = np.array([value for value in values if value is not None])
        return defined - defined.mean()

    def _parts(self, number: int) -> Iterator[np.ndarray]:
        """Divide the clips at random into `number` equal parts. Yields the weights, (clips,), of each."""
        shuffled = [np.array_split(self.random.permutation(stratum), number) for stratum in self.strata]
        for parts in zip(*shuffled, strict=True):
            weights = np.zeros(self.number)
            weights[np.concatenate(parts)] = 1
            yield weights

    def _curve(self, value: float) -> tuple[Point, ...]:
        """Return the mean values in samples of growing size. The last is the value of all clips."""
        phones_a, phones_b = (float(phones.sum()) for phones in self.phones)
        curve = []
        for fraction in FRACTIONS:
            samples = [weights for _ in range(CUTS) for weights in self._parts(fraction)]
            values = [part for weights in samples if (part := self._value(weights)) is not None]
            curve.append(Point(phones_a / fraction, phones_b / fraction, float(np.mean(values)) if values else value))
        return (*curve, Point(phones_a, phones_b, value))

    def _matched(self) -> Matched:
        phones = int(min(of_side.sum() for of_side in self.phones)) // 2
        by_pair: dict[str, list[float]] = {"between": [], "within_a": [], "within_b": []}
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
                    by_pair[name] += [] if value is None else [value]
        return Matched(phones, **{name: _range(values) for name, values in by_pair.items()})

    def _sample(
        self, side: int, order: np.ndarray, phones: int, without: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return the weights, (clips,), of the first clips of a side in `order` that have about `phones` phones.

        Clips in the sample `without` are left out. None if less than four fifths of the phones are left.
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


def _extrapolate(curve: Sequence[Point], spread: np.ndarray) -> tuple[float | None, Range | None]:
    """Return the ratio of a curve, and its limit for infinite samples by second-order Richardson extrapolation in 1/N.

    The interval is that of the spread, widened on both sides by the difference of the second order to the first.
    """
    quarter, half, value = (point.pjsd for point in curve[-3:])
    ratio = (quarter - half) / (half - value) if half > value else None
    is_large = half - value > np.ptp(np.quantile(spread, [0.025, 0.975])) / 2
    if is_large and ratio is not None and ratio < LEAST_RATIO:
        return ratio, None
    first, second = 2 * value - half, (8 * value - 6 * half + quarter) / 3
    return ratio, _with_interval(min(1.0, max(0.0, second)), spread, abs(second - first))


def _with_interval(value: float, spread: np.ndarray | None, more: float = 0.0) -> Range:
    """Return a value with the interval of its spread, widened by `more` and limited to 0 to 1."""
    if spread is None:
        return Range(value)
    low, high = np.quantile(spread, [0.025, 0.975])
    return Range(value, max(0.0, value + float(low) - more), min(1.0, value + float(high) + more))


def _range(values: Sequence[float]) -> Range | None:
    if not values:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return Range(float(np.mean(values)), float(low), float(high))

"""Errors of estimates of pJSD against a known truth, by order and sample size, and the coverage of their intervals.

Sources are Markov chains of 20 symbols whose n-grams have known probabilities. "plain" is the value of the sample.
"Miller-Madow" and "bootstrap" are the usual bias corrections of entropies. "extrapolated" is the correction of
`speechmill study pjsd`, first for all samples and then for those that meet its condition.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
from markov_sources import Source

from studies import pjsd
from studies.ngrams import Corpus, count_ngrams
from studies.pjsd import Order, compare, divergence

SAMPLES = 12
SETTINGS = [(40, 50), (100, 200), (400, 200), (400, 1000)]
"""Clips per side, and phones per clip."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples of each setting")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="use only the first of the sample sizes")
    arguments = parser.parse_args()
    condition = f"corrected where the ratio is at least {pjsd.LEAST_RATIO} or the bias is small"
    print(f"{arguments.samples} samples each; {condition}")
    print("truth  clips x phones  n   ratio  error: plain  Miller-Madow  bootstrap  extrapolated   given  error  held")
    for mixed in (0.0, 0.3):
        one, other = Source(0), Source(0, mixed=mixed)
        for n in (1, 2, 3, 4):
            truth = one.truth(other, n)
            for clips, length in SETTINGS[: arguments.settings]:
                rows = [_sample(one, other, clips, length, n, seed, truth) for seed in range(arguments.samples)]
                ratio, plain, miller, bootstrap, extrapolated, given, held = np.array(rows, float).T
                shown = ~np.isnan(given)
                errors = [_error(one) for one in (plain, miller, bootstrap, extrapolated)]
                at_end = f"{_error(given[shown]):7.4f}  {held[shown].mean():4.0%}" if shown.any() else "      -     -"
                print(
                    f"{truth:.4f}  {clips:>5} x {length:<6}  {n}  {np.median(ratio):6.2f}        "
                    f"{errors[0]:.4f}        {errors[1]:.4f}     {errors[2]:.4f}        {errors[3]:.4f}  "
                    f"{shown.mean():5.0%} {at_end}",
                    flush=True,
                )


def _error(differences: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(differences))))


def _sample(one: Source, other: Source, clips: int, length: int, n: int, seed: int, truth: float) -> tuple[float, ...]:
    """Draw one sample. Returns the ratio; the errors of plain, Miller-Madow, bootstrap, extrapolated and corrected, NaN
    if the last is not given; and whether the interval of the corrected value contains the truth."""
    a, b = one.corpus("a", clips, length, 2 * seed), other.corpus("b", clips, length, 2 * seed + 1)
    (order,) = compare(a, b, (n,), draws=60, seed=seed)
    assert order.pjsd is not None
    value = order.pjsd.value
    corrected = order.corrected
    held = np.nan
    if corrected is not None and corrected.low is not None and corrected.high is not None:
        held = float(corrected.low <= truth <= corrected.high)
    return (
        np.nan if order.ratio is None else order.ratio,
        value - truth,
        value - _miller_madow_bias(a, b, n) - truth,
        value - _bootstrap_bias(a, b, n, value, seed) - truth,
        _without_condition(order) - truth,
        np.nan if corrected is None else corrected.value - truth,
        held,
    )


def _without_condition(order: Order) -> float:
    quarter, half, value = (point.pjsd for point in order.curve[-3:])
    return (8 * value - 6 * half + quarter) / 3


def _miller_madow_bias(a: Corpus, b: Corpus, n: int) -> float:
    """Return the first-order bias in bits: (K - 1) / 2N for the entropy of each side, and its analogue for the mean."""
    counts = [np.asarray(side.sum(axis=0)).reshape(-1) for side in count_ngrams([a, b], n)]
    totals = [float(side.sum()) for side in counts]
    p, q = (side / total for side, total in zip(counts, totals, strict=True))
    own = sum((np.count_nonzero(side) - 1) / total for side, total in zip(counts, totals, strict=True)) / 2
    mixed = float(np.sum((p / totals[0] + q / totals[1]) / 4 / ((p + q) / 2)))
    return (own - mixed) / 2 / float(np.log(2))


def _bootstrap_bias(a: Corpus, b: Corpus, n: int, value: float, seed: int) -> float:
    """Return how much larger the mean value of resampled clips is."""
    random = np.random.default_rng(seed)
    sides = count_ngrams([a, b], n)
    values = []
    for _ in range(60):
        drawn = [
            side.T @ random.multinomial(side.shape[0], np.full(side.shape[0], 1 / side.shape[0])) for side in sides
        ]
        values.append(divergence(*drawn))
    return float(np.mean(values)) - value


if __name__ == "__main__":
    main()

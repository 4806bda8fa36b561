"""Find the compute budgets of a table, and fit a parabola of ln L over ln N at each (Hoffmann et al. 2022, approach
2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from studies.laws.estimate import Points
from studies.laws.law import Array, Law

WIDTH = 0.3
"""Largest range of ln C within one budget. The compute of real runs varies within a budget."""
LEAST_SIZES = 5
LEAST_SPAN = 2.0
"""Fewest different sizes of a budget, and the smallest ratio of the largest to the smallest."""
DIFFERENT = 0.02
"""Smallest difference of ln N between different sizes."""
LEAST_BUDGETS = 3
BEND, ROUNDS = 1.345, 10
"""Parameter of Huber's loss in robust standard deviations, and rounds of reweighting."""
NOISY = 0.005
"""Standard deviation of ln C within budgets above which its effect on the loss is fitted too."""


@dataclass(frozen=True)
class Budgets:
    """The budgets of a table, numbered in order of compute."""

    of: npt.NDArray[np.int64]
    """Budget of each run, -1 for none."""
    flops: Array
    """Geometric mean of the compute of each budget, (K,)."""

    def __len__(self) -> int:
        return len(self.flops)


@dataclass(frozen=True)
class Parabola:
    """ln L = c0 + c1 x + c2 x^2 at one budget, where x = ln N minus its mean."""

    flops: float
    runs: int
    coefficients: Array
    mean: float
    params: float | None
    """N at its minimum; None if there is no usable one, for the reason in `problem`."""
    problem: str = ""


@dataclass(frozen=True)
class Isoflops:
    """The parabolas of all budgets and the power law through their minima, ln N* = intercept + exponent ln C."""

    parabolas: tuple[Parabola, ...]
    intercept: float
    params_exponent: float

    @property
    def tokens_exponent(self) -> float:
        """Exponent of C in D* = C / (6 N*)."""
        return 1 - self.params_exponent

    def optimal_params(self, flops: Array) -> Array:
        return np.exp(self.intercept + self.params_exponent * np.log(flops))


def count_different(logs: Array, width: float) -> int:
    """Count values that differ by more than `width`, in ascending order."""
    count, last = 0, -np.inf
    for value in np.sort(logs):
        if value - last > width:
            count, last = count + 1, value
    return count


def find_budgets(points: Points) -> Budgets:
    """Find budgets: repeatedly take the range of ln C of at most WIDTH that has the most runs and enough sizes."""
    logs, sizes = np.log(points.flops), np.log(points.params)
    order = np.argsort(logs, kind="stable")
    of = np.full(len(logs), -1)
    free = np.ones(len(logs), bool)
    centres: list[float] = []
    while True:
        best: npt.NDArray[np.int64] | None = None
        left = order[free[order]]
        ends = np.searchsorted(logs[left], logs[left] + WIDTH, side="right")
        for begin in np.argsort(-(ends - np.arange(len(left))), kind="stable"):
            members = left[begin : ends[begin]]
            if len(members) < LEAST_SIZES:
                break
            if count_different(sizes[members], DIFFERENT) >= LEAST_SIZES and np.ptp(sizes[members]) >= np.log(
                LEAST_SPAN
            ):
                best = members
                break
        if best is None:
            break
        of[best] = len(centres)
        free[best] = False
        centres.append(float(np.exp(logs[best].mean())))
    rank = np.argsort(np.argsort(centres)) if centres else np.empty(0, int)
    return Budgets(np.array([rank[index] if index >= 0 else -1 for index in of]), np.sort(centres))


def fit_parabolas(points: Points, budgets: Budgets, weights: Array | None = None) -> Isoflops | None:
    """Fit the parabolas of all budgets by least squares. None if fewer than three have a minimum among their sizes.

    If compute varies within the budgets, a common slope of ln L over ln C is fitted too.
    """
    count = len(budgets)
    inside = budgets.of >= 0
    of = budgets.of[inside]
    x, log_c, y = (np.log(values)[inside] for values in (points.params, points.flops, points.loss))
    weight = np.ones(len(y)) if weights is None else weights[inside]
    means = np.array([x[of == k].mean() for k in range(count)])
    x = x - means[of]
    excess = log_c - np.log(budgets.flops)[of]
    columns = np.zeros((len(y), 3 * count + 1))
    for power in range(3):
        columns[np.arange(len(y)), 3 * of + power] = x**power
    columns[:, -1] = excess
    used = columns if excess.std() > NOISY else columns[:, :-1]
    solution = _least_squares(used, y, weight)
    parabolas = []
    for k in range(count):
        c0, c1, c2 = solution[3 * k : 3 * k + 3]
        here = x[(of == k) & (weight > 0)]
        size, problem = None, ""
        if len(here) == 0 or count_different(here, DIFFERENT) < 3:
            problem = "fewer than three sizes"
        elif c2 <= 0:
            problem = "it has no minimum"
        elif not here.min() <= -c1 / (2 * c2) <= here.max():
            problem = "its minimum lies outside the sizes that were trained"
        else:
            size = float(np.exp(means[k] - c1 / (2 * c2)))
        runs = int((of == k).sum())
        parabolas.append(
            Parabola(float(budgets.flops[k]), runs, np.array([c0, c1, c2]), float(means[k]), size, problem)
        )
    good = [(one.flops, one.params) for one in parabolas if one.params is not None]
    if len(good) < LEAST_BUDGETS:
        return None
    log_flops, log_params = np.log(np.array(good)).T
    slope, intercept = np.polyfit(log_flops, log_params, 1)
    return Isoflops(tuple(parabolas), float(intercept), float(slope))


def robust_weights(points: Points, budgets: Budgets) -> Array:
    """Weights of the runs (n,) under which parabolas do not follow single bad runs: Huber's, by reweighting."""
    weights = np.ones(len(points))
    for _ in range(ROUNDS):
        found = fit_parabolas(points, budgets, weights)
        if found is None:
            return np.ones(len(points))
        errors = np.zeros(len(points))
        for k, one in enumerate(found.parabolas):
            here = budgets.of == k
            x = np.log(points.params[here]) - one.mean
            errors[here] = np.log(points.loss[here]) - one.coefficients @ np.stack([x**0, x, x**2])
        size = np.abs(errors[budgets.of >= 0])
        bend = max(1e-9, BEND * 1.4826 * float(np.median(size)))
        weights = np.minimum(1.0, bend / np.maximum(np.abs(errors), 1e-300))
    return weights


def _least_squares(columns: Array, y: Array, weights: Array) -> Array:
    """By normal equations, since the columns are centred and few, and the runs may be many."""
    weighted = columns * weights[:, None]
    return np.asarray(np.linalg.lstsq(weighted.T @ columns, weighted.T @ y, rcond=1e-12)[0], np.float64)


def expected(points: Points, budgets: Budgets, law: Law) -> float | None:
    """The exponent of D* that parabolas would find at these very runs if the law were true: it shows their bias."""
    predicted = Points(points.params, points.tokens, law.loss(points.params, points.tokens))
    found = fit_parabolas(predicted, budgets)
    return None if found is None else found.tokens_exponent


def bootstrap(points: Points, budgets: Budgets, robust: Array, resamples: int, seed: int = 0) -> Array:
    """Return the exponents of D* for resamples of the runs within each budget; NaN if a resample has too few minima.

    `robust` are the robust weights of the runs in the original sample.
    """
    rng = np.random.default_rng(seed)
    found = np.full(resamples, np.nan)
    for draw in range(resamples):
        weights = np.zeros(len(points))
        for k in range(len(budgets)):
            members = np.flatnonzero(budgets.of == k)
            np.add.at(weights, rng.choice(members, len(members)), 1.0)
        drawn = fit_parabolas(points, budgets, weights * robust)
        found[draw] = np.nan if drawn is None else drawn.tokens_exponent
    return found

"""Intervals of a law's constants: by bootstrap over runs and over budgets, and by profile likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from studies.laws import solve
from studies.laws.estimate import HUBER_DELTA, Fit, Model, Points
from studies.laws.law import Array, Law

LEVEL = 0.95
RESAMPLES = 400
TUNING = 1.345
"""Parameter of Huber's loss for profiles, in standard deviations: 95 % as efficient as least squares (Huber 1981)."""
LEAST_SD = 1e-7
"""Standard deviation of ln L below which a table is treated as free of noise."""
STEPS = np.array([0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 20, 50])
"""Points at which profiles are computed, in standard errors from the estimate."""
QUANTITIES = ("E", "A", "B", "alpha", "beta", "gamma", "tokens_exponent")

Interval = tuple[float | None, float | None]
"""Lower and upper end; None if the table does not bound it."""


@dataclass(frozen=True)
class Resampled:
    """The laws of all resamples."""

    laws: tuple[Law, ...]
    at_bound: int
    """Number of resamples that ended at a bound of the search."""

    def interval(self, quantity: Callable[[Law], float]) -> Interval:
        """Return the percentile interval of a quantity that follows from the law."""
        values = np.array([quantity(law) for law in self.laws])
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def intervals(self) -> dict[str, Interval]:
        return {name: self.interval(attrgetter(name)) for name in QUANTITIES}


def bootstrap(
    points: Points,
    fit: Fit,
    clusters: npt.NDArray[np.int64],
    free_gamma: bool,
    resamples: int = RESAMPLES,
    delta: float = HUBER_DELTA,
    seed: int = 0,
) -> Resampled:
    """Fit the law to bootstrap resamples of clusters of runs.

    `clusters`, (n,), gives the cluster of each run: its own, or one for all runs of a budget. Each fit starts from the
    optimum of the whole table.
    """
    model = Model(points)
    kinds, of = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), resamples)
    starts = np.repeat(model.theta(fit.law)[None], resamples, axis=0)
    bounds = model.bounds(None if free_gamma else fit.law.gamma)
    solved = solve.minimise(model.residuals, starts, bounds, delta, weights=drawn[:, of].astype(float))
    laws = tuple(model.law(theta) for theta in solved.theta)
    return Resampled(laws, sum(bool(model.at_bound(law)) for law in laws))


def nearest_budget(points: Points, of: npt.NDArray[np.int64], flops: Array) -> npt.NDArray[np.int64]:
    """Return the budget of each run. A run between budgets belongs to the one with the nearest compute."""
    nearest = np.abs(np.log(points.flops)[:, None] - np.log(flops)).argmin(axis=1)
    return np.where(of >= 0, of, nearest)

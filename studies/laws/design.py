"""Optimal design: choose the runs that narrow the intervals of a law most for their compute.

The information of a run is given by its derivatives of ln L by the constants (Fisher information), over the variance of
ln L. Sets of runs are chosen by the determinant of the information, or by the variance of one quantity (Fedorov 1972).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from studies.laws.estimate import Model, Points
from studies.laws.law import Array, Law

Indices = npt.NDArray[np.int64]
RIDGE = 1e-10
"""Share of the diagonal that is added to the information, so that sets which identify too little can be compared
too."""


@dataclass(frozen=True)
class Information:
    """Derivatives of ln L by the constants at runs, and the standard errors that follow from them."""

    model: Model
    theta: Array
    sd: float
    """Standard deviation of ln L among repetitions of the same run."""
    free_gamma: bool

    @classmethod
    def of(cls, points: Points, law: Law, sd: float, free_gamma: bool) -> Information:
        model = Model(points)
        return cls(model, model.theta(law), sd, free_gamma)

    def slopes(self, params: Array, tokens: Array) -> Array:
        """Return the derivatives divided by the standard deviation: (n, 5), or (n, 6) with gamma free."""
        moved = Model(Points(params, tokens, np.ones_like(params)))
        # The parameters of the search are relative to the means of the table to which the law was fitted.
        moved.n = moved.log_params - self.model.mean_params
        moved.d = moved.log_tokens - self.model.mean_tokens
        slopes = moved.residuals(self.theta[None])[1][0]
        return slopes[:, : 6 if self.free_gamma else 5] / self.sd

    def gradient(self, quantity: Callable[[Law], float]) -> Array:
        """Return the gradient of a quantity that follows from the law, by the parameters of the search."""
        step = 1e-5
        units = np.eye(6)[: 6 if self.free_gamma else 5] * step
        values = [
            quantity(self.model.law(self.theta + unit)) - quantity(self.model.law(self.theta - unit)) for unit in units
        ]
        return np.array(values, np.float64) / (2 * step)

    def error(self, slopes: Array, quantity: Callable[[Law], float]) -> float:
        """Return the first-order standard error of a quantity, from runs with these slopes."""
        gradient = self.gradient(quantity)
        covariance = np.linalg.pinv(slopes.T @ slopes)
        return float(np.sqrt(max(0.0, float(gradient @ covariance @ gradient))))


def choose(
    known: Array, candidates: Array, costs: Array, spend: float, aim: Array | None = None, count: int | None = None
) -> Indices:
    """Choose candidates to add to the known runs.

    Candidates are added greedily, once by gain over cost and once by gain. Both sets are improved by exchanges and
    extended with the remaining compute, and the better set is returned.

    Args:
        known: Slopes of the known runs, (n, p).
        candidates: Slopes of the candidates, (m, p).
        costs: Compute of each candidate, (m,).
        spend: Largest total compute.
        aim: Gradient (p,) of the quantity whose variance to minimise; by default the determinant of the covariance of
            all constants is minimised.
        count: Largest number of candidates to choose.

    Returns:
        Indices of the chosen candidates.
    """
    limit = len(candidates) if count is None else count
    nothing = np.empty(0, dtype=np.int64)
    sets = []
    for by_cost in (True, False):
        chosen = _greedy(known, candidates, costs, spend, aim, limit, by_cost, nothing)
        chosen = _exchange(known, candidates, costs, spend, aim, chosen)
        sets.append(_greedy(known, candidates, costs, spend, aim, limit, by_cost, chosen))
    return np.sort(max(sets, key=lambda chosen: merit(known, candidates[chosen], aim)))


def _information(slopes: Array) -> Array:
    total: Array = slopes.T @ slopes
    return total + RIDGE * (np.trace(total) / len(total) + 1e-30) * np.eye(len(total))


def _covariance(slopes: Array) -> Array:
    inverse: Array = np.asarray(np.linalg.inv(_information(slopes)), np.float64)
    return inverse


def merit(known: Array, added: Array, aim: Array | None) -> float:
    """Return the merit of adding runs, higher being better: the log determinant of the information, or minus the log
    variance of the quantity in `aim`."""
    information = _information(np.concatenate([known, added]))
    if aim is None:
        return float(np.linalg.slogdet(information)[1])
    return -float(np.log(aim @ np.linalg.solve(information, aim)))


def _gains(covariance: Array, candidates: Array, aim: Array | None) -> Array:
    """Return how much each candidate alone adds to the merit, by the matrix determinant lemma or Sherman-Morrison."""
    spread = np.einsum("mp,pq,mq->m", candidates, covariance, candidates)
    if aim is None:
        return np.log1p(spread)
    drop = (candidates @ covariance @ aim) ** 2 / (1 + spread)
    return -np.log(np.maximum(1e-12, 1 - drop / (aim @ covariance @ aim)))


def _greedy(
    known: Array,
    candidates: Array,
    costs: Array,
    spend: float,
    aim: Array | None,
    limit: int,
    by_cost: bool,
    begun: Indices,
) -> Indices:
    """Extend a set of candidates one by one. Returns the extended set."""
    chosen: list[int] = begun.tolist()
    left = np.ones(len(candidates), bool)
    left[begun] = False
    room = spend - costs[begun].sum()
    covariance = _covariance(np.concatenate([known, candidates[begun]]))
    while len(chosen) < limit:
        left &= costs <= room
        if not left.any():
            break
        gains = _gains(covariance, candidates, aim)
        best = int(np.argmax(np.where(left, gains / costs if by_cost else gains, -np.inf)))
        chosen.append(best)
        left[best] = False
        room -= costs[best]
        along = covariance @ candidates[best]
        covariance = covariance - np.outer(along, along) / (1 + candidates[best] @ along)
    return np.array(chosen, dtype=np.int64)


def _exchange(
    known: Array, candidates: Array, costs: Array, spend: float, aim: Array | None, chosen: Indices, rounds: int = 10
) -> Indices:
    """Swap chosen runs for others as long as that improves the set and stays within the compute."""
    current = chosen.copy()
    for _ in range(rounds):
        changed = False
        for place in range(len(current)):
            others = np.delete(current, place)
            covariance = _covariance(np.concatenate([known, candidates[others]]))
            room = spend - costs[others].sum()
            gains = _gains(covariance, candidates, aim)
            gains[others] = -np.inf
            gains[costs > room] = -np.inf
            best = int(np.argmax(gains))
            if gains[best] > gains[current[place]] + 1e-9:
                current[place] = best
                changed = True
        if not changed:
            break
    return current

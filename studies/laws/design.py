"""Which runs to train next: those that narrow a law's intervals most for the compute that they cost.

A run tells about the constants what its derivatives of ln L say (Fisher's information over the variance of ln L); sets
of runs are chosen for the determinant of all information, or for the variance of one quantity (Fedorov 1972).
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
"""Share of the diagonal that is added to the information, so that runs that identify too little can be compared too."""


@dataclass(frozen=True)
class Information:
    """The derivatives of ln L by the constants at runs, and what standard errors follow from sets of them."""

    model: Model
    theta: Array
    sd: float
    """Standard deviation of ln L among repetitions of a run."""
    free_gamma: bool

    @classmethod
    def of(cls, points: Points, law: Law, sd: float, free_gamma: bool) -> Information:
        model = Model(points)
        return cls(model, model.theta(law), sd, free_gamma)

    def slopes(self, params: Array, tokens: Array) -> Array:
        """Derivatives over the standard deviation, (n, 5) or (n, 6) with gamma free."""
        moved = Model(Points(params, tokens, np.ones_like(params)))
        # The search's parameters are measured from the means of the table to which the law was fitted.
        moved.n = moved.log_params - self.model.mean_params
        moved.d = moved.log_tokens - self.model.mean_tokens
        slopes = moved.residuals(self.theta[None])[1][0]
        return slopes[:, : 6 if self.free_gamma else 5] / self.sd

    def gradient(self, quantity: Callable[[Law], float]) -> Array:
        """Of what follows from the law, by the parameters of the search."""
        step = 1e-5
        units = np.eye(6)[: 6 if self.free_gamma else 5] * step
        values = [
            quantity(self.model.law(self.theta + unit)) - quantity(self.model.law(self.theta - unit)) for unit in units
        ]
        return np.array(values, np.float64) / (2 * step)

    def error(self, slopes: Array, quantity: Callable[[Law], float]) -> float:
        """The standard error of a quantity, to first order, from runs with these slopes."""
        gradient = self.gradient(quantity)
        covariance = np.linalg.pinv(slopes.T @ slopes)
        return float(np.sqrt(max(0.0, float(gradient @ covariance @ gradient))))


def choose(
    known: Array, candidates: Array, costs: Array, spend: float, aim: Array | None = None, count: int | None = None
) -> Indices:
    """Which candidates (m, p) to add to the known runs (n, p) for at most `spend`, and at most `count` of them.

    With `aim`, the gradient (p,) of a quantity, its variance is made least; else the determinant of the covariance of
    all constants. Candidates are added greedily, once by what they gain for what they cost and once by what they gain
    alone. Both sets are improved by exchanges, what compute is left is spent, and the better one is returned.
    """
    limit = len(candidates) if count is None else count
    nothing = np.empty(0, dtype=np.int64)
    sets = []
    for by_cost in (True, False):
        chosen = _greedy(known, candidates, costs, spend, aim, limit, by_cost, nothing)
        chosen = _exchanged(known, candidates, costs, spend, aim, chosen)
        sets.append(_greedy(known, candidates, costs, spend, aim, limit, by_cost, chosen))
    return np.sort(max(sets, key=lambda chosen: merit(known, candidates[chosen], aim)))


def _information(slopes: Array) -> Array:
    total: Array = slopes.T @ slopes
    return total + RIDGE * (np.trace(total) / len(total) + 1e-30) * np.eye(len(total))


def _covariance(slopes: Array) -> Array:
    inverse: Array = np.asarray(np.linalg.inv(_information(slopes)), np.float64)
    return inverse


def merit(known: Array, added: Array, aim: Array | None) -> float:
    """Higher is better: ln of the determinant of the information, or less the ln of the variance aimed at."""
    information = _information(np.concatenate([known, added]))
    if aim is None:
        return float(np.linalg.slogdet(information)[1])
    return -float(np.log(aim @ np.linalg.solve(information, aim)))


def _gains(covariance: Array, candidates: Array, aim: Array | None) -> Array:
    """What each candidate alone adds to the merit, by the matrix determinant lemma or by Sherman and Morrison."""
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
    """The candidates that were begun with, and those that are added one by one."""
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


def _exchanged(
    known: Array, candidates: Array, costs: Array, spend: float, aim: Array | None, chosen: Indices, rounds: int = 10
) -> Indices:
    """Swap a chosen run for another one as long as that helps and stays within the compute."""
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

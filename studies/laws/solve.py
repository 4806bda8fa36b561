"""Levenberg-Marquardt for many least-squares problems at once, vectorised over all starts or all resamples.

With Huber's loss, the minimum is found by iterative reweighting (Holland and Welsch 1977).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from studies.laws.law import Array

Indices: TypeAlias = npt.NDArray[np.int64]
Residuals = Callable[[Array], tuple[Array, Array]]
"""Maps parameters (S, p) to residuals (S, n) and their derivatives (S, n, p)."""


@dataclass(frozen=True)
class Solved:
    """The solutions of S problems."""

    theta: Array
    """Parameters, (S, p)."""
    value: Array
    """Sums of Huber's loss, (S,)."""


@dataclass(frozen=True)
class Ties:
    """Linear constraints theta = base + matrix @ free, with which a profile fixes a constant."""

    base: Array
    """(S, p)"""
    matrix: Array
    """(S, p, q)"""


def huber(residuals: Array, delta: float) -> Array:
    """Return Huber's loss: half the square up to delta, and linear beyond."""
    size = np.abs(residuals)
    if np.isinf(delta):
        return 0.5 * size**2
    return np.where(size <= delta, 0.5 * size**2, delta * (size - delta / 2))


def minimise(
    residuals: Residuals,
    starts: Array,
    bounds: tuple[Array, Array],
    delta: float = np.inf,
    weights: Array | None = None,
    ties: Ties | None = None,
    iterations: int = 300,
) -> Solved:
    """Minimise the weighted sum of Huber's loss of the residuals, from each start.

    A problem stops when steps no longer lower its sum by a relative 1e-11.

    Args:
        residuals: The residuals and their derivatives.
        starts: Start of each problem, (S, p); with `ties`, of its free parameters, (S, q).
        bounds: Lower and upper bounds of all parameters, (p,) each.
        delta: Parameter of Huber's loss; infinite for least squares.
        weights: Weights of the residuals, (S, n); 1 by default.
        ties: Linear constraints.
        iterations: Largest number of iterations.

    Returns:
        All parameters of each problem, and its sum.
    """
    lower, upper = bounds
    free = starts.copy()
    count = len(free)

    def full(values: Array, which: Indices) -> Array:
        if ties is None:
            return values
        tied: Array = ties.base[which] + np.einsum("spq,sq->sp", ties.matrix[which], values)
        return tied

    def evaluate(values: Array, which: Indices) -> tuple[Array, Array, Array]:
        theta = full(values, which)
        errors, slopes = residuals(theta)
        if ties is not None:
            slopes = np.einsum("snp,spq->snq", slopes, ties.matrix[which])
        losses = huber(errors, delta)
        sums = losses.sum(axis=1) if weights is None else np.einsum("sn,sn->s", weights[which], losses)
        outside = ((theta < lower - 1e-12) | (theta > upper + 1e-12)).any(axis=1)
        return np.where(outside | ~np.isfinite(sums), np.inf, sums), errors, slopes

    active: Indices = np.arange(count, dtype=np.int64)
    value, errors, slopes = evaluate(free, active)
    result = value.copy()
    damping = np.full(count, 1e-3)
    resting = np.zeros(count, int)
    for _ in range(iterations):
        at_work = np.minimum(1.0, delta / np.maximum(np.abs(errors), 1e-300))
        if weights is not None:
            at_work = at_work * weights[active]
        step = _step(slopes, errors, at_work, damping[active], free[active], None if ties else bounds)
        proposed = free[active] + step
        if ties is None:
            proposed = np.clip(proposed, lower, upper)
        tried, new_errors, new_slopes = evaluate(proposed, active)
        better = tried < result[active]
        with np.errstate(invalid="ignore"):
            small = result[active] - tried <= 1e-11 * np.abs(result[active])
        resting[active] = np.where(better & ~small, 0, resting[active] + 1)
        free[active[better]] = proposed[better]
        result[active[better]] = tried[better]
        errors[better], slopes[better] = new_errors[better], new_slopes[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.25, 5.0), 1e-12, 1e12)
        going = resting[active] < 8
        if not going.all():
            active, errors, slopes = active[going], errors[going], slopes[going]
        if not len(active):
            break
    return Solved(full(free, np.arange(count, dtype=np.int64)), result)


def _step(
    slopes: Array, errors: Array, weights: Array, damping: Array, at: Array, bounds: tuple[Array, Array] | None
) -> Array:
    """Return Marquardt's damped step of each problem. A parameter at a bound that would leave it does not move."""
    weighted = slopes * weights[:, :, None]
    gradient = np.einsum("snp,sn->sp", weighted, errors)
    hessian = np.matmul(weighted.transpose(0, 2, 1), slopes)
    diagonal = np.einsum("spp->sp", hessian).copy()
    diagonal = np.maximum(diagonal, 1e-14 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    if bounds is not None:
        lower, upper = bounds
        stuck = ((at <= lower) & (gradient > 0)) | ((at >= upper) & (gradient < 0))
        gradient = np.where(stuck, 0.0, gradient)
        hessian = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, hessian)
    scale = 1 / np.sqrt(diagonal)
    size = hessian.shape[1]
    system = hessian * scale[:, :, None] * scale[:, None, :] + (damping[:, None] + 1e-13)[:, :, None] * np.eye(size)
    system = np.where(np.isfinite(system), system, np.eye(size))
    right = np.nan_to_num(gradient * scale)
    return np.asarray(-scale * np.linalg.solve(system, right[:, :, None])[:, :, 0])

"""Intervals by profile likelihood: one constant is fixed at a value, and all others are fitted again."""

from __future__ import annotations

import numpy as np

from studies.laws import solve
from studies.laws.estimate import EXPONENTS, GAMMAS, Fit, Model, Points, robust_sd
from studies.laws.intervals import LEVEL, QUANTITIES, Interval
from studies.laws.law import Array

TUNING = 1.345
"""Parameter of Huber's loss in standard deviations: 95 % as efficient as least squares (Huber 1981)."""
LEAST_SD = 1e-7
"""Standard deviation of ln L below which a table is treated as free of noise."""
STEPS = np.array([0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 20, 50])
"""Points of a profile on each side, in standard errors from the estimate."""
LOGARITHMIC = ("E", "A", "B")
"""Constants whose profiles are computed over their logarithms."""
ROWS = {"E": 0, "A": 1, "B": 2, "alpha": 3, "beta": 4, "gamma": 5, "tokens_exponent": 4}
"""The parameter of the search that is eliminated when a constant is fixed."""


def profiles(points: Points, fit: Fit, free_gamma: bool) -> dict[str, Interval]:
    """Compute the 95 % interval of each constant.

    The objective is Huber's loss of the errors of ln L with a parameter of 1.345 standard deviations. Its rise, scaled
    by 2 E[psi'] / E[psi^2], is compared with the quantile of F(1, n - p), which is the robust likelihood-ratio test
    (Ronchetti 1982). An end is None if the table allows every value up to a bound of the search.
    """
    model = Model(points)
    bounds = model.bounds(None if free_gamma else fit.law.gamma)
    used = 6 if free_gamma else 5
    sd = robust_sd(model.residuals(model.theta(fit.law)[None])[0][0], used)
    delta = TUNING * max(LEAST_SD, sd)
    best = solve.minimise(model.residuals, model.theta(fit.law)[None], bounds, delta)
    theta = best.theta[0]
    errors, slopes = (array[0] for array in model.residuals(best.theta))
    if float(np.sqrt(np.mean(errors**2))) < LEAST_SD:
        return {name: (float(getattr(model.law(theta), name)),) * 2 for name in QUANTITIES}
    inside = float((np.abs(errors) <= delta).mean())
    scale = inside * (1 - used / len(points)) / float(np.mean(np.clip(errors, -delta, delta) ** 2))
    covariance = np.linalg.pinv(slopes[:, :used].T @ slopes[:, :used] * scale)
    names = [name for name in QUANTITIES if name != "gamma" or free_gamma]
    values = np.stack([_values(model, theta, covariance, name) for name in names])  # (names, 2 sides, steps)
    sums = _constrained(model, theta, names, values, bounds, delta, free_gamma).reshape(values.shape)
    ratios = 2 * scale * np.maximum(0.0, sums - best.value[0])
    found: dict[str, Interval] = dict.fromkeys(QUANTITIES, (fit.law.gamma, fit.law.gamma))
    for name, value, ratio in zip(names, values, ratios, strict=True):
        centre, limit = _value(model, theta, name), _limit(len(points) - used)
        low, high = (_crossing(centre, value[side], ratio[side], limit) for side in (0, 1))
        found[name] = (_exp(low), _exp(high)) if name in LOGARITHMIC else (low, high)
    return found


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


def _limit(freedom: int) -> float:
    from scipy.stats import f

    return float(f.ppf(LEVEL, 1, max(1, freedom)))


def _value(model: Model, theta: Array, name: str) -> float:
    """Return a constant, or its logarithm, in the scale of its profile."""
    value = float(getattr(model.law(theta), name))
    return float(np.log(max(value, 1e-300))) if name in LOGARITHMIC else value


def _values(model: Model, theta: Array, covariance: Array, name: str) -> Array:
    """Return the points of a profile below and above the estimate, (2, steps), within the bounds of the search."""
    step = 1e-6
    gradient = np.array(
        [
            (_value(model, theta + step * unit, name) - _value(model, theta - step * unit, name)) / (2 * step)
            for unit in np.eye(6)[: len(covariance)]
        ]
    )
    error = float(np.sqrt(max(1e-24, gradient @ covariance @ gradient)))
    lower, upper = model.bounds(None)
    least, most = {
        "E": (float(lower[0]), float(upper[0])),
        "alpha": (EXPONENTS[0] / theta[5], EXPONENTS[1] / theta[5]),
        "beta": (EXPONENTS[0] / theta[5], EXPONENTS[1] / theta[5]),
        "gamma": GAMMAS,
        "tokens_exponent": (0.01, 0.99),
    }.get(name, (-np.inf, np.inf))
    points: Array = np.clip(_value(model, theta, name) + error * np.stack([-STEPS, STEPS]), least, most)
    return points


def _constrained(
    model: Model,
    theta: Array,
    names: list[str],
    values: Array,
    bounds: tuple[Array, Array],
    delta: float,
    free_gamma: bool,
) -> Array:
    """Return the smallest sums with each constant fixed at each of its values. One search finds them all.

    Each constraint is linear in the parameters of the search, which are chosen for that: e = ln E for E, p = alpha
    gamma for alpha, a = gamma ln A - p mean(ln N) for A, and q = p (1 - x) / x for the exponent x of D*. beta and B are
    analogous to alpha and A.
    """
    held = np.repeat(names, values[0].size)
    flat = values.ravel()
    base, matrix = np.zeros((len(flat), 6)), np.repeat(np.eye(6)[None], len(flat), axis=0)
    for name in names:
        which, row = np.flatnonzero(held == name), ROWS[name]
        matrix[which, row, :] = 0.0
        if name in ("E", "gamma"):
            base[which, row] = flat[which]
        elif name == "tokens_exponent":
            matrix[which, 4, 3] = (1 - flat[which]) / flat[which]
        else:
            matrix[which, row, 5] = flat[which]
        if name == "A":
            matrix[which, 1, 3] = -model.mean_params
        elif name == "B":
            matrix[which, 2, 4] = -model.mean_tokens
    if not free_gamma:
        base += matrix[:, :, 5] * theta[5]
        matrix[:, :, 5] = 0.0
    starts = np.repeat(theta[None], len(flat), axis=0)
    return solve.minimise(model.residuals, starts, bounds, delta, ties=solve.Ties(base, matrix)).value


def _crossing(centre: float, values: Array, ratios: Array, limit: float) -> float | None:
    """Return where the ratio first exceeds the limit, by linear interpolation of its square root; None if nowhere."""
    before, root = centre, 0.0
    for value, ratio in zip(values, ratios, strict=True):
        if not np.isfinite(ratio):
            continue
        if ratio >= limit:
            share = (np.sqrt(limit) - root) / max(1e-12, np.sqrt(ratio) - root)
            return float(before + share * (value - before))
        before, root = float(value), float(np.sqrt(ratio))
    return None

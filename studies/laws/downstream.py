"""Predict downstream metrics from compute: in two stages through the loss, and jointly with the law.

A metric M depends on the loss as M = c + k exp(s L), with a straight line as the limit (Gadre et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.laws.estimate import Fit, Model, Points
from studies.laws.law import Array, Law

LEAST_RUNS = 8
LEAST_CORRELATION = 0.5
STEEPEST = 6.0
"""Bound of s in units of 1 / the standard deviation of the loss."""


@dataclass(frozen=True)
class Link:
    """M = c + k exp(s (L - centre) / scale)."""

    c: float
    k: float
    s: float
    centre: float
    scale: float

    def metric(self, loss: Array) -> Array:
        return self.c + self.k * np.exp(self.s * (loss - self.centre) / self.scale)


def fit_link(loss: Array, metric: Array) -> Link:
    """Fit a link by least squares. For a given s, c and k are linear, so only s is searched."""
    from scipy.optimize import minimize_scalar

    centre, scale = float(loss.mean()), float(loss.std())
    x = (loss - centre) / scale

    def solved(s: float) -> tuple[Array, float]:
        basis = np.stack([np.ones_like(x), np.exp(s * x)], axis=1)
        found = np.linalg.lstsq(basis, metric, rcond=None)[0]
        return found, float(((basis @ found - metric) ** 2).sum())

    grid = np.concatenate([-np.geomspace(STEEPEST, 0.01, 40), np.geomspace(0.01, STEEPEST, 40)])
    sums = [solved(s)[1] for s in grid]
    best = int(np.argmin(sums))
    around = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    s = float(minimize_scalar(lambda value: solved(value)[1], bounds=around, method="bounded").x)
    s = min((s, float(grid[best])), key=lambda value: solved(value)[1])
    (c, k), _ = solved(s)
    return Link(float(c), float(k), s, centre, scale)


def fit_jointly(points: Points, metric: Array, law: Law, link: Link, free_gamma: bool) -> tuple[Law, Link]:
    """Fit law and link together, by least squares of both kinds of errors, each in its standard deviations.

    The metric then informs the constants of the law too, and noise of the loss is not taken for signal.
    """
    from scipy.optimize import least_squares

    model = Model(points)
    start = model.theta(law)
    count = 6 if free_gamma else 5
    sd_loss = max(1e-6, float(np.std(model.residuals(start[None])[0])))
    sd_metric = max(1e-6 * float(np.ptp(metric)), float(np.std(metric - link.metric(points.loss))))

    def theta_of(values: Array) -> Array:
        return np.concatenate([values[:count], start[count:]])

    def errors(values: Array) -> Array:
        of_loss = model.residuals(theta_of(values)[None])[0][0]
        c, k, s = values[count:]
        predicted = np.exp(model.log_loss + of_loss)
        predicted_metric = c + k * np.exp(np.clip(s * (predicted - link.centre) / link.scale, -50, 50))
        return np.concatenate([of_loss / sd_loss, (predicted_metric - metric) / sd_metric])

    lower, upper = model.bounds(None if free_gamma else law.gamma)
    free = [np.inf] * 3
    initial = np.concatenate([np.clip(start[:count], lower[:count], upper[:count]), [link.c, link.k, link.s]])
    bounds = np.append(lower[:count] - 1e-9, np.negative(free)), np.append(upper[:count] + 1e-9, free)
    optimum = least_squares(errors, initial, bounds=bounds, x_scale="jac", max_nfev=300).x
    c, k, s = (float(value) for value in optimum[count:])
    return model.law(theta_of(optimum)), Link(c, k, s, link.centre, link.scale)


def judge(
    points: Points, metrics: Mapping[str, Array], train: npt.NDArray[np.bool_], fit: Fit, free_gamma: bool
) -> list[dict[str, Any]]:
    """Predict each metric in both ways from the runs of `train`, and compute the errors at these and at the others.

    `fit` is the law of the runs of `train`. A metric is refused, with the reason, if too few runs have it or if it does
    not depend on the loss.
    """
    return [_judge_metric(name, points, values, train, fit, free_gamma) for name, values in metrics.items()]


def _judge_metric(
    name: str, points: Points, values: Array, train: npt.NDArray[np.bool_], fit: Fit, free_gamma: bool
) -> dict[str, Any]:
    from scipy.stats import spearmanr

    there = np.isfinite(values)
    used, unseen = there & train, there & ~train
    document: dict[str, Any] = {"metric": name, "runs": int(there.sum()), "missing": int((~there).sum())}
    if used.sum() < LEAST_RUNS:
        return document | {"refused": f"{int(used.sum())} runs have it, fewer than {LEAST_RUNS}"}
    if np.ptp(values[used]) == 0:
        return document | {"refused": "it is the same for all runs"}
    correlation = float(spearmanr(points.loss[used], values[used]).statistic)
    if abs(correlation) < LEAST_CORRELATION:
        return document | {"refused": f"its rank correlation with the loss is {correlation:.2f}: it does not follow it"}
    link = fit_link(points.loss[used], values[used])
    law, joint = fit_jointly(points.take(used), values[used], fit.law, link, free_gamma)

    def error(law: Law, link: Link, which: npt.NDArray[np.bool_]) -> float | None:
        if not which.any():
            return None
        predicted = link.metric(law.loss(points.params[which], points.tokens[which]))
        return float(np.abs(predicted - values[which]).mean())

    return document | {
        "rank_correlation": correlation,
        "range": [float(values[used].min()), float(values[used].max())],
        "two_stage": {
            "train": error(fit.law, link, used),
            "held_out": error(fit.law, link, unseen),
            "link": vars(link),
        },
        "joint": {
            "train": error(law, joint, used),
            "held_out": error(law, joint, unseen),
            "link": vars(joint),
            "law": law.as_dict(),
        },
    }

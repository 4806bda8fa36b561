"""Rules for unusual runs: extreme numbers of tokens per parameter, and errors far larger than the others.

Both rules are fixed before a law is fitted. The first does not use the loss, so it cannot select runs that fit well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.laws.estimate import Fit, Model, Points, fit_huber, robust_sd

RATIO_SD = 3.0
LEAST_FACTOR = 10.0
"""A run within this factor of the median number of tokens per parameter is never left out."""
MOST_SHARE = 0.05
"""Largest share of runs that is left out. If the rule selects more, they are not outliers, and all are kept."""
RESIDUAL_SD = 5.0
FEW_STARTS = 16
LEAST_HELD = 3
"""Fewest runs of a held-out budget for a meaningful error."""
NOTABLE_SHIFT = 0.02
"""Smallest change of an exponent that causes a warning."""

RATIO_RULE = (
    "a run is left out if ln(tokens per parameter) is more than {sd:g} robust standard deviations "
    "(1.4826 x median absolute deviation) from the median of the table, and more than a factor of 10; if that "
    "would be more than 5 % of the runs, none is left out"
)
RESIDUAL_RULE = (
    "a run is listed if its error of ln L exceeds {sd:g} robust standard deviations of all errors; it stays in the "
    "fit, where Huber's loss limits its influence"
)


@dataclass(frozen=True)
class RatioRule:
    """The result of the rule on tokens per parameter."""

    outside: npt.NDArray[np.bool_]
    low: float
    high: float
    note: str = ""


def ratio_rule(points: Points, sd: float = RATIO_SD) -> RatioRule:
    """Apply the rule on tokens per parameter. With `sd` 0 it leaves out no run."""
    logs = np.log(points.tokens / points.params)
    if sd == 0:
        return RatioRule(np.zeros(len(logs), bool), 0.0, np.inf, "the rule is switched off")
    median = float(np.median(logs))
    fence = max(sd * 1.4826 * float(np.median(np.abs(logs - median))), float(np.log(LEAST_FACTOR)))
    outside = np.abs(logs - median) > fence
    low, high = float(np.exp(median - fence)), float(np.exp(median + fence))
    if outside.mean() > MOST_SHARE:
        note = f"{int(outside.sum())} of {len(logs)} runs are outside, too many to be outliers: all are kept"
        return RatioRule(np.zeros(len(logs), bool), low, high, note)
    return RatioRule(outside, low, high)


def misfits(points: Points, fit: Fit, sd: float = RESIDUAL_SD) -> tuple[npt.NDArray[np.bool_], float]:
    """Return the runs with large errors, and the robust standard deviation of all errors of ln L."""
    model = Model(points)
    errors = model.residuals(model.theta(fit.law)[None])[0][0]
    scale = robust_sd(errors, 5)
    return np.abs(errors) > max(sd * scale, 1e-6), scale


def influence(
    points: Points, without: npt.NDArray[np.bool_], gamma: float | None, delta: float
) -> dict[str, dict[str, float]]:
    """Fit the law with and without some runs, to see their influence on the constants."""
    laws = {
        name: fit_huber(part, gamma, FEW_STARTS, delta).law
        for name, part in (("with", points), ("without", points.take(~without)))
    }
    return {name: law.as_dict() | {"tokens_exponent": law.tokens_exponent} for name, law in laws.items()}


def shifts(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the notable changes of exponents in the result of `influence`."""
    names = ("alpha", "beta", "tokens_exponent")
    changes = {name: found["with"][name] - found["without"][name] for name in names}
    return {name: change for name, change in changes.items() if abs(change) >= NOTABLE_SHIFT}


def listed(points: Points, lines: tuple[int, ...], which: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return runs in the format of the document."""
    return [
        {
            "line": lines[index],
            "params": float(points.params[index]),
            "tokens": float(points.tokens[index]),
            "loss": float(points.loss[index]),
            "tokens_per_param": float(points.tokens[index] / points.params[index]),
        }
        for index in np.flatnonzero(which)
    ]

"""Which runs a law should not be trusted on: extreme numbers of tokens per parameter, and errors far beyond the rest.

Both rules are fixed before a law is fitted. The first looks at no loss, so that it cannot choose what fits well.
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
"""Where more than this share of the runs would be left out they are no outliers, and none is."""
RESIDUAL_SD = 5.0
FEW_STARTS = 16
LEAST_HELD = 3
"""A held-out budget of fewer runs says little."""
NOTABLE_SHIFT = 0.02
"""A change of an exponent that is worth a warning."""

RATIO_RULE = (
    "a run is left out where ln(tokens per parameter) lies more than {sd:g} robust standard deviations "
    "(1.4826 x median absolute deviation) from the median of the table, and more than a factor of 10; where that "
    "would be more than 5 % of the runs, none is"
)
RESIDUAL_RULE = (
    "a run is named where its error of ln L exceeds {sd:g} robust standard deviations of all errors; it stays in the "
    "fit, where Huber's function bounds what it can do"
)


@dataclass(frozen=True)
class RatioRule:
    """What the rule on tokens per parameter says of a table."""

    outside: npt.NDArray[np.bool_]
    low: float
    high: float
    note: str = ""


def ratio_rule(points: Points, sd: float = RATIO_SD) -> RatioRule:
    """The runs that the rule leaves out; none with `sd` 0."""
    logs = np.log(points.tokens / points.params)
    if sd == 0:
        return RatioRule(np.zeros(len(logs), bool), 0.0, np.inf, "the rule is switched off")
    median = float(np.median(logs))
    fence = max(sd * 1.4826 * float(np.median(np.abs(logs - median))), float(np.log(LEAST_FACTOR)))
    outside = np.abs(logs - median) > fence
    low, high = float(np.exp(median - fence)), float(np.exp(median + fence))
    if outside.mean() > MOST_SHARE:
        note = f"{int(outside.sum())} of {len(logs)} runs lie outside, which are too many to be outliers: all are kept"
        return RatioRule(np.zeros(len(logs), bool), low, high, note)
    return RatioRule(outside, low, high)


def misfits(points: Points, fit: Fit, sd: float = RESIDUAL_SD) -> tuple[npt.NDArray[np.bool_], float]:
    """The runs whose errors lie beyond the rule, and the robust standard deviation of all errors of ln L."""
    model = Model(points)
    errors = model.residuals(model.theta(fit.law)[None])[0][0]
    scale = robust_sd(errors, 5)
    return np.abs(errors) > max(sd * scale, 1e-6), scale


def influence(
    points: Points, without: npt.NDArray[np.bool_], gamma: float | None, delta: float
) -> dict[str, dict[str, float]]:
    """The constants with and without some runs: how much a few runs decide."""
    found = {
        name: fit_huber(some, gamma, FEW_STARTS, delta).law
        for name, some in (("with", points), ("without", points.take(~without)))
    }
    return {name: law.as_dict() | {"tokens_exponent": law.tokens_exponent} for name, law in found.items()}


def shifts(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Exponents that these runs move notably, each with the change that they make."""
    names = ("alpha", "beta", "tokens_exponent")
    changes = {name: found["with"][name] - found["without"][name] for name in names}
    return {name: change for name, change in changes.items() if abs(change) >= NOTABLE_SHIFT}


def listed(points: Points, lines: tuple[int, ...], which: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Runs as the document names them."""
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

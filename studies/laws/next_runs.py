"""`speechmill study plan --from-fit`: choose the runs of a grid that narrow the intervals of a fit most."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import SpeechmillError
from studies.laws import design
from studies.laws.design import Information
from studies.laws.estimate import Points
from studies.laws.grid import Cell
from studies.laws.law import Array, Law

MAX_BYTES = 32_000_000
LEAST_SD = 1e-5
AIMS = ("exponent", "optimum", "all")
REMEDY = "write it by `speechmill study fit TABLE --json > fit.json`"
CONSTANTS = ("E", "A", "B", "alpha", "beta", "gamma")


@dataclass(frozen=True)
class PreviousFit:
    """A law, its runs, and the noise of their ln L, from the document of a fit."""

    law: Law
    points: Points
    sd: float
    free_gamma: bool


def read_fit(path: Path, group: str | None) -> PreviousFit:
    """Read the output of `speechmill study fit --json`.

    Args:
        path: The file.
        group: The group to use if the document has several fits.

    Raises:
        SpeechmillError: The file is not such a document, or it has several groups and none is named.
    """
    if path.stat().st_size > MAX_BYTES:
        raise SpeechmillError(f"{path}: more than {MAX_BYTES / 1e6:.0f} MB", REMEDY)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpeechmillError(f"{path}: not a JSON document: {error}", REMEDY) from error
    if isinstance(document, dict) and isinstance(document.get("fits"), list):
        fits = {str(one.get("group")): one for one in document["fits"] if isinstance(one, dict)}
        if group not in fits:
            raise SpeechmillError(f"{path}: has fits of several groups", f"choose one with --group: {', '.join(fits)}")
        document = fits[group]
    try:
        law = Law(*(float(document[name]) for name in CONSTANTS))
        rows = np.array([[float(row[name]) for name in ("params", "tokens", "loss")] for row in document["points"]])
        sd, free = float(document["misfits"]["residual_sd"]), bool(document["gamma_choice"]["free"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SpeechmillError(f"{path}: not the document of a fit: {error!r} is missing or wrong", REMEDY) from error
    constants = np.array(list(law.as_dict().values()))
    if rows.ndim != 2 or not (np.isfinite(rows).all() and (rows > 0).all()):
        raise SpeechmillError(f"{path}: its runs are not all finite and above 0", REMEDY)
    if not np.isfinite(constants).all() or (constants[1:] <= 0).any() or constants[0] < 0:
        raise SpeechmillError(f"{path}: its constants are not all finite and above 0", REMEDY)
    return PreviousFit(law, Points(*rows.T), max(LEAST_SD, sd), free)


def choose(
    known: PreviousFit, cells: Sequence[Cell], spend: float, aim: str, count: int | None, target: float
) -> dict[str, Any]:
    """Choose the next runs, and compute their cost and the standard errors before and after them.

    For comparison, the document has the usual grid, which takes candidates evenly by budget and size: with the same
    number of runs, and with the number that it needs for the same standard error.

    Args:
        known: The law and the runs so far.
        cells: The candidates.
        spend: Compute for all runs together, FLOP.
        aim: What to narrow, one of AIMS.
        count: Largest number of runs.
        target: Budget for which 'optimum' narrows N*, FLOP.

    Returns:
        The JSON document that docs/json.md describes.

    Raises:
        SpeechmillError: Every candidate costs more than `spend`.
    """
    information = Information.of(known.points, known.law, known.sd, known.free_gamma)
    params, tokens = (np.array([getattr(one, name) for one in cells]) for name in ("params", "tokens"))
    costs = np.array([one.flops for one in cells])
    there = information.slopes(known.points.params, known.points.tokens)
    candidates = information.slopes(params, tokens)
    quantities = _quantities(target, known.free_gamma)
    aimed = {"exponent": "tokens_exponent", "optimum": "optimal_params"}.get(aim)
    gradient = None if aimed is None else information.gradient(quantities[aimed])
    chosen = design.choose(there, candidates, costs, spend, gradient, count)
    if not len(chosen):
        raise SpeechmillError(
            f"no candidate costs {spend:g} FLOP or less: the cheapest costs {costs.min():g}",
            "raise --spend, or give smaller --budgets",
        )

    def errors(added: Array) -> dict[str, float]:
        slopes = np.concatenate([there, added])
        return {name: information.error(slopes, quantity) for name, quantity in quantities.items()}

    order = np.lexsort((params, costs))
    reached = design.merit(there, candidates[chosen], gradient)
    needed = None
    for many in range(1, len(cells) + 1):
        if design.merit(there, candidates[_evenly(order, many)], gradient) >= reached:
            needed = many
            break
    usual = _evenly(order, len(chosen))
    return {
        "aim": aim,
        "target_flops": target,
        "sd": known.sd,
        "spend": spend,
        "flops": float(costs[chosen].sum()),
        "runs": [cells[index].as_dict() for index in chosen],
        "errors_before": errors(candidates[:0]),
        "errors_after": errors(candidates[chosen]),
        "usual_grid": {
            "flops": float(costs[usual].sum()),
            "errors_after": errors(candidates[usual]),
            "runs_needed": needed,
            "flops_needed": None if needed is None else float(costs[_evenly(order, needed)].sum()),
        },
    }


def _evenly(order: np.ndarray[Any, np.dtype[np.int64]], count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return `count` of the candidates, spread evenly over budgets and sizes."""
    return order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))]


def _quantities(target: float, free_gamma: bool) -> dict[str, Callable[[Law], float]]:
    """Return the quantities with standard errors. N* is given by its logarithm, so that its error is relative."""
    found: dict[str, Callable[[Law], float]] = {
        "tokens_exponent": lambda law: law.tokens_exponent,
        "optimal_params": lambda law: float(np.log(law.optimal_params(np.array(target)))),
        "E": lambda law: law.E,
        "alpha": lambda law: law.alpha,
        "beta": lambda law: law.beta,
    }
    return found | ({"gamma": lambda law: law.gamma} if free_gamma else {})

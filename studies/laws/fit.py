"""Fit a law to one table of runs, and collect all results of `speechmill study fit` in one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import SpeechmillError
from studies.laws import downstream, identify, intervals, isoflop, judge, profile, warn
from studies.laws.estimate import HUBER_DELTA, STARTS, Fit, Points, fit_huber, fit_projected
from studies.laws.intervals import QUANTITIES, Interval, Resampled
from studies.laws.isoflop import Budgets
from studies.laws.law import Law
from studies.laws.runs import Runs

LEAST_GAIN = 0.1
"""Share by which a free gamma, the sixth constant, must lower the objective."""
HELD_STARTS = 32
LEAST_CLUSTERS = 4
"""Fewest budgets for a bootstrap over budgets."""

GAMMA_RULE = (
    "gamma is freed where that lowers the objective by a tenth or more, its profile interval excludes 1, and the "
    "largest budget, held out, has three runs or more and is not predicted worse by a tenth; else it is 1"
)
HELD_OUT_RULE = (
    "the runs of the largest budget and beyond; where no budgets are found, those within a factor 1.35 of the largest "
    "compute"
)


@dataclass(frozen=True)
class Settings:
    """The options of a fit."""

    gamma: float | str | None = "auto"
    """1 or another value to fix it, None to free it, 'auto' to go by GAMMA_RULE."""
    delta: float = HUBER_DELTA
    starts: int = STARTS
    resamples: int = intervals.RESAMPLES
    ratio_sd: float = judge.RATIO_SD
    residual_sd: float = judge.RESIDUAL_SD
    epsilon: float = 0.01
    at: Sequence[float] = ()
    """Compute budgets in FLOP at which to compute the optimum; by default those of the table."""
    frame_rate: float | None = None
    """Frames per second, to give D* in hours."""
    patch: int = 1
    """Frames per token."""
    hold_out: float | None = None
    """Runs of this many FLOP or more are held out."""


@dataclass(frozen=True)
class Form:
    """One form of the law, with gamma fixed or free: fits by both methods, intervals, and the held-out error."""

    huber: Fit
    projected: Fit
    profile: dict[str, Interval]
    held_out: dict[str, Any]

    @classmethod
    def of(cls, points: Points, held: npt.NDArray[np.bool_], gamma: float | None, settings: Settings) -> Form:
        huber = fit_huber(points, gamma, settings.starts, settings.delta)
        projected = fit_projected(points, gamma, settings.starts)
        ends = profile.profiles(points, huber, free_gamma=gamma is None)
        return cls(huber, projected, ends, _test(points, held, gamma, settings))

    def as_dict(self) -> dict[str, Any]:
        ends = {name: list(interval) for name, interval in self.profile.items()}
        fits = {name: _fit(getattr(self, name)) for name in ("huber", "projected")}
        return fits | {"profile": ends, "held_out": self.held_out}


def study(runs: Runs, settings: Settings, what: str = "the table") -> tuple[dict[str, Any], Law, Points]:
    """Fit a law to a table.

    Args:
        runs: The runs of the table.
        settings: Options.
        what: Name of the table in messages.

    Returns:
        The document that docs/json.md describes, the law, and the points to which it was fitted.

    Raises:
        SpeechmillError: The runs do not identify a law.
    """
    rule = judge.ratio_rule(runs.points, settings.ratio_sd)
    kept = runs.take(~rule.outside)
    points = kept.points
    identify.check(points, what)
    budgets = isoflop.find_budgets(points)
    held = _held_out(points, budgets, settings.hold_out)
    fixed = settings.gamma if isinstance(settings.gamma, float) else 1.0
    forms = {False: Form.of(points, held, fixed, settings), True: Form.of(points, held, None, settings)}
    free, why = _choose(settings.gamma, forms[False], forms[True])
    gamma = None if free else fixed
    fit, ends = forms[free].huber, forms[free].profile
    resampled = _resampled(points, budgets, fit, free, settings)
    unidentified = _unidentified(fit, ends)
    document: dict[str, Any] = {
        "runs": len(points),
        "evaluations": int(kept.evaluations.sum()),
        "evaluation_sd": runs.evaluation_sd,
        "measured_compute": _measured(kept),
        **fit.law.as_dict(),
        "tokens_exponent": fit.law.tokens_exponent,
        "intervals": _intervals(resampled, ends),
        "unidentified": unidentified,
        "gamma_choice": {"free": free, "rule": GAMMA_RULE, "why": why},
        "method": _method(settings, fit, resampled),
        "forms": {"gamma_fixed": forms[False].as_dict(), "gamma_free": forms[True].as_dict()},
        "identification": identify.conditions(points, fit.law, free) | {"least_spread": identify.least_spread(points)},
        "outliers": _outliers(runs, rule, gamma, settings),
        "misfits": _misfits(kept, fit, gamma, settings),
        "isoflop": _isoflop(points, budgets, fit.law, settings.resamples),
        "held_out": {"rule": "set by --hold-out" if settings.hold_out else HELD_OUT_RULE} | forms[free].held_out,
        "optimum": [],
        "points": _points(kept, fit),
        "downstream": _downstream(kept, held, gamma, settings),
    }
    if not warn.no_optimum(unidentified):
        document["optimum"] = _optimum(points, budgets, fit.law, resampled["runs"], settings)
    document["warnings"] = warn.warnings(document)
    return document, fit.law, points


def _resampled(points: Points, budgets: Budgets, fit: Fit, free: bool, settings: Settings) -> dict[str, Resampled]:
    """Return the bootstraps over runs and, if there are enough, over budgets."""
    clusters = {"runs": np.arange(len(points))}
    if len(budgets) >= LEAST_CLUSTERS:
        clusters["budgets"] = intervals.nearest_budget(points, budgets.of, budgets.flops)
    return {
        name: intervals.bootstrap(points, fit, of, free, settings.resamples, settings.delta)
        for name, of in clusters.items()
    }


def _intervals(resampled: dict[str, Resampled], profile: dict[str, Interval]) -> dict[str, dict[str, list[Any]]]:
    found = {name: some.intervals() for name, some in resampled.items()} | {"profile": profile}
    return {name: {by: list(ends[name]) for by, ends in found.items()} for name in QUANTITIES}


def _fit(fit: Fit) -> dict[str, Any]:
    return fit.law.as_dict() | {
        "tokens_exponent": fit.law.tokens_exponent,
        "objective": fit.value,
        "starts": fit.starts,
        "reached": fit.reached,
        "at_bound": list(fit.at_bound),
    }


def _method(settings: Settings, fit: Fit, resampled: dict[str, Resampled]) -> dict[str, Any]:
    return {
        "estimator": f"minimum of Huber's loss (delta {settings.delta:g}) of the errors of ln L, with equal weights",
        "delta": settings.delta,
        "starts": fit.starts,
        "reached": fit.reached,
        "objective": fit.value,
        "resamples": {name: len(found.laws) for name, found in resampled.items()},
        "resamples_at_bound": {name: found.at_bound for name, found in resampled.items()},
        "level": intervals.LEVEL,
    }


def _measured(runs: Runs) -> dict[str, float] | None:
    """Return the table's own compute as a share of 6 N D. It is not 1 if N or D is counted in another way."""
    if runs.flops is None:
        return None
    ratio = runs.flops / runs.points.flops
    return {"least": float(ratio.min()), "median": float(np.median(ratio)), "most": float(ratio.max())}


def _held_out(points: Points, budgets: Budgets, at_least: float | None) -> npt.NDArray[np.bool_]:
    flops = points.flops
    if at_least is None:
        largest = budgets.of == len(budgets) - 1 if len(budgets) else flops > flops.max() * np.exp(-isoflop.WIDTH)
        at_least = float(flops[largest].min())
    held: npt.NDArray[np.bool_] = flops >= at_least * (1 - 1e-9)
    return held


def _test(points: Points, held: npt.NDArray[np.bool_], gamma: float | None, settings: Settings) -> dict[str, Any]:
    """Fit a law without the held-out runs. Returns its mean relative errors at them and at the others."""
    train, test = points.take(~held), points.take(held)
    result: dict[str, Any] = {"runs": len(test), "train_runs": len(train)}
    try:
        identify.check(train, "without the held-out budget")
    except SpeechmillError as error:
        return result | {"refused": str(error)}
    if not len(test):
        return result | {"refused": "no run has so much compute"}
    law = fit_huber(train, gamma, HELD_STARTS, settings.delta).law
    errors = {
        name: float(np.abs(law.loss(part.params, part.tokens) / part.loss - 1).mean())
        for name, part in (("train_error", train), ("error", test))
    }
    return result | {"flops": float(test.flops.min())} | errors | {"law": law.as_dict()}


def _choose(asked: float | str | None, fixed: Form, freed: Form) -> tuple[bool, str]:
    """Decide whether gamma is free. Returns the decision and the reason."""
    if asked != "auto":
        return asked is None, "set by --gamma"
    if freed.huber.at_bound:
        return False, f"with gamma free, {' and '.join(freed.huber.at_bound)} would end at a bound of the search"
    gain = 1 - freed.huber.value / max(fixed.huber.value, 1e-300)
    gained = f"freeing gamma lowers the objective by {gain:.1%}"
    if gain < LEAST_GAIN:
        return False, f"{gained}, less than a tenth"
    low, high = freed.profile["gamma"]
    if (low is None or low < 1) and (high is None or high > 1):
        return False, f"{gained}, but its interval contains 1"
    if "refused" in freed.held_out:
        return False, f"{gained}, but no budget could be held out to confirm that"
    if freed.held_out["runs"] < judge.LEAST_HELD:
        return False, f"{gained}, but the held-out budget has fewer than {judge.LEAST_HELD} runs to confirm that"
    before, after = fixed.held_out["error"], freed.held_out["error"]
    if after > (1 + LEAST_GAIN) * before:
        return False, f"{gained}, but the error at the held-out budget rises from {before:.2%} to {after:.2%}"
    return True, f"{gained}, its interval excludes 1, and the held-out budget confirms it"


def _unidentified(fit: Fit, profiles: dict[str, Interval]) -> list[dict[str, str]]:
    """Return the constants that the table does not identify, with reasons."""
    found = []
    for name in QUANTITIES:
        low, high = profiles[name]
        if name in fit.at_bound:
            found.append({"constant": name, "reason": "its best value lies at a bound of the search"})
        elif low is None or high is None:
            end = "both sides" if low is None and high is None else "below" if low is None else "above"
            found.append({"constant": name, "reason": f"its profile interval is open {end}"})
    return found


def _outliers(runs: Runs, rule: judge.RatioRule, gamma: float | None, settings: Settings) -> dict[str, Any]:
    document: dict[str, Any] = {
        "rule": judge.RATIO_RULE.format(sd=settings.ratio_sd),
        "fence": [rule.low, None if np.isinf(rule.high) else rule.high],
        "note": rule.note,
        "runs": judge.listed(runs.points, runs.lines, rule.outside),
        "kept": settings.ratio_sd == 0,
        "influence": None,
    }
    outside = rule.outside
    if settings.ratio_sd == 0:  # still warn of the influence of the runs that the default rule would leave out
        usual = judge.ratio_rule(runs.points)
        outside, document["runs"] = usual.outside, judge.listed(runs.points, runs.lines, usual.outside)
        document["fence"] = [usual.low, usual.high]
    if outside.any():
        document["influence"] = judge.influence(runs.points, outside, gamma, settings.delta)
    return document


def _misfits(runs: Runs, fit: Fit, gamma: float | None, settings: Settings) -> dict[str, Any]:
    which, sd = judge.misfits(runs.points, fit, settings.residual_sd)
    few = which.any() and which.mean() <= judge.MOST_SHARE
    return {
        "rule": judge.RESIDUAL_RULE.format(sd=settings.residual_sd),
        "residual_sd": sd,
        "runs": judge.listed(runs.points, runs.lines, which),
        "influence": judge.influence(runs.points, which, gamma, settings.delta) if few else None,
    }


def _isoflop(points: Points, budgets: Budgets, law: Law, resamples: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "budgets": [],
        "tokens_exponent": None,
        "interval": None,
        "expected_from_law": None,
        "refused": None,
    }
    if len(budgets) < isoflop.LEAST_BUDGETS:
        return document | {
            "refused": f"{len(budgets)} budgets have {isoflop.LEAST_SIZES} sizes or more within a factor "
            f"{np.exp(isoflop.WIDTH):.2f} of compute; {isoflop.LEAST_BUDGETS} are needed"
        }
    robust = isoflop.robust_weights(points, budgets)
    found = isoflop.fit_parabolas(points, budgets, robust)
    if found is None:
        return document | {"refused": f"fewer than {isoflop.LEAST_BUDGETS} budgets have a minimum among their sizes"}
    draws = isoflop.bootstrap(points, budgets, robust, min(200, resamples))
    draws = draws[np.isfinite(draws)]
    tail = (1 - intervals.LEVEL) / 2
    return {
        "budgets": [
            {
                "flops": one.flops,
                "runs": one.runs,
                "params": one.params,
                "tokens": None if one.params is None else one.flops / 6 / one.params,
                "coefficients": one.coefficients.tolist(),
                "mean_log_params": one.mean,
                "problem": one.problem or None,
            }
            for one in found.parabolas
        ],
        "tokens_exponent": found.tokens_exponent,
        "interval": np.quantile(draws, [tail, 1 - tail]).tolist() if len(draws) else None,
        "expected_from_law": isoflop.expected(points, budgets, law),
        "refused": None,
    }


def _points(runs: Runs, fit: Fit) -> list[dict[str, Any]]:
    """Return the fitted runs, each with its error: ln of the measured over the predicted loss."""
    points = runs.points
    errors = np.log(points.loss / fit.law.loss(points.params, points.tokens))
    rows = zip(runs.lines, points.params, points.tokens, points.loss, errors, strict=True)
    names = ("line", "params", "tokens", "loss", "error")
    return [dict(zip(names, (line, *map(float, row)), strict=True)) for line, *row in rows]


def _optimum(
    points: Points, budgets: Budgets, law: Law, resampled: Resampled, settings: Settings
) -> list[dict[str, Any]]:
    """Return the optimum at each budget, with intervals by bootstrap over runs."""
    most = float(points.flops.max())
    at_flops = list(settings.at) or (
        [*budgets.flops.tolist(), most * 10]
        if len(budgets)
        else np.geomspace(points.flops.min(), most * 10, 6).tolist()
    )
    rows = []
    for flops in at_flops:
        at = np.array([flops])
        low, high = law.tokens_range(at, settings.epsilon)
        params, tokens = float(law.optimal_params(at)[0]), float(law.optimal_tokens(at)[0])

        def ratio(of: Law, at: npt.NDArray[np.float64] = at) -> float:
            return float((of.optimal_tokens(at) / of.optimal_params(at))[0])

        def size(of: Law, at: npt.NDArray[np.float64] = at) -> float:
            return float(of.optimal_params(at)[0])

        hours = None if settings.frame_rate is None else settings.patch / settings.frame_rate / 3600
        rows.append(
            {
                "flops": flops,
                "extrapolated": flops > most * 1.01,
                "params": params,
                "params_interval": list(resampled.interval(size)),
                "tokens": tokens,
                "tokens_per_param": tokens / params,
                "tokens_per_param_interval": list(resampled.interval(ratio)),
                "loss": float(law.loss(np.array([params]), np.array([tokens]))[0]),
                "curvature": float(law.curvature(at)[0]),
                "epsilon": settings.epsilon,
                "tokens_range": [float(low[0]), float(high[0])],
                "params_range": [flops / 6 / float(high[0]), flops / 6 / float(low[0])],
                "hours": None if hours is None else tokens * hours,
                "hours_range": None if hours is None else [float(low[0]) * hours, float(high[0]) * hours],
            }
        )
    return rows


def _downstream(
    runs: Runs, held: npt.NDArray[np.bool_], gamma: float | None, settings: Settings
) -> list[dict[str, Any]]:
    if not runs.metrics:
        return []
    train = ~held
    try:
        identify.check(runs.points.take(train))
    except SpeechmillError:
        train = np.ones(len(runs.points), bool)
    fit = fit_huber(runs.points.take(train), gamma, HELD_STARTS, settings.delta)
    return downstream.judge(runs.points, runs.metrics, train, fit, gamma is None)

"""Print the document of a fit as text."""

from __future__ import annotations

from typing import Any

from manifests.commands import terminal
from manifests.output import counted

TITLES = {"tokens_exponent": "exponent of D*"}


def digits(value: float | None) -> str:
    """Format a number with four significant digits, in scientific notation if that is shorter; None as 'open'.

    >>> digits(1.8172186), digits(5.64e19), digits(None)
    ('1.817', '5.64e+19', 'open')
    """
    return "open" if value is None else f"{value:.4g}"


def between(ends: list[float | None] | None) -> str:
    """Format an interval. An end of None is 'open', and an interval without width is 'fixed'."""
    if ends is None or (ends[0] is not None and ends[0] == ends[1]):
        return "-" if ends is None else "fixed"
    return f"{digits(ends[0])} .. {digits(ends[1])}"


def table(read: dict[str, Any]) -> None:
    """Print what was read from the table, and what was left out."""
    columns = ", ".join(f"{what} = {column or 'none'}" for what, column in read["columns"].items())
    terminal.echo(f"{read['path']}: {counted(read['rows'], 'row')}; columns: {columns}")
    for one in read["dropped"]:
        lines = ", ".join(map(str, one["lines"])) + (", ..." if one["rows"] > len(one["lines"]) else "")
        terminal.echo(f"  left out {counted(one['rows'], 'row')}: {one['reason']} (lines {lines})")
    for sentence in read["counting"]:
        terminal.echo(f"  {sentence}")


def fit(document: dict[str, Any]) -> None:
    """Print a law: its constants, the results of other methods, and the warnings."""
    method, choice, held = document["method"], document["gamma_choice"], document["held_out"]
    runs = counted(document["runs"], "run")
    if document["evaluations"] > document["runs"]:
        runs += f" with {document['evaluations']:,} evaluations, whose ln L differ by {document['evaluation_sd']:.2g}"
    terminal.heading("L = E + (A / N^alpha + B / D^beta)^gamma")
    terminal.echo(f"{runs}; {method['estimator']}")
    terminal.echo(f"{method['reached']} of {method['starts']} starts reached the best optimum; gamma: {choice['why']}")
    by = list(document["intervals"]["E"])
    names = {"runs": "bootstrap over runs", "budgets": "bootstrap over budgets", "profile": "profile likelihood"}
    terminal.table(
        ["constant", "value", *(names[name] for name in by)],
        [
            [TITLES.get(name, name), digits(document[name]), *(between(ends[name_of]) for name_of in by)]
            for name, ends in document["intervals"].items()
        ],
    )
    terminal.echo("")
    terminal.heading("Other methods")
    rows = [
        [form.replace("_", " "), method_name, *(digits(found[name]) for name in document["intervals"])]
        for form, methods in document["forms"].items()
        for method_name, found in (("Huber", methods["huber"]), ("variable projection", methods["projected"]))
    ]
    parabolas = document["isoflop"]
    if parabolas["tokens_exponent"] is not None:
        good = sum(one["problem"] is None for one in parabolas["budgets"])
        exponent = f"{digits(parabolas['tokens_exponent'])} ({between(parabolas['interval'])})"
        rows.append([f"isoFLOP parabolas, {good} budgets", "robust least squares", *[""] * 6, exponent])
    terminal.table(["form", "method", *(TITLES.get(name, name) for name in document["intervals"])], rows)
    if "error" in held:
        terminal.echo(
            f"held out: {counted(held['runs'], 'run')} from {digits(held['flops'])} FLOP on, predicted with a mean "
            f"error of {held['error']:.2%}; {held['train_error']:.2%} at the {held['train_runs']:,} others"
        )
    if document["optimum"]:
        terminal.echo("")
        optimum(document["optimum"])
    for prediction in document["downstream"]:
        metric(prediction)
    unusual_runs(document)
    for sentence in document["warnings"]:
        terminal.echo(f"warning: {sentence}")


def optimum(rows: list[dict[str, Any]]) -> None:
    """Print N*, D* and the ranges around them by budget."""
    share = f"{rows[0]['epsilon']:.0%}" if rows[0]["epsilon"] >= 0.01 else f"{rows[0]['epsilon']:.2%}"
    terminal.heading(f"Optimum by compute, C = 6 N D; ranges within {share} of the lowest loss")
    hours = rows[0]["hours"] is not None
    columns = ["FLOP", "N*", "D*", "D*/N*", "interval", "loss", "d2L/dD2", "range of D", "range of N"]
    terminal.table(
        columns + ["hours", "range of hours"] * hours,
        [
            [
                digits(row["flops"]) + " (beyond the table)" * row["extrapolated"],
                digits(row["params"]),
                digits(row["tokens"]),
                digits(row["tokens_per_param"]),
                between(row["tokens_per_param_interval"]),
                digits(row["loss"]),
                digits(row["curvature"]),
                between(row["tokens_range"]),
                between(row["params_range"]),
                *([digits(row["hours"]), between(row["hours_range"])] if hours else []),
            ]
            for row in rows
        ],
    )


def metric(prediction: dict[str, Any]) -> None:
    """Print the prediction of a downstream metric."""
    if "refused" in prediction:
        terminal.echo(f"{prediction['metric']}: not fitted: {prediction['refused']}")
        return
    for way, name in (("two_stage", "through the loss"), ("joint", "jointly with the law")):
        unseen = prediction[way]["held_out"]
        error = "none held out" if unseen is None else f"{digits(unseen)} at the held-out budget"
        terminal.echo(f"{prediction['metric']} {name}: mean error {digits(prediction[way]['train'])}, {error}")


def unusual_runs(document: dict[str, Any]) -> None:
    """Print the runs with extreme tokens per parameter, and those with large errors."""
    for name in ("outliers", "misfits"):
        found = document[name]
        if found["runs"]:
            terminal.echo(f"rule: {found['rule']}")
            lines = ", ".join(
                f"{one['line']} (D/N {digits(one['tokens_per_param'])}, loss {digits(one['loss'])})"
                for one in found["runs"][:10]
            )
            stay = "kept" if name == "misfits" or found["kept"] else "left out"
            terminal.echo(f"  {stay}: {counted(len(found['runs']), 'run')}, lines {lines}")
        if found.get("note"):
            terminal.echo(f"  {found['note']}")

"""A self-contained HTML page about a fit, in the style of `speechmill report`."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from manifests.output import counted
from manifests.version import version
from manifests.whole import whole_text
from studies.laws import figures
from studies.laws.command import Fitted
from studies.laws.text import TITLES, between, digits

THEMED = {
    figures.INK: "var(--ink)",
    figures.SOFT: "var(--soft)",
    figures.LINE: "var(--grid)",
    figures.ACCENT: "var(--accent)",
    figures.MARK: "var(--mark)",
    figures.SECOND: "var(--rejected)",
}
FIGURES = {
    "isoflops": "IsoFLOPs",
    "frontier": "Frontier",
    "range": "Loss around the optimum",
    "errors": "Errors",
    "curvature": "Curvature at the optimum",
}
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ"}


def write_page(path: Path, read: dict[str, Any], fits: Sequence[Fitted]) -> None:
    """Write the page about the fits of a table atomically."""
    with whole_text(path) as file:
        file.write(render(read, fits))


def render(read: dict[str, Any], fits: Sequence[Fitted]) -> str:
    """Return the page. All text is escaped, because names of columns and groups come from the user's table."""
    import jinja2

    parts = resources.files("studies.laws").joinpath("templates")
    css = resources.files("manifests.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    script = parts.joinpath("theme.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(parts.joinpath("law.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        title=Path(read["path"]).name,
        lead=f"The table has {counted(read['rows'], 'row')}.",
        css=css,
        script=script,
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        fits=[_section(one) for one in fits],
        read=list(_reading(read)),
        footer=f"speechmill {version()}. This page contains all that it shows and loads nothing.",
    )


def _section(fitted: Fitted) -> dict[str, Any]:
    name = fitted.group or "Law"
    document = fitted.document
    if document is None:
        return {"name": name, "error": fitted.error}
    method = document["method"]
    return {
        "name": name,
        "error": None,
        "lead": f"{counted(document['runs'], 'run')}; {method['estimator']}; {method['reached']} of "
        f"{method['starts']} starts reached the best optimum. Gamma: {document['gamma_choice']['why']}.",
        "facts": list(_facts(document)),
        "warnings": document["warnings"],
        "figures": [
            {"title": FIGURES[key], "sentence": sentence, "svg": inline(figures.rendered(figure, "svg"), key, name)}
            for key, (sentence, figure) in figures.draw(fitted).items()
        ],
        "tables": list(_tables(document)),
    }


def inline(svg: bytes, key: str, group: str) -> str:
    """Return an SVG for the page, with the page's colours and with ids that are unique in the page."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    for color, variable in THEMED.items():
        text = text.replace(color, variable)
    prefix = f"{key}-{hashlib.sha256(group.encode()).hexdigest()[:8]}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{key}" ', text, count=1)


def _facts(document: dict[str, Any]) -> Iterator[dict[str, str]]:
    for name in ("E", "A", "B", "alpha", "beta", "gamma", "tokens_exponent"):
        ends = document["intervals"][name]["runs"]
        detail = f"95 %: {between(ends)}".replace("95 %: fixed", "fixed")
        yield {"label": SYMBOLS.get(name, TITLES.get(name, name)), "value": digits(document[name]), "detail": detail}
    held = document["held_out"]
    if "error" in held:
        detail = f"mean over {counted(held['runs'], 'run')}; {held['train_error']:.2%} at the others"
        yield {"label": "error at the held-out budget", "value": f"{held['error']:.2%}", "detail": detail}


def _tables(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    by = list(document["intervals"]["E"])
    names = {"runs": "bootstrap over runs", "budgets": "bootstrap over budgets", "profile": "profile likelihood"}
    yield {
        "caption": "95 % intervals",
        "head": ["constant", "value", *(names[one] for one in by)],
        "rows": [
            [TITLES.get(name, name), digits(document[name]), *(between(ends[one]) for one in by)]
            for name, ends in document["intervals"].items()
        ],
    }
    rows = [
        [f"{form.replace('_', ' ')}, {title}", *(digits(methods[key][name]) for name in document["intervals"])]
        for form, methods in document["forms"].items()
        for key, title in (("huber", "Huber"), ("projected", "variable projection"))
    ]
    parabolas = document["isoflop"]
    if parabolas["tokens_exponent"] is not None:
        exponent = f"{digits(parabolas['tokens_exponent'])} ({between(parabolas['interval'])})"
        rows.append(["isoFLOP parabolas", *[""] * 6, exponent])
    head = ["form and method", *(TITLES.get(name, name) for name in document["intervals"])]
    yield {"caption": "Other methods", "head": head, "rows": rows}
    if document["optimum"]:
        share = f"{100 * document['optimum'][0]['epsilon']:.3g} %"
        yield {
            "caption": f"Optimum by compute, and ranges in which the loss is at most {share} above the lowest",
            "head": ["FLOP", "N*", "D*", "D*/N*", "interval", "loss", "range of D", "range of N", "hours"],
            "rows": [
                [
                    digits(row["flops"]) + " (beyond the table)" * row["extrapolated"],
                    *(digits(row[name]) for name in ("params", "tokens", "tokens_per_param")),
                    between(row["tokens_per_param_interval"]),
                    digits(row["loss"]),
                    between(row["tokens_range"]),
                    between(row["params_range"]),
                    "-" if row["hours"] is None else digits(row["hours"]),
                ]
                for row in document["optimum"]
            ],
        }
    for name, title in (("outliers", "Runs that are left out"), ("misfits", "Runs with large errors")):
        found = document[name]
        if found["runs"]:
            yield {
                "caption": f"{'Extreme runs that are kept' if found.get('kept') else title}: {found['rule']}",
                "head": ["line", "N", "D", "D/N", "loss"],
                "rows": [
                    [one["line"], *(digits(one[key]) for key in ("params", "tokens", "tokens_per_param", "loss"))]
                    for one in found["runs"]
                ],
            }


def _reading(read: dict[str, Any]) -> Iterator[str]:
    columns = ", ".join(f"{what} = {column or 'none'}" for what, column in read["columns"].items())
    yield f"Columns: {columns}."
    yield from (f"{sentence[:1].upper()}{sentence[1:]}." for sentence in read["counting"])
    for one in read["dropped"]:
        yield f"Left out {counted(one['rows'], 'row')}: {one['reason']}."

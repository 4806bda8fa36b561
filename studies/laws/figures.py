"""Figures of a fit with matplotlib: isoFLOPs, frontier, curvature and errors, in the colours of the report."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.whole import whole
from runtime.errors import MissingExtraError
from studies.laws.command import Fitted
from studies.laws.law import FLOP_PER_PARAM_TOKEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, ACCENT, MARK, SECOND = "#1c2430", "#566072", "#e2dfd8", "#0b6e63", "#b3261e", "#9a5200"
"""The light colours of the report. A page replaces them with its variables, so that figures follow its theme."""
MOST_CURVES = 10


def require_packages(page: bool) -> None:
    """Raise MissingExtraError if the packages for figures, and for a page if `page`, are not installed."""
    try:
        import matplotlib  # noqa: F401

        if page:
            import jinja2  # noqa: F401
    except ImportError as error:
        remedy = "pip install 'speechmill[report]'"
        raise MissingExtraError(f"figures and pages need {error.name}, which is not installed", remedy) from error


def draw(fitted: Fitted) -> dict[str, tuple[str, Figure]]:
    """Draw all figures. Returns a caption and the figure by name."""
    makers: dict[str, tuple[str, Callable[[Axes, Fitted], None]]] = {
        "isoflops": (
            "Loss over N at each compute budget: the runs (points), the law (lines) and the parabolas (dashed lines).",
            _isoflops,
        ),
        "frontier": (
            "Optimal N and D over compute with 95 % bootstrap intervals, and the minima of the parabolas (diamonds).",
            _frontier,
        ),
        "range": (
            "Excess over the lowest loss at each budget, by the number of tokens relative to the optimum.",
            _range,
        ),
        "errors": (
            "Ratio of measured to predicted loss by tokens per parameter. Runs with large errors are red.",
            _errors,
        ),
        "curvature": ("Second derivative of the loss by D at the optimum of each budget.", _curvature),
    }
    if not (fitted.document or {}).get("optimum"):
        makers = {name: makers[name] for name in ("isoflops", "errors")}
    return {name: (sentence, _figure(maker, fitted)) for name, (sentence, maker) in makers.items()}


def write(fitted: Fitted, folder: Path, kind: str) -> None:
    """Write each figure of a group to FOLDER/[GROUP-]NAME.KIND. A group without a law has none."""
    if fitted.document is None:
        return
    for name, (_, figure) in draw(fitted).items():
        prefix = "".join(c if c.isalnum() or c in "-_." else "_" for c in fitted.group).strip(".")
        with whole(folder / f"{prefix}{'-' * bool(prefix)}{name}.{kind}") as path:
            path.write_bytes(rendered(figure, kind))


def rendered(figure: Figure, kind: str) -> bytes:
    """Return the bytes of a figure. The same fit gives the same bytes, and SVG contains text as text."""
    import matplotlib as mpl

    made = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "speechmill"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(made, format=kind, dpi=160, metadata=metadata, transparent=kind == "svg")
    return made.getvalue()


def _figure(maker: Callable[[Axes, Fitted], None], fitted: Fitted) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "mathtext.default": "regular",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        maker(figure.subplots(), fitted)
    return figure


def _shades(count: int) -> list[Any]:
    """Return colours from low to high compute that are visible on light and dark backgrounds."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](value) for value in np.linspace(0.28, 0.82, max(1, count))]


def _arrays(fitted: Fitted) -> tuple[np.ndarray[Any, Any], ...]:
    assert fitted.points is not None
    points = fitted.points
    return points.params, points.tokens, points.loss, points.flops


def _isoflops(axes: Axes, fitted: Fitted) -> None:
    assert fitted.document is not None
    assert fitted.law is not None
    params, _, loss, flops = _arrays(fitted)
    budgets = fitted.document["isoflop"]["budgets"]
    centres = [one["flops"] for one in budgets] or np.geomspace(flops.min(), flops.max(), 5).tolist()
    which = np.unique(np.linspace(0, len(centres) - 1, MOST_CURVES).round().astype(int))
    nearest = np.abs(np.log(flops)[:, None] - np.log(centres)).argmin(axis=1)
    for index, color in zip(which, _shades(len(which)), strict=True):
        here = nearest == index if budgets else np.zeros(len(flops), bool)
        here &= np.abs(np.log(flops / centres[index])) < 0.3
        sizes = np.geomspace(*(_ends(params[here]) if here.any() else _ends(params)), 80)
        curve = fitted.law.loss(sizes, centres[index] / FLOP_PER_PARAM_TOKEN / sizes)
        axes.plot(sizes, curve, color=color, linewidth=1.2, label=f"{centres[index]:.1e}")
        axes.scatter(params[here], loss[here], s=11, color=color, linewidths=0)
        if budgets and budgets[index]["problem"] is None:
            c0, c1, c2 = budgets[index]["coefficients"]
            x = np.log(sizes) - budgets[index]["mean_log_params"]
            axes.plot(sizes, np.exp(c0 + c1 * x + c2 * x**2), color=color, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.plot(budgets[index]["params"], np.exp(c0 - c1**2 / (4 * c2)), "d", color=color, markersize=5)
    if not budgets:
        axes.scatter(params, loss, s=11, color=SOFT, linewidths=0)
    limits = 0.99 * float(loss.min()), 1.02 * float(loss.max())
    axes.set(xscale="log", yscale="log", xlabel="N, parameters", ylabel="loss", ylim=limits)
    _plain_loss(axes)
    assert axes.figure is not None
    axes.figure.legend(title="FLOP", title_fontsize=8.5, ncols=5, loc="outside lower center")


def _plain_loss(axes: Axes) -> None:
    """Label the loss axis with plain numbers: losses span less than a decade, so powers of ten would give no label."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _ends(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    return float(values.min()) / 1.2, float(values.max()) * 1.2


def _compute(fitted: Fitted) -> np.ndarray[Any, Any]:
    """Return compute values that cover the optimum and the table."""
    assert fitted.document is not None
    flops = [row["flops"] for row in fitted.document["optimum"]]
    assert fitted.points is not None
    return np.geomspace(min(*flops, fitted.points.flops.min()), max(*flops, fitted.points.flops.max()), 60)


def _frontier(axes: Axes, fitted: Fitted) -> None:
    assert fitted.document is not None
    assert fitted.law is not None
    flops = _compute(fitted)
    rows = fitted.document["optimum"]
    at = [one["flops"] for one in rows]
    curves = ((ACCENT, "D*, tokens", fitted.law.optimal_tokens), (SECOND, "N*, parameters", fitted.law.optimal_params))
    for color, label, curve in curves:
        axes.plot(flops, curve(flops), color=color, linewidth=1.4, label=label)
    low, high = np.array([one["params_interval"] for one in rows]).T
    axes.fill_between(at, low, high, color=SECOND, alpha=0.2, linewidth=0)
    axes.fill_between(
        at, np.array(at) / 6 / np.array(high), np.array(at) / 6 / np.array(low), color=ACCENT, alpha=0.2, linewidth=0
    )
    good = [one for one in fitted.document["isoflop"]["budgets"] if one["problem"] is None]
    for color, name in ((ACCENT, "tokens"), (SECOND, "params")):
        axes.plot([one["flops"] for one in good], [one[name] for one in good], "d", color=color, markersize=4)
    assert fitted.points is not None
    axes.axvline(float(fitted.points.flops.max()), color=SOFT, linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="C, FLOP (dotted: the largest run)",
        ylabel="tokens or parameters at the optimum",
    )
    axes.legend(loc="upper left")


def _curvature(axes: Axes, fitted: Fitted) -> None:
    assert fitted.law is not None
    flops = _compute(fitted)
    axes.plot(flops, fitted.law.curvature(flops), color=ACCENT, linewidth=1.4)
    axes.set(xscale="log", yscale="log", xlabel="C, FLOP", ylabel="$d^2L/dD^2$ at the optimum, loss / token$^2$")


def _range(axes: Axes, fitted: Fitted) -> None:
    assert fitted.document is not None
    assert fitted.law is not None
    rows = fitted.document["optimum"]
    which = np.unique(np.linspace(0, len(rows) - 1, 5).round().astype(int))
    factors = np.geomspace(1 / 16, 16, 121)
    for index, color in zip(which, _shades(len(which)), strict=True):
        tokens = rows[index]["tokens"] * factors
        loss = fitted.law.loss(rows[index]["flops"] / FLOP_PER_PARAM_TOKEN / tokens, tokens)
        axes.plot(factors, 100 * (loss / rows[index]["loss"] - 1), color=color, label=f"{rows[index]['flops']:.1e}")
    axes.axhline(100 * rows[0]["epsilon"], color=SOFT, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(0, 800 * rows[0]["epsilon"]), xlabel="D / D*", ylabel="excess over the lowest loss, %")
    axes.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
    axes.minorticks_off()
    axes.legend(title="FLOP", title_fontsize=8.5)


def _errors(axes: Axes, fitted: Fitted) -> None:
    assert fitted.document is not None
    rows = fitted.document["points"]
    named = {one["line"] for one in fitted.document["misfits"]["runs"]}
    x = np.array([one["tokens"] / one["params"] for one in rows])
    y = np.array([100 * one["error"] for one in rows])
    red = np.array([one["line"] in named for one in rows])
    _, _, _, flops = _arrays(fitted)
    order = np.argsort(np.argsort(flops))
    shades = np.array(_shades(len(rows)))[order]
    axes.scatter(x[~red], y[~red], s=13, c=shades[~red], linewidths=0)
    axes.scatter(x[red], y[red], s=22, color=MARK, linewidths=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    sd = 100 * fitted.document["misfits"]["residual_sd"]
    axes.axhspan(-2 * sd, 2 * sd, color=ACCENT, alpha=0.1, linewidth=0)
    axes.set(xscale="log", xlabel="tokens per parameter (lighter: more compute)", ylabel="ln(measured / predicted), %")

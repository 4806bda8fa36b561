"""The report's charts as Plotly figures: plain JSON that Plotly's own script draws; every text in them is escaped.

Colours are readable on light and on dark ground, and no two that meet in a chart differ by hue alone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.colors
import plotly.graph_objects as go

COLORS = {"kept": "#2a9d8f", "measured": "#2a9d8f", "rejected": "#e39a3b", "failed": "#c2457a"}
PALETTE = ["#2a9d8f", "#e39a3b", "#5b7fc7", "#c2457a", "#8a6fc0", "#7a9a3a", "#b06a4a", "#4aa3c2", "#9a8a4a", "#888f99"]
BARS = 36
GROUND = "#9aa3af"
"""For what has no verdict."""
PATTERNS = {"rejected": "/", "failed": "x"}
MARGIN = {"l": 8, "r": 8, "t": 6, "b": 8}
LEGEND = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}


def text(value: Any) -> str:
    """Plotly reads <b>, <a> and the like in any text; what comes from a lake is shown as it is."""
    return html.escape(str(value), quote=False)


def bins(low: float, high: float, whole: bool) -> list[float]:
    """Edges of about `BARS` bars of a round width that hold [low, high]; bars of whole numbers are centred on them."""
    size = max(1.0, abs(high))
    spread = high - low if high - low > 1e-6 * size else size  # scores that are all the same, but for rounding
    width = nice(spread / BARS)
    if whole:
        width = max(1.0, width)
    shift = 0.5 if whole else 0.0
    first = math.floor((low + shift) / width)
    last = math.floor((high + shift) / width) + 1
    return [float(f"{index * width - shift:.12g}") for index in range(first, max(last, first + 4) + 1)]


def nice(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def described(figure: go.Figure, height: int, label: str) -> dict[str, Any]:
    """The figure as JSON with its height in pixels and what a screen reader says of it."""
    figure.update_layout(height=height, template="none", separators=".,", modebar_remove=["all"])
    made = figure.to_plotly_json()
    return {"data": made["data"], "layout": made["layout"], "height": height, "label": label}


def _marker(color: str, pattern: str) -> dict[str, Any]:
    """A fill that is told apart by its hatching too."""
    hatch = {
        "shape": pattern,
        "fillmode": "overlay",
        "size": 6,
        "solidity": 0.2,
        "fgcolor": "#ffffff",
        "fgopacity": 0.75,
    }
    return {"color": color, "pattern": hatch}


def histogram(
    edges: Sequence[float], hours: Mapping[str, Sequence[float]], counts: Mapping[str, Sequence[int]], title: str
) -> dict[str, Any]:
    """Hours by score, stacked by verdict. `edges` has one more value than the bars."""
    width = edges[1] - edges[0]
    figure = go.Figure()
    for verdict, values in hours.items():
        figure.add_bar(
            x=[edge + width / 2 for edge in edges[:-1]],
            y=list(values),
            width=width * 0.92,
            name=verdict,
            marker=_marker(COLORS[verdict], PATTERNS.get(verdict, "")),
            customdata=[[low, low + width, count] for low, count in zip(edges, counts[verdict], strict=False)],
            hovertemplate="%{customdata[0]:.4~g} to %{customdata[1]:.4~g}: %{y:.3~f} h, %{customdata[2]:,} "
            f"{verdict}<extra></extra>",
        )
    figure.update_layout(barmode="stack", showlegend=False, margin=MARGIN | {"r": 12, "b": 26})
    # Left to itself, Plotly puts the ticks of few bars into their middles.
    figure.update_xaxes(range=[edges[0], edges[-1]], fixedrange=True, tick0=0, dtick=nice((edges[-1] - edges[0]) / 6))
    figure.update_yaxes(fixedrange=True, nticks=4, ticksuffix=" h", rangemode="tozero", automargin=True)
    total = sum(map(sum, hours.values()))
    return described(figure, 154, f"Histogram of {title}: {total:.2f} hours from {edges[0]:g} to {edges[-1]:g}")


def groups(rows: Sequence[tuple[str, str, float, int]], title: str) -> dict[str, Any]:
    """Hours by group and verdict, the largest group on top. Rows are (group, verdict, hours, recordings)."""
    totals: dict[str, float] = {}
    for group, _, hours, _ in rows:
        totals[group] = totals.get(group, 0.0) + hours
    order = sorted(totals, key=lambda group: totals[group])
    figure = go.Figure()
    for verdict in [name for name in COLORS if any(row[1] == name for row in rows)]:
        part = [row for row in rows if row[1] == verdict]
        figure.add_bar(
            y=[text(row[0]) for row in part],
            x=[row[2] for row in part],
            orientation="h",
            name=verdict,
            marker=_marker(COLORS[verdict], PATTERNS.get(verdict, "")),
            customdata=[row[3] for row in part],
            hovertemplate=f"%{{y}}: %{{x:.3~f}} h, %{{customdata:,}} {verdict}<extra></extra>",
        )
    figure.update_layout(barmode="stack", showlegend=False, margin=MARGIN | {"b": 30})
    figure.update_xaxes(fixedrange=True, ticksuffix=" h", nticks=6, automargin=True)
    figure.update_yaxes(
        fixedrange=True, type="category", categoryorder="array", categoryarray=[text(group) for group in order],
        automargin=True, ticksuffix=" ",
    )  # fmt: skip
    told = ", ".join(f"{group} {totals[group]:.2f} h" for group in reversed(order[-6:]))
    return described(figure, 60 + 24 * max(2, len(order)), f"{title}: {told}")


def tokens(rows: Sequence[tuple[str, int, int, int]]) -> dict[str, Any]:
    """Tokens by patch size and split. Rows are (split, patch, context tokens, continuation tokens)."""
    figure = go.Figure()
    for index, split in enumerate(dict.fromkeys(row[0] for row in rows)):
        part = [row for row in rows if row[0] == split]
        for column, kind in ((2, "context"), (3, "continuation")):
            figure.add_bar(
                x=[f"patch {row[1]}" for row in part],
                y=[row[column] for row in part],
                name=text(split),
                legendgroup=text(split),
                offsetgroup=kind,
                marker=_marker(PALETTE[index % len(PALETTE)], "/" if kind == "context" else ""),
                showlegend=kind == "continuation",
                hovertemplate=f"{text(split)}, {kind}, %{{x}}: %{{y:,}} tokens<extra></extra>",
            )
    figure.update_layout(barmode="stack", margin=MARGIN | {"t": 10}, legend=LEGEND, showlegend=True)
    figure.update_yaxes(fixedrange=True, automargin=True, nticks=6)
    figure.update_xaxes(fixedrange=True, automargin=True)
    whole = ", ".join(f"{row[0]} patch {row[1]}: {row[2] + row[3]:,}" for row in rows)
    return described(figure, 330, f"Tokens by patch size and split: {whole}")


def prefixes(rows: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    """Frames that the first shards of each split hold. Points are (shards, frames), from (0, 0) on."""
    figure = go.Figure()
    for index, (split, sums) in enumerate(rows.items()):
        figure.add_scatter(
            x=[shards for shards, _ in sums],
            y=[frames for _, frames in sums],
            mode="lines+markers" if len(sums) < 60 else "lines",
            name=text(split),
            line={"color": PALETTE[index % len(PALETTE)], "dash": ["solid", "dash", "dot", "dashdot"][index % 4]},
            hovertemplate=f"{text(split)}: first %{{x}} shards hold %{{y:,}} frames<extra></extra>",
        )
    figure.update_layout(margin=MARGIN | {"t": 10}, legend=LEGEND, showlegend=True)
    figure.update_xaxes(
        fixedrange=True, title={"text": "shards", "standoff": 6}, rangemode="tozero", automargin=True,
        **_ticks(max((sums[-1][0] for sums in rows.values()), default=0)),
    )  # fmt: skip
    figure.update_yaxes(fixedrange=True, automargin=True, rangemode="tozero")
    last = ", ".join(f"{split} {sums[-1][1]:,} frames in {sums[-1][0]} shards" for split, sums in rows.items())
    return described(figure, 330, f"Frames by number of shards: {last}")


def bars(rows: Iterable[tuple[str, float]], unit: str, color: str, label: str) -> dict[str, Any]:
    """One bar a row, in the order given from the top."""
    rows = list(rows)
    figure = go.Figure(
        go.Bar(
            y=[text(name) for name, _ in rows],
            x=[value for _, value in rows],
            orientation="h",
            marker={"color": color},
            hovertemplate=f"%{{y}}: %{{x:,.4~g}} {unit}<extra></extra>",
        )
    )
    figure.update_layout(margin=MARGIN | {"b": 30}, showlegend=False, bargap=0.3)
    figure.update_xaxes(
        fixedrange=True, title={"text": unit, "standoff": 4}, nticks=5, rangemode="tozero", automargin=True,
        **_ticks(max((value for _, value in rows), default=0)),
    )  # fmt: skip
    figure.update_yaxes(fixedrange=True, type="category", autorange="reversed", automargin=True, ticksuffix=" ")
    return described(figure, 60 + 28 * max(2, len(rows)), label)


def _ticks(most: float) -> dict[str, int]:
    """Of an axis of counts: whole numbers where there are few."""
    return {"dtick": 1} if 1 <= most <= 5 and float(most).is_integer() else {}


def mel_scale() -> list[list[Any]]:
    """The colours of the mel pictures, dark for quiet."""
    return plotly.colors.make_colorscale(plotly.colors.sequential.Magma)

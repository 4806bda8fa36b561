"""The report's charts as Plotly figures: JSON that Plotly's script draws. Every text in them is escaped.

Colours are readable on a light and on a dark background, and no two colours of a chart differ by hue alone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.colors

COLORS = {"kept": "#2a9d8f", "measured": "#2a9d8f", "rejected": "#e39a3b", "failed": "#c2457a"}
PALETTE = ["#2a9d8f", "#e39a3b", "#5b7fc7", "#c2457a", "#8a6fc0", "#7a9a3a", "#b06a4a", "#4aa3c2", "#9a8a4a", "#888f99"]
BARS = 36
GROUND = "#9aa3af"
"""Colours for bars without a verdict."""
PATTERNS = {"rejected": "/", "failed": "x"}
MARGIN = {"l": 8, "r": 8, "t": 6, "b": 8}
LEGEND = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}


def text(value: Any) -> str:
    """Escape a text of a lake, since Plotly interprets tags such as <b> and <a> in any text."""
    return html.escape(str(value), quote=False)


def bins(low: float, high: float, whole: bool) -> list[float]:
    """Edges of about `BARS` bars of a round width that cover [low, high]; bars of whole numbers are centred on them."""
    size = max(1.0, abs(high))
    spread = high - low if high - low > 1e-6 * size else size  # all scores are equal, apart from rounding
    width = nice(spread / BARS)
    if whole:
        width = max(1.0, width)
    shift = 0.5 if whole else 0.0
    first = math.floor((low + shift) / width)
    last = math.floor((high + shift) / width) + 1
    return [float(f"{index * width - shift:.12g}") for index in range(first, max(last, first + 4) + 1)]


def nice(value: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def described(data: list[dict[str, Any]], layout: Mapping[str, Any], height: int, label: str) -> dict[str, Any]:
    """A figure of traces and layout, with its height in pixels and its text for screen readers."""
    common = {"height": height, "separators": ".,", "modebar": {"remove": ["all"]}}
    return {"data": data, "layout": {**layout, **common}, "height": height, "label": label}


def _trace(kind: str, **settings: Any) -> dict[str, Any]:
    return {"type": kind, **settings}


def _axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """An axis with a fixed range, which cannot be zoomed by accident, and automatic margins."""
    named = {"title": {"text": text(title), "standoff": 6}} if title else {}
    return {"fixedrange": True, "automargin": True, **named, **settings}


def _marker(color: str, pattern: str) -> dict[str, Any]:
    """A fill with a colour and, for people who do not see the colour, a hatching."""
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
    edges: Sequence[float],
    hours: Mapping[str, Sequence[float]],
    counts: Mapping[str, Sequence[int]],
    title: str,
    unit: str,
) -> dict[str, Any]:
    """A histogram of hours by score, stacked by verdict. `edges` has one more value than there are bars."""
    width = edges[1] - edges[0]
    data = []
    for verdict, values in hours.items():
        data.append(
            _trace(
                "bar",
                x=[edge + width / 2 for edge in edges[:-1]],
                y=list(values),
                width=width * 0.92,
                name=verdict,
                marker=_marker(COLORS[verdict], PATTERNS.get(verdict, "")),
                customdata=[[low, low + width, count] for low, count in zip(edges, counts[verdict], strict=False)],
                hovertemplate="%{customdata[0]:.4~g} to %{customdata[1]:.4~g}: %{y:.3~f} h, %{customdata[2]:,} "
                f"{verdict}<extra></extra>",
            )
        )
    layout = {
        "barmode": "stack",
        "showlegend": False,
        "margin": MARGIN | {"r": 12, "b": 44},
        # By default Plotly puts the ticks of few bars into their middles. The sliders of thresholds are placed over the
        # plot, so the labels below it must not change its size.
        "xaxis": _axis(
            unit, automargin=False, range=[edges[0], edges[-1]], tick0=0, dtick=nice((edges[-1] - edges[0]) / 6)
        ),
        "yaxis": _axis(nticks=4, ticksuffix=" h", rangemode="tozero"),
    }
    total = sum(map(sum, hours.values()))
    label = f"Histogram of {title}: {total:.2f} hours from {edges[0]:g} to {edges[-1]:g}"
    return described(data, layout, 172, label)


def counted(
    edges: Sequence[float], counts: Mapping[str, Sequence[int]], title: str, axis: str, what: str
) -> dict[str, Any]:
    """A histogram of counts of `what`, such as changes of speaker, stacked by verdict; a line marks the value 0."""
    width = edges[1] - edges[0]
    data = [
        _trace(
            "bar",
            x=[edge + width / 2 for edge in edges[:-1]],
            y=list(values),
            width=width * 0.92,
            name=verdict,
            marker=_marker(COLORS[verdict], PATTERNS.get(verdict, "")),
            customdata=[[low, low + width] for low in edges[:-1]],
            hovertemplate=f"%{{customdata[0]:.3~g}} to %{{customdata[1]:.3~g}}: %{{y:,}} {text(what)}, {verdict}"
            "<extra></extra>",
        )
        for verdict, values in counts.items()
    ]
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": GROUND, "dash": "dot"},
    }
    layout = {
        "barmode": "stack",
        "showlegend": False,
        "margin": MARGIN | {"b": 30},
        "shapes": [zero] if edges[0] < 0 < edges[-1] else [],
        "xaxis": _axis(axis, range=[edges[0], edges[-1]], tick0=0, dtick=nice((edges[-1] - edges[0]) / 10)),
        "yaxis": _axis(what, nticks=5, rangemode="tozero"),
    }
    total = sum(map(sum, counts.values()))
    return described(data, layout, 300, f"{title}: {total:,} {what} from {edges[0]:g} to {edges[-1]:g}")


def shares(rows: Sequence[tuple[str, int, Sequence[float]]], names: Sequence[str], title: str) -> dict[str, Any]:
    """Stacked shares, one bar for each group. Rows are (group, recordings, a share for each of `names`)."""
    data = [
        _trace(
            "bar",
            x=[text(group) for group, *_ in rows],
            y=[parts[number] for *_, parts in rows],
            name=text(name),
            marker=_marker(
                PALETTE[(4 + number) % len(PALETTE)], "/" if number % 2 else ""
            ),  # the first colours are those of verdicts
            customdata=[count for _, count, _ in rows],
            hovertemplate=f"{text(name)}: %{{y:.1%}}, mean of %{{customdata:,}} recordings<extra></extra>",
        )
        for number, name in enumerate(names)
    ]
    layout = {
        "barmode": "stack",
        "margin": MARGIN | {"t": 10},
        "legend": LEGEND | {"traceorder": "normal"},
        "showlegend": True,
        "xaxis": _axis("speakers in the recording", type="category"),
        "yaxis": _axis("share of the speaking time", tickformat=".0%", range=[0, 1]),
    }
    summary = "; ".join(
        f"{group} speakers: {', '.join(f'{part:.0%}' for part in parts if part)}" for group, _, parts in rows
    )
    return described(data, layout, 300, f"{title}: {summary}")


def groups(rows: Sequence[tuple[str, str, float, int]], title: str) -> dict[str, Any]:
    """Hours by group and verdict, the largest group on top. Rows are (group, verdict, hours, recordings)."""
    totals: dict[str, float] = {}
    for group, _, hours, _ in rows:
        totals[group] = totals.get(group, 0.0) + hours
    order = sorted(totals, key=lambda group: totals[group])
    data = []
    for verdict in [name for name in COLORS if any(row[1] == name for row in rows)]:
        part = [row for row in rows if row[1] == verdict]
        data.append(
            _trace(
                "bar",
                y=[text(row[0]) for row in part],
                x=[row[2] for row in part],
                orientation="h",
                name=verdict,
                marker=_marker(COLORS[verdict], PATTERNS.get(verdict, "")),
                customdata=[row[3] for row in part],
                hovertemplate=f"%{{y}}: %{{x:.3~f}} h, %{{customdata:,}} {verdict}<extra></extra>",
            )
        )
    names = [text(group) for group in order]
    layout = {
        "barmode": "stack",
        "showlegend": False,
        "margin": MARGIN | {"b": 30},
        "xaxis": _axis(ticksuffix=" h", nticks=6),
        "yaxis": _axis(type="category", categoryorder="array", categoryarray=names, ticksuffix=" "),
    }
    summary = ", ".join(f"{group} {totals[group]:.2f} h" for group in reversed(order[-6:]))
    return described(data, layout, 50 + 24 * max(2, len(order)), f"{title}: {summary}")


def tokens(rows: Sequence[tuple[str, int, int, int]], chosen: int) -> dict[str, Any]:
    """Tokens by patch size and split. Rows are (split, patch, context tokens, continuation tokens)."""
    data = []
    for index, split in enumerate(dict.fromkeys(row[0] for row in rows)):
        part = [row for row in rows if row[0] == split]
        for column, kind in ((2, "context"), (3, "continuation")):
            data.append(
                _trace(
                    "bar",
                    x=[f"<b>{row[1]}</b>" if row[1] == chosen else str(row[1]) for row in part],
                    y=[row[column] for row in part],
                    name=text(split),
                    legendgroup=text(split),
                    offsetgroup=kind,
                    marker=_marker(PALETTE[index % len(PALETTE)], "/" if kind == "context" else ""),
                    showlegend=kind == "continuation",
                    hovertemplate=f"{text(split)}, {kind}, %{{x}} frames a token: %{{y:,}} tokens<extra></extra>",
                )
            )
    layout = {
        "barmode": "stack",
        "margin": MARGIN | {"t": 10},
        "legend": LEGEND,
        "showlegend": True,
        "xaxis": _axis(f"patch size in frames (recipe: {chosen})", type="category"),
        "yaxis": _axis("tokens", nticks=6),
    }
    whole = ", ".join(f"{row[0]} patch {row[1]}: {row[2] + row[3]:,}" for row in rows)
    return described(data, layout, 330, f"Tokens by patch size and split: {whole}")


def prefixes(rows: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    """Frames in the first shards of each folder. Points are (shards, frames), from (0, 0) on."""
    data = []
    for index, (split, sums) in enumerate(rows.items()):
        data.append(
            _trace(
                "scatter",
                x=[shards for shards, _ in sums],
                y=[frames for _, frames in sums],
                mode="lines+markers" if len(sums) < 60 else "lines",
                name=text(split),
                line={"color": PALETTE[index % len(PALETTE)], "dash": ["solid", "dash", "dot", "dashdot"][index % 4]},
                hovertemplate=f"{text(split)}: the first %{{x}} shards have %{{y:,}} frames<extra></extra>",
            )
        )
    most = max((sums[-1][0] for sums in rows.values()), default=0)
    layout = {
        "margin": MARGIN | {"t": 10},
        "legend": LEGEND,
        "showlegend": True,
        "xaxis": _axis("number of first shards of a folder", rangemode="tozero", **_ticks(most)),
        "yaxis": _axis("frames", rangemode="tozero"),
    }
    last = ", ".join(f"{split} {sums[-1][1]:,} frames in {sums[-1][0]} shards" for split, sums in rows.items())
    return described(data, layout, 330, f"Frames by number of shards: {last}")


def bars(rows: Iterable[tuple[str, str, float]], unit: str, color: str, label: str) -> dict[str, Any]:
    """One bar for each row, from the top in the given order. Rows are (name, second line of the name or "", value)."""
    rows = list(rows)
    names = [f"{text(name)}<br>{text(more)}" if more else text(name) for name, more, _ in rows]
    assert len(set(names)) == len(names)  # Plotly would merge bars of the same name
    trace = _trace(
        "bar",
        y=names,
        x=[value for *_, value in rows],
        orientation="h",
        marker={"color": color},
        text=[f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for *_, value in rows],
        textposition="auto",
        textangle=0,
        hovertemplate=f"%{{y}}: %{{x:,.4~g}} {unit}<extra></extra>",
    )
    most = max((value for *_, value in rows), default=0)
    layout = {
        "margin": MARGIN | {"b": 30},
        "showlegend": False,
        "bargap": 0.3,
        "xaxis": _axis(unit, nticks=5, rangemode="tozero", **_ticks(most)),
        "yaxis": _axis(type="category", autorange="reversed", ticksuffix=" "),
    }
    row_px = 40 if any(more for _, more, _ in rows) else 28
    return described([trace], layout, 60 + row_px * max(2, len(rows)), label)


def _ticks(most: float) -> dict[str, int]:
    """The ticks of an axis of counts: at whole numbers if the counts are small."""
    return {"dtick": 1} if 1 <= most <= 5 and float(most).is_integer() else {}


def mel_scale() -> list[list[Any]]:
    """The colour scale of mel pictures, dark for quiet sound."""
    return plotly.colors.make_colorscale(plotly.colors.sequential.Magma)

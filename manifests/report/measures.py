"""The measures that the report plots and lists, with their units and descriptions from the schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from manifests import schemas
from manifests.report.thresholds import Threshold

NOT_SCORES = {"speech_s", "overlap_s"}  # the report shows their shares
WINDOW_SCORES = ("speech_share", "num_speakers", "overlap_share", "turn_count")
HIDDEN = {*schemas.BASE_NAMES, "hints", "sha256", "pcm_sha256"}
"""Columns that the report leaves out, such as hashes."""

NO_UNIT = "no unit"


@dataclass(frozen=True)
class Measure:
    """A column of a schema as the report describes it. `origin` is the step behind it: ingest, a stage or select."""

    name: str
    unit: str
    sentence: str
    origin: str
    kind: pa.DataType

    @classmethod
    def of(cls, column: pa.Field, origin: str) -> Measure:
        described = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
        text = described.get("description", "")
        default = "" if _is_text(column.type) else NO_UNIT
        return cls(column.name, described.get("unit", default), f"{text[:1].upper()}{text[1:]}.", origin, column.type)


def _is_text(kind: pa.DataType) -> bool:
    return kind == pa.string() or pa.types.is_list(kind)


def recording_measures(stages: Iterable[str] = tuple(schemas.STAGES)) -> dict[str, Measure]:
    """Measures of recordings by name. Where a stage and ingest have the same column, it is that of the stage."""
    found: dict[str, Measure] = {}
    for origin, schema in (*((stage, schemas.STAGES[stage]) for stage in stages), ("ingest", schemas.RECORDINGS)):
        for column in schema:
            shown = not pa.types.is_nested(column.type) or pa.types.is_map(column.type)
            if shown and column.name not in HIDDEN:
                found.setdefault(column.name, Measure.of(column, origin))
    return found


def window_measures() -> dict[str, Measure]:
    return {name: Measure.of(schemas.WINDOWS.field(name), "select") for name in WINDOW_SCORES}


@dataclass(frozen=True)
class Score:
    """A number of each recording or window, in the column `column` of the table of its `level`."""

    level: str
    column: str
    expression: str
    title: str
    unit: str
    whole: bool
    sentence: str

    @property
    def axis(self) -> str:
        """The title of its axis."""
        return self.title if self.unit in ("", NO_UNIT) else self.unit

    @property
    def table(self) -> str:
        return "facts" if self.level == "recordings" else "window_facts"


def scores(movable: Iterable[Threshold], windows: bool) -> Iterator[Score]:
    """The scores of the report: first those that movable rules use, then every other number that stages measured."""
    known = {"recordings": recording_measures(), "windows": window_measures()}
    plain = [
        name
        for name, measure in recording_measures().items()
        if measure.origin != "ingest" and (measure.kind == pa.float64() or name == "num_speakers")
    ]
    wanted = [(threshold.level, threshold.expression) for threshold in movable]
    wanted += [("recordings", name) for name in plain if name not in NOT_SCORES]
    if windows:
        wanted += [("windows", name) for name in WINDOW_SCORES]
    for number, (level, expression) in enumerate(dict.fromkeys(wanted)):
        measure = known[level].get(expression) or _computed_measure(expression, known[level])
        title = expression if level == "recordings" else f"{expression} of windows"
        whole = pa.types.is_integer(measure.kind)
        yield Score(level, f"s{number}", expression, title, measure.unit, whole, measure.sentence)


def _computed_measure(expression: str, known: Mapping[str, Measure]) -> Measure:
    """The measure of a rule's expression. It has the unit of its columns unless it multiplies or divides."""
    used = [known[name] for name in dict.fromkeys(re.findall(r"\w+", expression)) if name in known]
    units = {measure.unit for measure in used}
    unit = units.pop() if len(units) == 1 and not re.search(r"[*/]", expression) else NO_UNIT
    parts = [f"{measure.name} ({measure.unit}): {measure.sentence}" for measure in used]
    return Measure(expression, unit, " ".join(["Computed by a rule of the recipe.", *parts]), "select", pa.float64())

"""What is wrong with SQL that a person gave, in plain words, with the names that come near to what was written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import duckdb

from manifests import schemas
from manifests.choice import ChoiceError, measured_in
from manifests.exchange.foreign.rows import TABLES
from manifests.look.targets import Target
from manifests.rules import RuleError
from manifests.views import VERDICT, VIEWS, measured

NO_COLUMN = re.compile(r'(?:Referenced column|not have a column named|^Binder Error: Column) "(?P<name>.*?)"')
NO_VIEW = re.compile(r"Table with name (?P<name>\S+) does not exist")
LIST = '`speechmill manifest query TARGET "DESCRIBE VIEW"` lists the columns of a view, "SHOW TABLES" the views'


def of_sql(error: duckdb.Error, target: Target | None) -> tuple[str, str]:
    """What DuckDB did not understand, and what to do about it."""
    views = _columns(target)
    if match := NO_COLUMN.search(str(error)):
        name = match["name"]
        holders = [view for view, columns in views.items() if name in columns]
        if holders:
            return (
                f"this view has no column {name}",
                f"the column is in {', '.join(holders)}: --view, or FROM, names it",
            )
        near = _near(name, (column for columns in views.values() for column in columns))
        meant = f"did you mean {near}" if near else f"if it is a text, write it in single quotes: '{name}'"
        return f"there is no column {name}", f"{meant}; {LIST}"
    if match := NO_VIEW.search(str(error)):
        return no_view(match["name"], views)
    what = _first_line(error)
    if isinstance(error, duckdb.ParserException):
        return f"this is not SQL that can be read: {what}", "write it as in DuckDB; quote the whole in the shell"
    return what, f"correct it; {LIST}"


def viewed(target: Target, view: str | None) -> str:
    """The view that --view names, else the one that a target is looked at by. Raises ChoiceError where it has none."""
    views = _columns(target)
    if view is not None and view not in views:
        raise ChoiceError(*no_view(view, views))
    return view or target.view


def no_view(name: str, views: Iterable[str]) -> tuple[str, str]:
    near = _near(name, views)
    return f"there is no view {name}", f"did you mean {near}; " * bool(near) + f"the views are {', '.join(views)}"


def of_rule(error: RuleError, target: Target | None) -> tuple[str, str]:
    """What is wrong with a rule; a column of a stage that the selection did not read is told with one that did."""
    match = NO_COLUMN.search(str(error))
    if match is None or target is None or target.lake is None:
        return str(error), "correct the rule"
    name = match["name"]
    own = target.choice.own
    stage = next((one for one, schema in schemas.STAGES.items() if name in schema.names and one not in own), None)
    if stage is not None:
        holders = [selection for _, selection in measured_in(target.lake, stage) if selection]
        where = f"look at one that did: --selection {holders[0]}; or " if holders else ""
        return (
            f"the rule asks for {name}, which the stage {stage} measures, and the selection {target.choice.selection} "
            f"did not read that stage",
            f"{where}add [annotate.{stage}] to its recipe, then annotate and select again",
        )
    near = _near(name, [*measured(schemas.STAGES), *schemas.WINDOWS.names])
    return f"the rule asks for {name}, which is no column", f"did you mean {near}" if near else LIST


def _columns(target: Target | None) -> dict[str, list[str]]:
    """Columns of each view that can be asked."""
    if target is None or target.lake is not None:
        every: Mapping[str, list[str]] = {view: schema.names for view, schema in VIEWS.items()}
        annotations = list(measured(schemas.STAGES))
        judged = [*annotations, *VERDICT]
        return {"annotations": annotations, "judged": judged, **every, "batches": ["recording_id", "uris", "batch"]}
    if target.view != "data":
        return {table: schema.names for table, schema in TABLES.items()}
    return {"data": target.connect().sql("FROM data").columns}


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), dict.fromkeys(known), n=3, cutoff=0.6)
    return " or ".join(found)


def _first_line(error: duckdb.Error) -> str:
    """DuckDB's own words without the kind of the error, the functions that it considered and the place."""
    text = str(error).partition("\n\nLINE")[0].partition("\n\tCandidate functions")[0]
    return re.sub(r"^\w+ Error: ", "", text).replace("\n", " ").strip()

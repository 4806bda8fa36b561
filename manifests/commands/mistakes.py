"""Explains errors in the SQL of users in plain words, and suggests similar names of columns and views."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import duckdb

from manifests import schemas
from manifests.choice import ChoiceError, measured_in
from manifests.commands.targets import Target
from manifests.exchange.foreign.rows import TABLES
from manifests.rules import RuleError
from manifests.view_columns import annotation_columns, columns_of_views

NO_COLUMN = re.compile(r'(?:Referenced column|not have a column named|^Binder Error: Column) "(?P<name>.*?)"')
AMBIGUOUS = re.compile(r'Ambiguous reference to column name "(?P<name>.*?)"')
NO_VIEW = re.compile(r"Table with name (?P<name>\S+) does not exist")
LIST = '`speechmill manifest query TARGET "DESCRIBE VIEW"` lists the columns of a view, "SHOW TABLES" the views'


def explain_sql(error: duckdb.Error, target: Target | None) -> tuple[str, str]:
    """The message and the remedy for an error of DuckDB in the SQL of a user."""
    views = _columns_by_view(target)
    if match := NO_COLUMN.search(str(error)):
        name = match["name"]
        holders = [view for view, columns in views.items() if name in columns]
        if holders:
            return (
                f"this view has no column {name}",
                f"it is a column of {', '.join(holders[:4])}: name one of these views",
            )
        near = _similar_names(name, (column for columns in views.values() for column in columns))
        meant = f"did you mean {near}; " * bool(near) + f"if it is a text, write it in single quotes: '{name}'"
        return f"there is no column {name}", f"{meant}; {LIST}"
    if match := AMBIGUOUS.search(str(error)):
        what = f"several of the joined views have a column {match['name']}"
        return what, "write it as VIEW.COLUMN; recordings and windows have every column, so that they need no join"
    if match := NO_VIEW.search(str(error)):
        return unknown_view(match["name"], views)
    what = _first_line(error)
    if isinstance(error, duckdb.ParserException):
        return f"this is not SQL that can be read: {what}", "write it as in DuckDB; quote the whole in the shell"
    return what, f"correct it; {LIST}"


def existing_view(target: Target, view: str | None) -> str:
    """The view that --view names, else the default view of the target. Raises ChoiceError if it does not exist."""
    views = _columns_by_view(target)
    if view is not None and view not in views:
        raise ChoiceError(*unknown_view(view, views))
    return view or target.view


def unknown_view(name: str, views: Iterable[str]) -> tuple[str, str]:
    """The message and the remedy for the name of a view that does not exist."""
    near = _similar_names(name, views)
    return f"there is no view {name}", f"did you mean {near}; " * bool(near) + f"the views are {', '.join(views)}"


def explain_rule(error: RuleError, target: Target | None) -> tuple[str, str]:
    """The message and the remedy for an error in a rule.

    Where the rule reads a column of a stage that the selection did not read, the remedy names a selection that did.
    """
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
    near = _similar_names(name, [*annotation_columns(schemas.STAGES), *schemas.WINDOWS.names])
    return f"the rule asks for {name}, which is no column", f"did you mean {near}" if near else LIST


def _columns_by_view(target: Target | None) -> dict[str, list[str]]:
    """The columns of each view of the target."""
    if target is None or target.lake is not None:
        return columns_of_views()
    if target.view != "data":
        return {table: schema.names for table, schema in TABLES.items()}
    return {"data": target.connect().sql("FROM data").columns}


def _similar_names(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), dict.fromkeys(known), n=3, cutoff=0.6)
    return " or ".join(found)


def _first_line(error: duckdb.Error) -> str:
    """DuckDB's message without the kind of the error, the candidate functions and the position."""
    text = str(error).partition("\n\nLINE")[0].partition("\n\tCandidate functions")[0]
    return re.sub(r"^\w+ Error: ", "", text).replace("\n", " ").strip()

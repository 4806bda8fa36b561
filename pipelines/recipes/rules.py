"""Checks the rules of a recipe, before any work, against the columns that its stages will write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from runtime.errors import RecipeError

UNKNOWN = re.compile(r'Referenced (?:column|table) "([^"]+)" not found')
OF_WINDOWS = {
    "speech_s": "vad",
    "speech_share": "vad",
    "num_speakers": "diarize",
    "overlap_share": "diarize",
    "turn_count": "diarize",
    "turns": "diarize",
    "language": "language",
    "repeated_share": "fingerprint",
    "repeats": "fingerprint",
}
"""Columns of windows with the stage that fills them. Without that stage they are null, and every rule on them fails."""


def check_rules(recordings: Mapping[str, str], windows: Mapping[str, str], stages: Collection[str]) -> None:
    """Check that each rule is a condition over columns that exist.

    Args:
        recordings: Rules on recordings, by name.
        windows: Rules on windows, by name.
        stages: The stages of the recipe. Columns of ingest and of the signal stage always exist.

    Raises:
        RecipeError: A rule is wrong. The remedy names the stage that measures a missing column, or columns with similar
            names.
    """
    import duckdb

    from manifests import schemas
    from manifests.rules import RuleError, broken_rules
    from manifests.rules import check_rules as compile_rules
    from manifests.selection import Selection

    fingerprints = dict.fromkeys(["signal", *stages], "")
    matches = "" if "fingerprint" in fingerprints else None
    measured = [name for name in schemas.WINDOWS.names if OF_WINDOWS.get(name, "signal") in fingerprints]
    of_windows = schemas.WINDOWS.empty_table().select(measured)
    with duckdb.connect() as connection:
        for table, rules in (("recordings", recordings), ("windows", windows)):
            for name, condition in rules.items():
                one: dict[str, Any] = {table: {name: condition}}
                try:
                    tried = Selection("", fingerprints, context_s=0, continuation_s=1, matches=matches, **one)
                    compile_rules(connection, tried)
                    if table == "windows":
                        broken_rules(connection, of_windows, {name: condition})
                except (RuleError, duckdb.Error) as error:
                    raise _rule_error(table, name, condition, stages, error.__cause__ or error) from error


def _rule_error(table: str, name: str, condition: str, stages: Collection[str], error: BaseException) -> RecipeError:
    """Return the error of a rule that DuckDB does not compile, in the terms of a recipe."""
    from manifests import schemas
    from manifests.view_columns import annotation_columns

    rule = f"the rule select.{table}.{name} = {condition!r}"
    reason = str(error).partition("\n\nLINE")[0].replace("\n", " ")
    unknown = UNKNOWN.search(reason)
    if not unknown:
        remedy = "write one complete SQL condition, such as \"speech_share >= 0.3 and language = 'en'\""
        return RecipeError(f"{rule} cannot be used: {reason}", remedy)
    column = unknown[1].lower()
    if stage := _stage_of(table, column):
        what = f"{rule} reads {column}, which the stage {stage} measures, and the recipe does not have that stage"
        return RecipeError(what, f"add the table [annotate.{stage}] to the recipe, or leave the rule out")
    of_recordings = list(annotation_columns(["signal", *stages]))
    if "fingerprint" in stages:
        of_recordings += [repeat.name for repeat in schemas.REPEATS]
    known = schemas.WINDOWS.names if table == "windows" else of_recordings
    what = f"{rule} names {unknown[1]!r}, which is not a column of {table}"
    if table == "windows" and column in of_recordings:
        return RecipeError(what, "it is a column of recordings: write the rule under [select.recordings]")
    if f'"{unknown[1]}"' in condition:
        return RecipeError(what, f"text stands between single quotes: '{unknown[1]}'")
    if near := difflib.get_close_matches(column, known, 3):
        return RecipeError(what, f"did you mean {' or '.join(near)}?")
    return RecipeError(what, f"the columns are: {', '.join(known)}")


def _stage_of(table: str, column: str) -> str | None:
    """Return the stage that writes a column of recordings or windows; None if no stage does."""
    from manifests import schemas

    if table == "windows":
        return OF_WINDOWS.get(column)
    if column in [repeat.name for repeat in schemas.REPEATS]:
        return "fingerprint"
    names = (stage for stage in schemas.STAGES if stage != "signal")
    return next((stage for stage in names if column in schemas.STAGES[stage].names), None)

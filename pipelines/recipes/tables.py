"""Makes dataclasses from TOML tables, with errors that name the place in the recipe and the remedy."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from typing import Any

from runtime import typed
from runtime.errors import RecipeError


def build_config(kind: Any, settings: dict[str, Any], where: str) -> Any:
    """Make a dataclass from a TOML table.

    Args:
        kind: The dataclass.
        settings: The table.
        where: The name of the table, for errors.

    Raises:
        RecipeError: The table has an unknown key, or a value of a wrong type or outside its range.
    """
    check_keys(settings, {f.name for f in fields(kind)}, where)
    try:
        typed.check(kind, settings)
        return kind(**settings)
    except (TypeError, ValueError) as error:
        what = str(error)
        own = re.match(r"\w+", what)
        if own and own[0] in settings:
            what = f"{where}.{what}"
        elif not what.startswith(f"{where}."):
            what = f"[{where}] {what}"
        raise RecipeError(what, "correct it in the recipe") from error


def check_keys(table: Any, known: set[str], where: str) -> None:
    """Raise RecipeError if `table` is not a table, or has an unknown key; it suggests the most similar known key."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where} = {table!r} is not a table", f"write [{where}] and its keys below it")
    for key in table.keys() - known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"unknown key {key!r} in {where}", f"{hint}known: {', '.join(sorted(known))}")

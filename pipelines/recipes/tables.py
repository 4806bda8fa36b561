"""Tables of TOML to the dataclasses that take them, with errors that say where in the recipe and what to write."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from typing import Any

from runtime import typed
from runtime.errors import RecipeError


def build(kind: Any, settings: dict[str, Any], where: str) -> Any:
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
    if not isinstance(table, dict):
        raise RecipeError(f"{where} = {table!r} is not a table", f"write [{where}] and its keys below it")
    for key in table.keys() - known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"unknown key {key!r} in {where}", f"{hint}known: {', '.join(sorted(known))}")

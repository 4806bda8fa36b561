"""Names of recipes, splits, selections and datasets, which become parts of keys and paths."""

from __future__ import annotations

import re

LONGEST = 64
"""Longest name in a recipe, in characters."""
LONGEST_OF_FOLDER = 100
"""Longest name of a folder in a lake, in characters; that of a selection is its recipe's with a fingerprint."""
FOLDERS = frozenset({"commits", "versions", "windows"})
"""Folders of every dataset, which splits cannot be named after."""
DUPLICATE = "duplicate"
"""The reason for rejecting a copy of a recording that is kept. No rule can have this name."""
REPEATED = "repeated"
"""The reason for rejecting a window whose sound too many recordings hold and that is not its first place. No rule can
have this name."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def checked_name(name: object, what: str, longest: int = LONGEST) -> str:
    """Return `name` if it is safe as a part of a path on any disk and in any bucket; otherwise raise ValueError.

    A safe name is of ASCII letters, digits, '-' and '_', and does not begin with '-'. `what` names it in the error.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > longest:
        rule = f"a name is 1 to {longest} of the letters a to z and A to Z, digits, '-' and '_', not beginning with '-'"
        raise ValueError(f"{what} {name!r:.200} cannot be used: {rule}")
    return name

"""Names that become parts of keys, and so of paths: those of recipes, splits, selections and datasets."""

from __future__ import annotations

import re

LONGEST = 64
"""Characters in a name that a recipe gives."""
LONGEST_OF_FOLDER = 100
"""Characters in the name of a folder of a lake: a selection is called after its recipe and a fingerprint."""
FOLDERS = frozenset({"commits", "versions", "windows"})
"""Folders that every dataset has beside those of its splits."""
DUPLICATE = "duplicate"
"""The reason of a recording with the samples, or the sound, of another one that is kept: no name of a rule."""
REPEATED = "repeated"
"""The reason of a window whose sound too many recordings hold, and that is not its first place: no name of a rule."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def checked_name(name: object, what: str, longest: int = LONGEST) -> str:
    """`name`, if it is safe as a part of a path on any disk and in any bucket. `what` says whose name it is.

    ASCII letters, digits, '-' and '_', not beginning with '-'. Raises ValueError for anything else.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > longest:
        rule = f"a name is 1 to {longest} of the letters a to z and A to Z, digits, '-' and '_', not beginning with '-'"
        raise ValueError(f"{what} {name!r:.200} cannot be used: {rule}")
    return name

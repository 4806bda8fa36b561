"""Compare the JSON output of commands with docs/json.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs/json.md"


def documented() -> dict[str, set[str]]:
    """Return the keys in the tables of docs/json.md, by command."""
    found: dict[str, set[str]] = {}
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        found[name] = set(re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE))
    return found


def paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from paths(inside, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for inside in value:
            yield from paths(inside, path + "[]")
    else:
        yield path


def holds(pattern: str, path: str) -> bool:
    """Return whether a documented key covers a printed one. The path of an empty object or list may be shorter."""
    begun = pattern.removesuffix(".*")
    if path == begun or (path and re.match(re.escape(path) + r"(\[\]|\.|$)", pattern)):
        return True
    return pattern.endswith(".*") and path.startswith(begun + ".")


def held(pattern: str, path: str) -> bool:
    """Return whether a printed, non-empty key is the documented one."""
    begun = pattern.removesuffix(".*")
    return path == pattern or (pattern.endswith(".*") and path.startswith(begun + "."))

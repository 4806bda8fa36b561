"""What docs/json.md says of commands, held against what they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs/json.md"


def documented() -> dict[str, set[str]]:
    """Keys by command, as the tables list them."""
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
    """Whether a documented key covers a printed one; an object or list without anything in it ends before."""
    begun = pattern.removesuffix(".*")
    if path == begun or (path and re.match(re.escape(path) + r"(\[\]|\.|$)", pattern)):
        return True
    return pattern.endswith(".*") and path.startswith(begun + ".")


def held(pattern: str, path: str) -> bool:
    """Whether a printed key, with something in it, is the documented one."""
    begun = pattern.removesuffix(".*")
    return path == pattern or (pattern.endswith(".*") and path.startswith(begun + "."))

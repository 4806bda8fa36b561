"""Values of a recipe against the types of the dataclass that takes them: TOML has types, dataclasses check none."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}


def check(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of `settings` that is not of the type of its field of the dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    for name, value in settings.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} must be {_named(hints[name])}, not {value!r:.100}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML has a type. A whole number is a number, and neither is true, infinite nor nan."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is dict:
        key, inner = arguments
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, inner) for k, v in value.items())
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(one, arguments[0]) for one in value)
    return isinstance(value, origin or hint)


def _named(hint: Any) -> str:
    arguments = [one for one in typing.get_args(hint) if one not in (type(None), ...)]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_named, arguments))
    if origin is dict:
        return f"a table whose values are {_named(arguments[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list whose values are {_named(arguments[0])}"
    return NAMES.get(hint, "a plain value")

"""Check settings from TOML against the types of their dataclass, since dataclasses do not check them."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
UNITS = {"_s": " of seconds", "_hours": " of hours", "_mb": " of megabytes", "_gb": " of gigabytes"}
"""The unit of a number, by the end of its name."""
LARGEST = 10**9
"""Largest time, size or count in a recipe; operating systems allow no much larger timers or limits."""


def check(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of `settings` whose type is not that of its field in the dataclass `kind`.

    For a table, the error names its first value of a wrong type.
    """
    hints = typing.get_type_hints(kind)
    for name, value in settings.items():
        _check(name, value, hints[name])


def check_fields(
    config: Any,
    *,
    at_least: Mapping[str, float] = {},
    above: Mapping[str, float] = {},
    one_of: Mapping[str, Sequence[str]] = {},
) -> None:
    """Check the fields of a frozen dataclass; to be called in its `__post_init__`.

    Whole numbers are converted to the type of their field, so that 80 and 80.0 have the same fingerprint.

    Args:
        config: The dataclass, whose fields are all checked against their types.
        at_least: Least values of some fields.
        above: Exclusive lower bounds of some fields.
        one_of: Allowed values of some fields.

    Raises:
        ValueError: The message names the first wrong field and what it must be.
    """
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        name, hint = field.name, hints[field.name]
        value = getattr(config, name)
        if hint is float and fits(value, float):
            object.__setattr__(config, name, value := float(value))
        elif hint is int and isinstance(value, float) and value.is_integer():
            object.__setattr__(config, name, value := int(value))
        bound, valid = "", fits(value, hint)
        if name in at_least:
            bound, valid = f", {at_least[name]:g} or more", valid and value >= at_least[name]
        elif name in above:
            bound, valid = f" above {above[name]:g}", valid and value > above[name]
        if not valid:
            raise _wrong(name, value, hint, bound)
        if name in one_of and value not in one_of[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, one_of[name]))}, not {value!r:.100}")


def _check(name: str, value: Any, hint: Any) -> None:
    if fits(value, hint):
        if isinstance(value, int | float) and name != "seed" and abs(value) > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:,}, not {value!r:.100}")
        return
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        inner = typing.get_args(hint)[1]
        for key, item in value.items():
            _check(f"{name}.{key}", item, inner)
    raise _wrong(name, value, hint)


def _wrong(name: str, value: Any, hint: Any, bound: str = "") -> ValueError:
    unit = next((words for end, words in UNITS.items() if name.endswith(end)), "")
    finite = "finite " if isinstance(value, float) and not math.isfinite(value) else ""
    words = type_in_words(hint).replace("number", f"{finite}number{unit}", 1)
    return ValueError(f"{name} must be {words}{bound}, not {value!r:.100}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value has a type. An integer counts as a float; booleans, infinity and nan do not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, argument) for argument in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is dict:
        key, inner = arguments
        return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    return isinstance(value, origin or hint)


def type_in_words(hint: Any) -> str:
    """A type in words, for errors and documentation: "a list whose values are text"."""
    arguments = [argument for argument in typing.get_args(hint) if argument not in (type(None), ...)]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(type_in_words, arguments))
    if origin is dict:
        return f"a table whose values are {type_in_words(arguments[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list whose values are {type_in_words(arguments[0])}"
    return NAMES.get(hint, "a plain value")

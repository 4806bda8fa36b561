"""Values of settings against the types of the dataclass that takes them: TOML has types, dataclasses check none."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
UNITS = {"_s": " of seconds", "_hours": " of hours", "_mb": " of megabytes", "_gb": " of gigabytes"}
"""What a number counts, by the end of its name."""
LARGEST = 10**9
"""No time, size or count of a recipe is larger: operating systems take no timers or limits of much more."""


def check(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of `settings` that is not of the type of its field of the dataclass `kind`.

    Of a table, the first of its values is named that is of another type.
    """
    hints = typing.get_type_hints(kind)
    for name, value in settings.items():
        _check(name, value, hints[name])


def settle(
    config: Any,
    *,
    at_least: Mapping[str, float] = {},
    above: Mapping[str, float] = {},
    one_of: Mapping[str, Sequence[str]] = {},
) -> None:
    """Check all fields of a frozen dataclass against their types and some against bounds, in its `__post_init__`.

    Whole numbers become what their field is, so that 80 and 80.0 are one setting with one fingerprint. ValueError names
    the first field that is wrong and what it must be.
    """
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        name, hint = field.name, hints[field.name]
        value = getattr(config, name)
        if hint is float and fits(value, float):
            object.__setattr__(config, name, value := float(value))
        elif hint is int and isinstance(value, float) and value.is_integer():
            object.__setattr__(config, name, value := int(value))
        bound, right = "", fits(value, hint)
        if name in at_least:
            bound, right = f", {at_least[name]:g} or more", right and value >= at_least[name]
        elif name in above:
            bound, right = f" above {above[name]:g}", right and value > above[name]
        if not right:
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
        for key, one in value.items():
            _check(f"{name}.{key}", one, inner)
    raise _wrong(name, value, hint)


def _wrong(name: str, value: Any, hint: Any, bound: str = "") -> ValueError:
    unit = next((words for end, words in UNITS.items() if name.endswith(end)), "")
    finite = "finite " if isinstance(value, float) and not math.isfinite(value) else ""
    words = named(hint).replace("number", f"{finite}number{unit}", 1)
    return ValueError(f"{name} must be {words}{bound}, not {value!r:.100}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML has a type. A whole number is a number, and neither is true, infinite nor nan."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is dict:
        key, inner = arguments
        return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, arguments[0]) for one in value)
    return isinstance(value, origin or hint)


def named(hint: Any) -> str:
    """A type in words, as errors and docs tell it: "a list whose values are text"."""
    arguments = [one for one in typing.get_args(hint) if one not in (type(None), ...)]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(named, arguments))
    if origin is dict:
        return f"a table whose values are {named(arguments[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list whose values are {named(arguments[0])}"
    return NAMES.get(hint, "a plain value")

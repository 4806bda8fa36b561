"""Every key that a recipe may hold, with its type, default, unit and meaning, read from the dataclasses of recipes."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import encoders
from manifests.storage import StorageConfig
from pipelines.audio.config import DecodeConfig
from pipelines.recipes import recipe as recipes
from pipelines.recipes.encoder_tables import EncodeConfig
from runtime import typed

UNITS = {
    "_hours": "h", "_mb": "10^6 byte", "_gb": "10^9 byte", "_samples": "sample", "_frames": "frame", "_ms": "ms",
    "_hz": "Hz", "_db": "dB", "_s": "s",
}  # fmt: skip
"""What a value counts, by the end of its key."""
ENABLED = "Whether the stage runs. A recipe runs the stages that it has a table for, unless this is false."


class Key(NamedTuple):
    """A key of a recipe."""

    table: str
    """The table that holds it, such as annotate.vad; empty for the keys above all tables."""
    name: str
    kind: str
    """The type in words; TOML's."""
    default: str | None
    """The value where a recipe gives none, as TOML writes it; None where there is none."""
    unit: str
    meaning: str

    @property
    def path(self) -> str:
        """The key as `--set` takes it."""
        return f"{self.table}.{self.name}" if self.table else self.name


def keys() -> list[Key]:
    """All keys in the order of a recipe's tables, those of the encoders' settings last."""
    found = [Key("", "name", "text", None, "", "Name of the recipe, and of the datasets made by it.")]
    found += _of(
        recipes.Recipe,
        "",
        only=("max_failed_share", "unreachable"),
        defaults={"max_failed_share": recipes.MAX_FAILED_SHARE},
    )
    found += _of(recipes.IngestConfig, "ingest")
    found += _of(DecodeConfig, "decode")
    found += _of(recipes.Recipe, "annotate", only=("piece_hours",))
    for stage, (module, _, config) in recipes.STAGES.items():
        table = f"annotate.{stage}"
        found.append(Key(table, "enabled", "true or false", "true", "", ENABLED))
        found += _of(getattr(importlib.import_module(module), config), table)
    found += _of(recipes.MatchConfig, "match")
    found += _of(recipes.SelectConfig, "select")
    found += _of(EncodeConfig, "encode")
    found += _of(StorageConfig, "storage")
    return found


def encoder_keys() -> dict[str, list[Key]]:
    """Keys of [encode.settings] by the name of the encoder that takes them."""
    return {name: _of(encoders.find(name).config_class, "encode.settings") for name in sorted(encoders.ENCODERS)}


def meanings(config: type) -> dict[str, str]:
    """What stands below each field of a dataclass and of those that it inherits from, as one line."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        if dataclasses.is_dataclass(kind):
            found |= _written(kind)
    return found


@functools.cache
def _written(kind: type) -> Mapping[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = " ".join(text.value.value.split())
    return found


def _of(config: type, table: str, only: Sequence[str] | None = None, defaults: Mapping[str, Any] = {}) -> list[Key]:
    told, hints = meanings(config), typing.get_type_hints(config)
    return [
        Key(
            table,
            field.name,
            typed.named(hints[field.name]),
            toml(defaults.get(field.name, _default(field))),
            next((unit for end, unit in UNITS.items() if field.name.endswith(end)), ""),
            told.get(field.name, ""),
        )
        for field in dataclasses.fields(config)
        if only is None or field.name in only
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def toml(value: Any) -> str | None:
    """A default as TOML writes it, on one line; None for a value that is not given."""
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {toml(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(toml(one)) for one in value)}]"
    return json.dumps(value)  # scalars are written in TOML as in JSON

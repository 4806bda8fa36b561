"""Every key that a recipe may have, with its type, default, unit and meaning, read from the dataclasses of recipes."""

from __future__ import annotations

import ast
import dataclasses
import functools
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
from pipelines.stages.registry import config_class
from runtime import typed

UNITS = {
    "_hours": "h", "_mb": "10^6 byte", "_gb": "10^9 byte", "_samples": "sample", "_frames": "frame", "_ms": "ms",
    "_hz": "Hz", "_db": "dB", "_s": "s",
}  # fmt: skip
"""The unit of a value, by the end of its key."""
ENABLED = "Whether the stage runs. A recipe runs the stages that it has a table for, unless this is false."


class Key(NamedTuple):
    """A key of a recipe."""

    table: str
    """The table that holds it, such as annotate.vad; empty for keys outside of tables."""
    name: str
    kind: str
    """The type of its TOML value, in words."""
    default: str | None
    """The default as TOML writes it; None if there is none."""
    unit: str
    meaning: str

    @property
    def path(self) -> str:
        """The key as `--set` takes it."""
        return f"{self.table}.{self.name}" if self.table else self.name


def keys() -> list[Key]:
    """Return all keys in the order of a recipe's tables, without those of [encode.settings]."""
    keys = [Key("", "name", "text", None, "", "Name of the recipe, and of the datasets made by it.")]
    keys += _config_keys(
        recipes.Recipe,
        "",
        only=("max_failed_share", "unreachable"),
        defaults={"max_failed_share": recipes.MAX_FAILED_SHARE},
    )
    keys += _config_keys(recipes.IngestConfig, "ingest")
    keys += _config_keys(DecodeConfig, "decode")
    keys += _config_keys(recipes.Recipe, "annotate", only=("piece_hours",))
    for stage in recipes.STAGES:
        table = f"annotate.{stage}"
        keys.append(Key(table, "enabled", "true or false", "true", "", ENABLED))
        keys += _config_keys(config_class(stage), table)
    keys += _config_keys(recipes.MatchConfig, "match")
    keys += _config_keys(recipes.SelectConfig, "select")
    keys += _config_keys(EncodeConfig, "encode")
    keys += _config_keys(StorageConfig, "storage")
    return keys


def encoder_keys() -> dict[str, list[Key]]:
    """Return the keys of [encode.settings], by the name of the encoder that has them."""
    return {
        name: _config_keys(encoders.find(name).config_class, "encode.settings") for name in sorted(encoders.ENCODERS)
    }


def meanings(config: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, inherited fields included, as one line."""
    texts: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        if dataclasses.is_dataclass(kind):
            texts |= _own_meanings(kind)
    return texts


@functools.cache
def _own_meanings(kind: type) -> Mapping[str, str]:
    """Return the docstring below each field that a dataclass itself defines."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            texts[field.target.id] = " ".join(text.value.value.split())
    return texts


def _config_keys(
    config: type, table: str, only: Sequence[str] | None = None, defaults: Mapping[str, Any] = {}
) -> list[Key]:
    texts, hints = meanings(config), typing.get_type_hints(config)
    return [
        Key(
            table,
            field.name,
            typed.type_in_words(hints[field.name]),
            toml(defaults.get(field.name, _default(field))),
            next((unit for end, unit in UNITS.items() if field.name.endswith(end)), ""),
            texts.get(field.name, ""),
        )
        for field in dataclasses.fields(config)
        if only is None or field.name in only
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def toml(value: Any) -> str | None:
    """Return a default as TOML writes it, on one line; None for no value."""
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {toml(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(toml(one)) for one in value)}]"
    return json.dumps(value)  # scalars are written in TOML as in JSON

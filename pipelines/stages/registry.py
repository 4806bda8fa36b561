"""The classes of the stages, found by the stages' names so that no table has to list them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, cast

from pipelines.stages.base import Stage


def stage_class(name: str) -> type[Stage]:
    """The class of a stage: `TurnShape` of `pipelines.stages.turn_shape` for the stage `turn_shape`."""
    return cast(type[Stage], getattr(_module(name), _class_name(name)))


def config_class(name: str) -> type[Any]:
    """The dataclass of a stage's settings: `TurnShapeConfig` for the stage `turn_shape`."""
    return cast(type[Any], getattr(_module(name), f"{_class_name(name)}Config"))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.stages.{name}")


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))

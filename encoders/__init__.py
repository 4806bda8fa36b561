"""Encoders turn sound into continuous features. `load` makes an encoder from its name and its settings.

To add one, subclass `encoders.base.Encoder`, or `encoders.neural.NeuralEncoder` for a torch model. Then list the class
in `ENCODERS`, register it as an entry point of your package, or name its file in the recipe. See docs/encoders.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from encoders.base import Encoder
from runtime.extras import require

# Import paths instead of imports, so that the optional packages of an encoder are only imported when it is used.
ENCODERS = {
    "custom": "encoders.custom:Custom",
    "dac": "encoders.dac:Dac",
    "encodec": "encoders.encodec:Encodec",
    "hidden": "encoders.hidden:Hidden",
    "logmel": "encoders.logmel:LogMel",
    "longcat": "encoders.longcat:LongCat",
    "mimi": "encoders.mimi:Mimi",
    "oobleck": "encoders.oobleck:Oobleck",
    "pocket": "encoders.pocket:Pocket",
    "same": "encoders.same:Same",
    "vae": "encoders.vae:Vae",
    "vibevoice": "encoders.vibevoice:VibeVoice",
}
GROUP = "speechmill.encoders"
"""Entry point group in which other packages register encoders: `name = "package.module:Class"`."""
EXTRA = "latents"
"""The extra of this package that installs what our own encoders import."""


def load(name: str, settings: Mapping[str, Any]) -> Encoder:
    """Return the encoder `name`, with `settings` in place of its defaults.

    Args:
        name: One of `choices()`, or 'folder/file.py:ClassName'.
        settings: Values for fields of the encoder's `config_class`.

    Raises:
        ValueError: The name or a setting is unknown; the message lists the choices.
        MissingExtraError: A package that the encoder needs is not installed; the message says how to install it.

    >>> load("logmel", {"num_mels": 40}).dim
    40
    """
    encoder_class = find(name)
    require(f"encoder {name!r}", encoder_class.packages, EXTRA if name in ENCODERS else None)
    valid = [field.name for field in dataclasses.fields(encoder_class.config_class)]
    unknown = sorted(set(settings) - set(valid))
    if unknown:
        raise ValueError(
            f"encoder {name!r} has no setting {', '.join(map(repr, unknown))}; choose from: {', '.join(valid)}"
        )
    return encoder_class(encoder_class.config_class(**settings))


def choices() -> list[str]:
    """Return the names of our own encoders and of those that installed packages register, sorted."""
    return sorted({*ENCODERS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> type[Encoder]:
    """Return the encoder class with this name (see `load`). Our own names take precedence over entry points."""
    path, _, class_name = name.rpartition(":")
    if path.endswith(".py"):
        return _check_class(name, _import_from_file(Path(path).expanduser(), class_name))
    if name in ENCODERS:
        return _check_class(name, EntryPoint(name, ENCODERS[name], GROUP).load())
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise ValueError(
            f"unknown encoder {name!r}; choose from: {', '.join(choices())}; or name a file: 'folder/file.py:ClassName'"
        )
    if len({point.value for point in points}) > 1:
        raise ValueError(f"several packages register an encoder {name!r}: {', '.join(p.value for p in points)}")
    return _check_class(name, points[0].load())


def _import_from_file(path: Path, class_name: str) -> Any:
    if not path.is_file():
        raise ValueError(f"encoder '{path}:{class_name}': there is no file {path}")
    module_name = re.sub(r"\W", "_", f"speechmill_encoder_{path.resolve()}")
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look up their module here
        try:
            spec.loader.exec_module(module)
        except BaseException:  # otherwise the next call would find a half-initialised module
            del sys.modules[module_name]
            raise
    if not hasattr(module, class_name):
        raise ValueError(f"encoder '{path}:{class_name}': {path} has no {class_name}")
    return getattr(module, class_name)


def _check_class(name: str, encoder_class: Any) -> type[Encoder]:
    if not (isinstance(encoder_class, type) and issubclass(encoder_class, Encoder)):
        raise ValueError(f"encoder {name!r}: {encoder_class!r} is not a subclass of encoders.base.Encoder")
    return encoder_class

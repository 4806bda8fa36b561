"""Encoders turn sound into continuous features; `load` makes one from its name and its settings.

To add one, subclass `encoders.base.Encoder`, or `encoders.neural.NeuralEncoder` for a torch model, and name the class
below; from another package, by an entry point; or by the path of its file. See docs/encoders.md.
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

# Named, not imported: an encoder's optional packages are met only when that encoder is asked for.
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
"""Group of the entry points by which other packages bring encoders: `name = "package.module:Class"`."""
EXTRA = "latents"


def load(name: str, settings: Mapping[str, Any]) -> Encoder:
    """The encoder `name` with `settings` in place of its defaults.

    `name` is one of `choices()`, or 'folder/file.py:ClassName'. ValueError lists the choices where a name or a setting
    is unknown; MissingExtraError says how to install a package that the encoder needs.

    >>> load("logmel", {"num_mels": 40}).dim
    40
    """
    encoder_class = find(name)
    require(f"encoder {name!r}", encoder_class.packages, EXTRA if name in ENCODERS else None)
    known = [field.name for field in dataclasses.fields(encoder_class.config_class)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"encoder {name!r} has no setting {', '.join(map(repr, unknown))}; choose from: {', '.join(known)}"
        )
    return encoder_class(encoder_class.config_class(**settings))


def choices() -> list[str]:
    """Names of our encoders and of those that installed packages bring, sorted."""
    return sorted({*ENCODERS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> type[Encoder]:
    """The class behind a name, as `load` takes it; our own names come first."""
    path, _, class_name = name.rpartition(":")
    if path.endswith(".py"):
        return _checked(name, _from_file(Path(path).expanduser(), class_name))
    if name in ENCODERS:
        return _checked(name, EntryPoint(name, ENCODERS[name], GROUP).load())
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise ValueError(
            f"unknown encoder {name!r}; choose from: {', '.join(choices())}; or name a file: 'folder/file.py:ClassName'"
        )
    if len({point.value for point in points}) > 1:
        raise ValueError(f"several packages bring an encoder {name!r}: {', '.join(point.value for point in points)}")
    return _checked(name, points[0].load())


def _from_file(path: Path, class_name: str) -> Any:
    if not path.is_file():
        raise ValueError(f"encoder '{path}:{class_name}': there is no file {path}")
    module_name = re.sub(r"\W", "_", f"speechmill_encoder_{path.resolve()}")
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:  # the next call must not find a module that ran half way; raised on
            del sys.modules[module_name]
            raise
    if not hasattr(module, class_name):
        raise ValueError(f"encoder '{path}:{class_name}': {path} has no {class_name}")
    return getattr(module, class_name)


def _checked(name: str, found: Any) -> type[Encoder]:
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise ValueError(f"encoder {name!r}: {found!r} is no subclass of encoders.base.Encoder")
    return found

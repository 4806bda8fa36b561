"""Encoders turn sound into continuous features; `load` makes one from its name and its settings.

To add one, subclass `encoders.base.Encoder` and name the class below.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from encoders.base import Encoder

# Named, not imported: an encoder's optional packages are met only when that encoder is asked for.
ENCODERS = {"logmel": "encoders.logmel:LogMel", "vae": "encoders.vae:Vae"}


def load(name: str, settings: Mapping[str, Any]) -> Encoder:
    """The encoder `name` with `settings` in place of its defaults; ValueError lists the choices where one is unknown.

    >>> load("logmel", {"num_mels": 40}).dim
    40
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose from: {', '.join(sorted(ENCODERS))}")
    module, _, class_name = ENCODERS[name].partition(":")
    encoder_class: type[Encoder] = getattr(importlib.import_module(module), class_name)
    known = [field.name for field in dataclasses.fields(encoder_class.config_class)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"encoder {name!r} has no setting {', '.join(map(repr, unknown))}; choose from: {', '.join(known)}"
        )
    return encoder_class(encoder_class.config_class(**settings))

"""Phoneme recognisers, which turn sound into phones with times. Each has a module of its own and is found by name.

A recogniser is a class with the methods of `Recogniser`; `RECOGNISERS` says where it lies and what it needs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np

from manifests.install import install
from runtime.errors import MissingExtraError


class Phone(NamedTuple):
    """One recognised phone."""

    symbol: str
    """Symbol in the alphabet of the recogniser: IPA, or ARPAbet for pocketsphinx."""
    start_s: float
    """Start in seconds from the beginning of the sound."""
    end_s: float
    """End in seconds. With CTC, the position of a phone is reliable, but its length hardly is."""


class Recogniser(Protocol):
    """A loaded model. Its output for a sound depends on that sound alone, not on earlier ones."""

    sample_rate: int
    """Sample rate in Hz of its input."""

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """Load the weights at `path`, for one `language` and on a `device` where the recogniser offers these."""

    def phones(self, samples: np.ndarray) -> list[Phone]:
        """The phones of float32 (samples,), full scale 1, in order of time; empty if none are recognised."""
        ...


@dataclass(frozen=True)
class Kind:
    """The properties of a recogniser that are known before it is loaded."""

    module: str
    name: str
    """Module and name of its class."""
    extra: str
    """The extra of this project that installs its packages."""
    packages: tuple[str, ...]
    licence: str
    """Packages of the code that runs the model, and of the weights of the default model if there is one."""
    model: str | None = None
    """Default model; if there is none, the recipe must name one."""
    speaks: bool = False
    """Whether it has the setting `language`."""
    needs_language: bool = False
    on_gpu: bool = False
    timed: bool = True
    """Whether it estimates the times of phones."""


RECOGNISERS = {
    "hama": Kind("hama", "Hama", "phonemes", ("hama",), "Apache-2.0", "hama"),
    "pocketsphinx": Kind(
        "sphinx", "Sphinx", "phonemes", ("pocketsphinx",), "BSD-2-Clause", "pocketsphinx-en-us"
    ),
    "ctc": Kind("ctc", "Ctc", "phonemes-ctc", ("torch", "transformers"), "Apache-2.0", on_gpu=True),
    "allosaurus": Kind(
        "allosaurus", "Allosaurus", "phonemes-allosaurus", ("torch", "allosaurus"), "GPL-3.0", speaks=True
    ),
    "espeak": Kind(
        "espeak", "Espeak", "language", ("faster_whisper",), "MIT, and GPL-3.0 of the program espeak-ng",
        "whisper-base", speaks=True, needs_language=True, timed=False,
    ),
}  # fmt: skip
"""All recognisers, by the value of `recogniser` in `[annotate.phonemes]`."""


def load(name: str, path: Path, language: str | None, device: str) -> Recogniser:
    """Load the recogniser `name` with the weights at `path`. Raises MissingExtraError where its packages are
    missing."""
    kind = RECOGNISERS[name]
    try:
        made = getattr(importlib.import_module(f"{__name__}.{kind.module}"), kind.name)
        return cast(Recogniser, made(path, language, device))
    except ImportError as error:
        raise MissingExtraError(f"phonemes needs packages of {name}: {error}", install([kind.extra])) from error

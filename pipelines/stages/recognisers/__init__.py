"""Phoneme recognisers: sound of a stretch of speech to phones with times, each in a file of its own, found by name.

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
    """One phone that was heard."""

    symbol: str
    """In the recogniser's own alphabet: IPA, or ARPAbet for pocketsphinx."""
    start_s: float
    """Start in the sound that was given."""
    end_s: float
    """End in it. Recognisers with CTC output know where a phone is heard, and hardly how long it lasts."""


class Recogniser(Protocol):
    """A loaded model. What it says of a sound depends on that sound alone, never on what it heard before."""

    sample_rate: int
    """Rate, in Hz, of the sound that it takes."""

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """Load the weights at `path`, for one `language` and on a `device` where the recogniser offers these."""

    def phones(self, samples: np.ndarray) -> list[Phone]:
        """The phones of float32 (samples,), full scale 1, in order of time; none where nothing is understood."""
        ...


@dataclass(frozen=True)
class Kind:
    """What is known of a recogniser before it is loaded."""

    module: str
    name: str
    """Of its class."""
    extra: str
    """The extra of speechmill that brings its packages."""
    packages: tuple[str, ...]
    licence: str
    """Of the code that runs the model, and of the default model's weights where there is one."""
    model: str | None = None
    """Default model; where there is none the recipe must name one."""
    speaks: bool = False
    """Whether it takes a language."""
    needs_language: bool = False
    on_gpu: bool = False
    timed: bool = True
    """Whether it hears when each phone is spoken."""


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
"""Every recogniser by the name that `recogniser` in `[annotate.phonemes]` gives."""


def load(name: str, path: Path, language: str | None, device: str) -> Recogniser:
    """The recogniser `name` with the weights at `path`. Raises MissingExtraError where its packages are missing."""
    kind = RECOGNISERS[name]
    try:
        made = getattr(importlib.import_module(f"{__name__}.{kind.module}"), kind.name)
        return cast(Recogniser, made(path, language, device))
    except ImportError as error:
        raise MissingExtraError(f"phonemes needs packages of {name}: {error}", install([kind.extra])) from error

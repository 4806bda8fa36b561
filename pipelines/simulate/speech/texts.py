"""Texts for synthetic voices: one utterance per line, with alternatives as in `a {red|blue} one`."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np

from runtime.errors import SpeechmillError

ALTERNATIVES = re.compile(r"\{([^{}]*)\}")
MOST_BYTES, MOST_CHARACTERS = 16 << 20, 300
"""Limits of a file and of a line. An utterance is held in memory, and models accept about 500 symbols."""


def read_texts(path: str | None) -> tuple[str, ...]:
    """Read the lines of a file, or by default those that ship with speechmill, without empty ones.

    Raises SpeechmillError if the file cannot be read, has no line, or has a line that is too long.
    """
    if path is None:
        return _lines(resources.files(__package__).joinpath("texts_en.txt").read_text("utf-8"), "texts_en.txt")
    file = Path(path)
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise SpeechmillError(f"{path}: not a file of at most {MOST_BYTES >> 20} MiB", "give a text file")
    try:
        return _lines(file.read_text("utf-8"), path)
    except UnicodeDecodeError as error:
        raise SpeechmillError(f"{path}: {error}", "write it as UTF-8 text with an utterance on each line") from error


def _lines(text: str, name: str) -> tuple[str, ...]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MOST_CHARACTERS:
            what = f"{name}:{number}: {len(line)} characters, more than {MOST_CHARACTERS}"
            raise SpeechmillError(what, "split it into several lines")
        if line.strip():
            found.append(line.strip())
    if not found:
        raise SpeechmillError(f"{name}: has no line of text", "write an utterance on each line")
    return tuple(found)


def drawn(texts: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    """Draw `count` texts, each again only after all others. Its alternatives are drawn each time."""
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(texts)).tolist()
    return [
        ALTERNATIVES.sub(lambda found: str(rng.choice(found[1].split("|"))), texts[place]) for place in order[:count]
    ]

"""Local files that appear whole or not at all: written under another name beside their own, then renamed."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` at the end; an error leaves neither. Its suffix is that of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_text(path: Path) -> Iterator[IO[str]]:
    """The same as an open text file, whose lines end in a line feed; packed if `path` ends in .gz."""
    with whole(path) as unfinished, unfinished.open("wb") as raw:
        if path.suffix == ".gz":  # no name and no time inside: equal rows give equal bytes
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            with packed, io.TextIOWrapper(packed, "utf-8", newline="\n") as file:
                yield file
        else:
            with io.TextIOWrapper(raw, "utf-8", newline="\n") as file:
                yield file

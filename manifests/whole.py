"""Write local files atomically: under a temporary name in the same folder, which is then renamed."""

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
    """Give a temporary path that is renamed to `path` at the end, or deleted after an error; the suffix is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file that is written in the same way; it is compressed if `path` ends in .gz."""
    with whole(path) as unfinished, unfinished.open("wb") as raw:
        if path.suffix == ".gz":  # without a name and a time, so that equal rows give equal bytes
            compressed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            with compressed, io.TextIOWrapper(compressed, "utf-8", newline="\n") as file:
                yield file
        else:
            with io.TextIOWrapper(raw, "utf-8", newline="\n") as file:
                yield file

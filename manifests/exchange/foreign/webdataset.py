"""Read tars of WebDataset and Lhotse Shar: members whose names agree up to the first dot are one window.

The common keys of a `.json` member become columns.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from manifests.exchange.foreign.rows import Row, text, to_json

COLUMNS = ("start", "duration", "recording_id")


def window_rows(file: BinaryIO) -> Iterator[Row]:
    """Yield a row for each sample; `custom` has the sizes of its members in bytes and the other keys of its `.json`."""
    key: str | None = None
    sizes: dict[str, int] = {}
    stated: dict[str, Any] = {}
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            if key is not None and key != folder + slash + stem:
                yield _row(key, sizes, stated)
                sizes, stated = {}, {}
            key = folder + slash + stem
            sizes[kind] = member.size
            if kind == "json" and (contents := tar.extractfile(member)):
                read = json.loads(contents.read())
                stated = read if isinstance(read, dict) else {"json": read}
    if key is not None:
        yield _row(key, sizes, stated)


def _row(key: str, sizes: dict[str, int], stated: dict[str, Any]) -> Row:
    if "array" in stated and "temporal_dim" in stated:  # Lhotse's TemporalArray
        frames = stated["array"]["shape"][stated["temporal_dim"]]
        stated = stated | {"duration": round(frames * stated["frame_shift"], 8)}
    custom = {name: value for name, value in stated.items() if name not in COLUMNS}
    return {
        "window_id": key,
        "recording_id": text(stated.get("recording_id")),
        "start_s": _number(stated.get("start")),
        "duration_s": _number(stated.get("duration")),
        "segments": [],
        "custom": to_json(custom | {"members": sizes}),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

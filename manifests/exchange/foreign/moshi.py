"""Manifests of moshi-finetune as rows and back: a JSON object a line with the path and the duration of a recording.

Its two channels hold a speaker each: left the model, right the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.exchange.foreign.rows import Row, beyond, rest

FORM = "moshi"


def is_recording(line: Mapping[str, Any]) -> bool:
    return "path" in line and "duration" in line and not {"sources", "id", "audio_filepath"} & line.keys()


def recording_row(line: Mapping[str, Any]) -> Row:
    """A recording; its id is its path, the only name that a line gives it."""
    row: Row = dict.fromkeys(("sample_rate", "num_samples", "custom"))
    row |= {"recording_id": line["path"], "uris": [line["path"]], "duration_s": float(line["duration"]), "channels": 2}
    return row | {"rest": beyond(line, recording(row), FORM)}


def recording(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"path": row["uris"][0], "duration": row["duration_s"]} | rest(row, FORM)

"""Read and write manifests of moshi-finetune: a JSON object on each line with path and duration of a recording.

Its two channels have one speaker each: the model is left, the user right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.exchange.foreign.rows import Row, extra_fields, rest

FORM = "moshi"


def is_recording(line: Mapping[str, Any]) -> bool:
    return "path" in line and "duration" in line and not {"sources", "id", "audio_filepath"} & line.keys()


def recording_row(line: Mapping[str, Any]) -> Row:
    """The row of a recording; its id is its path, since a line has no other name."""
    row: Row = dict.fromkeys(("sample_rate", "num_samples", "custom"))
    row |= {"recording_id": line["path"], "uris": [line["path"]], "duration_s": float(line["duration"]), "channels": 2}
    return row | {"rest": extra_fields(line, recording(row), FORM)}


def recording(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"path": row["uris"][0], "duration": row["duration_s"]} | rest(row, FORM)

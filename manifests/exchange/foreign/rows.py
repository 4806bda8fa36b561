"""The tables into which all manifests are read: recordings, segments of speech, and windows (cuts of Lhotse).

`custom` holds attributes that people attached, in every format that has a place for them. `rest` holds, by the name of
a format, its fields that have no column. They are written back to that format, so reading and writing lose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from manifests.schemas import field

Row = dict[str, Any]

CUSTOM = [
    field("custom", pa.string(), "JSON object of attributes that people attached"),
    field("rest", pa.string(), "JSON object by format: what it states beyond these columns"),
]

RECORDINGS = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("uris", pa.list_(pa.string()), "names of its files"),
        field("sample_rate", pa.int32(), "sampling rate", "Hz"),
        field("num_samples", pa.int64(), "samples per channel", "sample"),
        field("duration_s", pa.float64(), "duration", "s"),
        field("channels", pa.int32(), "number of channels"),
        *CUSTOM,
    ]
)
SEGMENTS = pa.schema(
    [
        field("segment_id", pa.string(), "id of the segment", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("start_s", pa.float64(), "start in the recording; inside a window, from its start", "s"),
        field("duration_s", pa.float64(), "length; null for all of the recording", "s"),
        field("channels", pa.list_(pa.int32()), "channels on which it is heard, from 0"),
        field("speaker", pa.string(), "speaker label"),
        field("language", pa.string(), "language"),
        field("text", pa.string(), "what is said"),
        *CUSTOM,
    ]
)
WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "id of the window", nullable=False),
        field("recording_id", pa.string(), "id of the recording; null for a mixture"),
        field("start_s", pa.float64(), "start in the recording", "s"),
        field("duration_s", pa.float64(), "length", "s"),
        field("channels", pa.list_(pa.int32()), "channels, from 0"),
        field("segments", pa.list_(pa.struct(list(SEGMENTS))), "segments inside the window, from its start"),
        *CUSTOM,
    ]
)
TABLES = {"recordings": RECORDINGS, "segments": SEGMENTS, "windows": WINDOWS}


class ManifestError(ValueError):
    """A manifest cannot be read or written; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def extra_fields(stated: Mapping[str, Any], written: Mapping[str, Any], form: str) -> str | None:
    """The value of `rest` for a row: fields of `stated` that `written`, made from its columns, does not have equal."""
    left = {key: value for key, value in stated.items() if key not in written or written[key] != value}
    return to_json({form: left}) if left else None


def rest(row: Mapping[str, Any], form: str) -> dict[str, Any]:
    """The extra fields in `rest` that belong to a format."""
    kept: dict[str, Any] = json.loads(row["rest"]).get(form, {}) if row.get("rest") else {}
    return kept


def custom(row: Mapping[str, Any]) -> Any:
    return json.loads(row["custom"]) if row.get("custom") else None


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def text(value: Any) -> str | None:
    """The value of a text column; a value of another type becomes JSON, and `rest` keeps the original."""
    return value if value is None or isinstance(value, str) else to_json(value)

"""Columns that several tables share, and how a column is described.

Each column's unit and description are kept in the metadata of its Arrow field.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def field(name: str, kind: pa.DataType, description: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


LABELS = field(
    "labels",
    pa.map_(pa.string(), pa.string()),
    "labels that users have given to the recording, with names of their own",
)

FAILURE = [
    field("status", pa.string(), "'ok' or 'failed'", nullable=False),
    field("error_type", pa.string(), "exception class of the failure; null if there is none"),
    field("error", pa.string(), "message of the failure"),
    field("remedy", pa.string(), "what to do about the failure"),
]

BASE = [field("recording_id", pa.string(), "id of the recording", nullable=False), *FAILURE]

BASE_NAMES = [column.name for column in BASE]

SEGMENT = pa.struct(
    [
        field("track", pa.int32(), "track on which it was measured; 0 unless each channel is a speaker"),
        field("start_s", pa.float64(), "start", "s"),
        field("end_s", pa.float64(), "end", "s"),
    ]
)

TURN = pa.struct(
    [
        field("speaker", pa.string(), "speaker label, unique within the recording"),
        field("track", pa.int32(), "track on which the turn was found"),
        field("start_s", pa.float64(), "start", "s"),
        field("end_s", pa.float64(), "end", "s"),
        field("confidence", pa.float64(), "expected share of the turn, 0 to 1, in which that speaker does speak"),
    ]
)


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of `schema`. Asserts that the schema has every key of the rows."""
    names = set(schema.names)
    for row in rows:
        assert names >= row.keys(), f"columns not in the schema: {sorted(row.keys() - names)}"
    return pa.Table.from_pylist(rows, schema=schema)

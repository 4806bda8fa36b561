"""The tables of changes that users made: labels and withdrawn recordings."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import field

CHANGES = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("name", pa.string(), "'source', 'licence', 'language_hint' or the name of a label", nullable=False),
        field("old", pa.string(), "value before the change; null if there was none"),
        field("new", pa.string(), "value after the change; null if it was removed"),
        field("asked", pa.string(), "the arguments of the command that made the change", nullable=False),
    ]
)

REMOVED = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording that was withdrawn", nullable=False),
        field("sha256", pa.string(), "sha256 of its bytes; null if they were never read"),
        field("pcm_sha256", pa.string(), "sha256 of its samples, as in `signal`; null if copies of it remain"),
        field("reason", pa.string(), "why it was withdrawn"),
    ]
)

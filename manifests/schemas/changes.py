"""The tables of what was changed by hand: labels and withdrawn recordings."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import field

CHANGES = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("name", pa.string(), "source, licence, language_hint, or a label's own name", nullable=False),
        field("old", pa.string(), "the value before; null where there was none"),
        field("new", pa.string(), "the value from then on; null where it was taken away"),
        field("asked", pa.string(), "what was asked for, as words of the command", nullable=False),
    ]
)

REMOVED = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording that was withdrawn", nullable=False),
        field("sha256", pa.string(), "sha256 of its bytes; null where they were never read"),
        field("pcm_sha256", pa.string(), "hash of its samples, as that of `signal`; null where copies of it stay"),
        field("reason", pa.string(), "why it was withdrawn"),
    ]
)

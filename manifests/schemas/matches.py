"""The table of recordings that share sound."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import field

MATCHES = pa.schema(
    [
        field("recording_id", pa.string(), "id of a recording of this batch", nullable=False),
        field("other_id", pa.string(), "id of the other recording, which was ingested earlier", nullable=False),
        field("start_s", pa.float64(), "start of the common sound in the recording", "s", nullable=False),
        field("end_s", pa.float64(), "end of the common sound in the recording", "s", nullable=False),
        field("other_start_s", pa.float64(), "start of the common sound in the other recording", "s", nullable=False),
        field("other_end_s", pa.float64(), "end of the common sound in the other recording", "s", nullable=False),
        field("speed", pa.float64(), "speed of the recording relative to the other one", nullable=False),
        field(
            "confidence",
            pa.float64(),
            "share, 0 to 1, of the landmarks in the common sound that the other recording has too",
            nullable=False,
        ),
        field(
            "evidence",
            pa.float64(),
            "evidence that the sound is the same: minus the base-10 logarithm of a bound on the probability that so "
            "many landmarks agree by chance",
            nullable=False,
        ),
        field(
            "share",
            pa.float64(),
            "share, 0 to 1, of the recording's landmarks that are in the common sound",
            nullable=False,
        ),
        field(
            "other_share",
            pa.float64(),
            "share, 0 to 1, of the other recording's landmarks that are in the common sound",
            nullable=False,
        ),
    ]
)
"""One row per segment of common sound, ordered by recording, other recording and time."""

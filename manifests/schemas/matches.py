"""The table of recordings that share sound."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import field

MATCHES = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording, of those of this batch", nullable=False),
        field("other_id", pa.string(), "id of a recording that was met before it", nullable=False),
        field("start_s", pa.float64(), "start of the sound that both share, in the recording", "s", nullable=False),
        field("end_s", pa.float64(), "its end", "s", nullable=False),
        field("other_start_s", pa.float64(), "its start in the other one", "s", nullable=False),
        field("other_end_s", pa.float64(), "its end in the other one", "s", nullable=False),
        field("speed", pa.float64(), "how much faster the recording runs than the other one", nullable=False),
        field("confidence", pa.float64(), "share of its landmarks, 0 to 1, that the other one has too", nullable=False),
        field(
            "evidence",
            pa.float64(),
            "logarithm to the base of 10 of how improbable that is of different sound",
            nullable=False,
        ),
        field("share", pa.float64(), "share of the recording's landmarks, 0 to 1, that lie in it", nullable=False),
        field("other_share", pa.float64(), "share of the other one's landmarks that lie in it", nullable=False),
    ]
)
"""One row a stretch of sound, in the order of recordings, of others and of time."""

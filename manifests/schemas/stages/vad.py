"""The stage `vad`: where somebody speaks."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, SEGMENT, field
from manifests.schemas.row_checks import ANNOTATE, SLACK_S, RowCheck, span_outside, unknown_track
from manifests.schemas.spec import StageSpec

VAD = pa.schema(
    [
        *BASE,
        field("segments", pa.list_(SEGMENT), "segments of speech, ordered by track and time"),
        field("speech_s", pa.float64(), "time in which somebody speaks on any track", "s"),
        field("speech_share", pa.float64(), "share of the recording, 0 to 1, in which somebody speaks on any track"),
        field("speech_per_track_s", pa.list_(pa.float64()), "time with speech on each track", "s"),
        field(
            "leaked_per_track_s",
            pa.list_(pa.float64()),
            "time on each track with speech that is only the leakage of another track, which is in no stretch",
            "s",
        ),
    ]
)

SPEC = StageSpec(
    order=20,
    summary="Where somebody speaks.",
    schema=VAD,
    headline=("speech_share",),
    checks=(
        RowCheck(
            span_outside("segments", "duration_s"),
            "a segment of speech that is empty or not inside the recording",
            ANNOTATE,
        ),
        RowCheck(
            unknown_track("segments"), "a segment of speech on a track that the recording does not have", ANNOTATE
        ),
        RowCheck(f"speech_s < 0 OR speech_s > duration_s + {SLACK_S}", "more speech than sound", ANNOTATE),
    ),
    cpu_hours=0.002,
    listed=("segments",),
)

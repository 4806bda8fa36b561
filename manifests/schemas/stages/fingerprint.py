"""The stage `fingerprint`: landmarks by which copies of a sound are found."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck
from manifests.schemas.spec import StageSpec

FINGERPRINT = pa.schema(
    [
        *BASE,
        field(
            "times_ms",
            pa.list_(pa.int32()),
            "times at which the loudness rises or falls most steeply, about six per second of speech, in order",
            "ms",
        ),
        field(
            "landmarks",
            pa.list_(pa.int64()),
            "63 bits that describe the second of sound around each of these times; the bits of copies differ in few "
            "places",
        ),
        field("landmark_count", pa.int32(), "number of landmarks of the recording"),
    ]
)

SPEC = StageSpec(
    order=80,
    summary="Landmarks by which copies of a sound are found ([duplicates.md](duplicates.md)).",
    schema=FINGERPRINT,
    headline=("landmark_count",),
    checks=(
        RowCheck(
            "len(times_ms) <> len(landmarks) OR len(landmarks) <> landmark_count", "landmarks without times", ANNOTATE
        ),
        RowCheck("times_ms <> list_sort(times_ms)", "landmarks that are not in order of time", ANNOTATE),
        RowCheck("list_max(times_ms) > 1000 * duration_s + 16", "a landmark after the end of the recording", ANNOTATE),
    ),
    cpu_hours=0.0004,
    bulky=("times_ms", "landmarks"),
)

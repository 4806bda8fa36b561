"""The stage `phonemes`: which phones are spoken."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck, span_outside, unknown_track
from manifests.schemas.spec import StageSpec

STRETCH = pa.struct(
    [
        field("track", pa.int32(), "track"),
        field("start_s", pa.float64(), "start of the segment", "s"),
        field("end_s", pa.float64(), "end of the segment", "s"),
        field("phones", pa.list_(pa.string()), "symbols of the recognised phones, in order of time"),
        field("starts_ms", pa.list_(pa.int32()), "start of each phone in the recording", "ms"),
        field("ends_ms", pa.list_(pa.int32()), "end of each phone in the recording", "ms"),
    ]
)

PHONEMES = pa.schema(
    [
        *BASE,
        field("stretches", pa.list_(STRETCH), "the segments of speech of the stage vad, with their phones"),
        field(
            "recogniser",
            pa.string(),
            "name of the phoneme recogniser, with the hash of its weights and settings; phones of different "
            "recognisers cannot be compared",
        ),
        field("phones", pa.int64(), "number of phones that were recognised in the speech of all tracks"),
        field("phones_per_s", pa.float64(), "phones per second of speech, over all tracks; null without speech", "1/s"),
        field(
            "phones_outside",
            pa.int64(),
            "number of phones that were recognised around the segments of speech and not counted",
        ),
    ]
)

SPEC = StageSpec(
    order=60,
    summary="Which phones are spoken; [studies.md](studies.md) uses them to compare collections.",
    schema=PHONEMES,
    headline=("phones_per_s",),
    checks=(
        RowCheck(
            span_outside("stretches", "duration_s"),
            "a segment of speech that is empty or not inside the recording",
            ANNOTATE,
        ),
        RowCheck(
            unknown_track("stretches"), "a segment of speech on a track that the recording does not have", ANNOTATE
        ),
        RowCheck(
            "phones <> coalesce(list_sum(list_transform(stretches, lambda s: len(s.phones))), 0)",
            "a number of phones that differs from that of its segments",
            ANNOTATE,
        ),
        RowCheck(
            "len(list_filter(stretches, lambda s: len(s.phones) <> len(s.starts_ms) "
            "OR len(s.phones) <> len(s.ends_ms))) > 0",
            "phones without times",
            ANNOTATE,
        ),
    ),
    cpu_hours=0.1,
    listed=("stretches",),
)

"""The tables that `select` writes: windows and verdicts."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import LABELS, TURN, field

PASSAGE = pa.struct(
    [
        field("start_s", pa.float64(), "start in the recording, in steps of a quarter of a second", "s"),
        field("end_s", pa.float64(), "end in the recording", "s"),
        field(
            "repeats",
            pa.int32(),
            "number of recordings that contain the passage, including this one; copies count as one",
        ),
        field("repeated", pa.bool_(), "whether one of these recordings was ingested before this one"),
    ]
)

WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "recording id, a dash, start in ms", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "split; duplicates of a recording are in the same split", nullable=False),
        field("start_s", pa.float64(), "start in the recording", "s", nullable=False),
        field(
            "duration_s", pa.float64(), "length of the window: its context and its continuation", "s", nullable=False
        ),
        field("context_s", pa.float64(), "length of the context with which the window begins", "s", nullable=False),
        field("tracks", pa.int32(), "number of tracks, which are encoded separately"),
        field("speech_s", pa.float64(), "time in the window in which somebody speaks on any track", "s"),
        field("speech_share", pa.float64(), "share of the window, 0 to 1, in which somebody speaks on any track"),
        field("num_speakers", pa.int32(), "number of different speakers in the window"),
        field(
            "overlap_share",
            pa.float64(),
            "share, 0 to 1, of the window's speaking time in which two or more speakers talk at once",
        ),
        field("turn_count", pa.int32(), "number of turns that touch the window"),
        field(
            "repeated_share",
            pa.float64(),
            "share of the window, 0 to 1, whose sound also occurs in another kept recording that was ingested earlier; "
            "null if recordings were not matched",
        ),
        field(
            "repeats",
            pa.int32(),
            "number of recordings that contain at least half of the window's sound, including this one; 1 if no other "
            "one does; null if recordings were not matched",
        ),
        field("language", pa.string(), "language of the recording"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        LABELS,
        field("turns", pa.list_(TURN), "turns in the window; their times count from its start"),
        field("kept", pa.bool_(), "whether the window satisfies every rule", nullable=False),
        field("reasons", pa.list_(pa.string()), "names of all rules that the window breaks", nullable=False),
    ]
)

REPEATS = [
    field(
        "repeated_share",
        pa.float64(),
        "share of the recording, 0 to 1, whose sound also occurs in another one that was ingested earlier, kept or "
        "not; null if recordings were not matched",
    ),
    field(
        "repeats",
        pa.int32(),
        "number of recordings that contain its most frequent passage, including this one; 1 if it shares no passage "
        "with another one; null if recordings were not matched",
    ),
]
"""Columns of verdicts that rules for recordings can use, because they are computed before any rule is applied."""

VERDICTS = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("verdict", pa.string(), "'kept', 'rejected' or 'failed'", nullable=False),
        field(
            "reasons",
            pa.list_(pa.string()),
            "names of all rules that the recording breaks, or the stages and types of its failures",
            nullable=False,
        ),
        field(
            "duration_s",
            pa.float64(),
            "duration of the decoded sound; if nothing was decoded, the claimed duration or 0",
            "s",
        ),
        field("windows", pa.int64(), "number of windows that were cut from the recording"),
        field("windowed_s", pa.float64(), "time that is in a window", "s"),
        field("remainder_s", pa.float64(), "time of a kept recording that is in no window", "s"),
        field(
            "duplicate_of",
            pa.string(),
            "id of the recording with the same samples or the same sound that is kept instead",
        ),
        *REPEATS,
        field(
            "passages",
            pa.list_(PASSAGE),
            "passages of the recording that occur in other recordings too, in order of time",
        ),
        field("split", pa.string(), "split; duplicates of a recording are in the same split"),
    ]
)

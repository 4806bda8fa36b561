"""The tables that `select` writes: windows and verdicts."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import LABELS, TURN, field

PASSAGE = pa.struct(
    [
        field("start_s", pa.float64(), "start in the recording, in steps of a quarter of a second", "s"),
        field("end_s", pa.float64(), "end in the recording", "s"),
        field("repeats", pa.int32(), "number of recordings that hold it, this one among them; copies count as one"),
        field("repeated", pa.bool_(), "whether one of these stands before this recording"),
    ]
)

WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "recording id, a dash, start in ms", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "split drawn by duplicate group", nullable=False),
        field("start_s", pa.float64(), "start in the recording", "s", nullable=False),
        field(
            "duration_s", pa.float64(), "length of the window: its context and its continuation", "s", nullable=False
        ),
        field("context_s", pa.float64(), "length of the context with which the window begins", "s", nullable=False),
        field("tracks", pa.int32(), "number of tracks that are encoded apart"),
        field("speech_s", pa.float64(), "time in the window in which somebody speaks on any track", "s"),
        field("speech_share", pa.float64(), "share of the window, 0 to 1, in which somebody speaks on any track"),
        field("num_speakers", pa.int32(), "number of different speakers heard in the window"),
        field(
            "overlap_share",
            pa.float64(),
            "share, 0 to 1, of the window's time with any speaker in which two or more talk at once",
        ),
        field("turn_count", pa.int32(), "number of turns that touch the window"),
        field(
            "repeated_share",
            pa.float64(),
            "share of the window, 0 to 1, whose sound also lies in another kept recording that was met before it; "
            "null where nothing was matched",
        ),
        field(
            "repeats",
            pa.int32(),
            "number of recordings that hold at least half of the window's sound, this one among them: 1 where it is "
            "heard nowhere else; null where nothing was matched",
        ),
        field("language", pa.string(), "language of the recording"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        LABELS,
        field("turns", pa.list_(TURN), "turns inside the window, seconds from its start"),
        field("kept", pa.bool_(), "whether every rule holds", nullable=False),
        field("reasons", pa.list_(pa.string()), "every rule that does not", nullable=False),
    ]
)

REPEATS = [
    field(
        "repeated_share",
        pa.float64(),
        "share of the recording, 0 to 1, whose sound also lies in another one that was met before it, whatever the "
        "verdict on that one; null where nothing was matched",
    ),
    field(
        "repeats",
        pa.int32(),
        "number of recordings that hold its most repeated passage, this one among them: 1 where no other "
        "one holds any; null where nothing was matched",
    ),
]
"""Columns of verdicts that rules for recordings can read, since they are known before any rule is applied."""

VERDICTS = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("verdict", pa.string(), "kept | rejected | failed", nullable=False),
        field(
            "reasons", pa.list_(pa.string()), "every rule that fails, or stage and type of the failure", nullable=False
        ),
        field("duration_s", pa.float64(), "decoded duration; claimed, else 0, where nothing was decoded", "s"),
        field("windows", pa.int64(), "windows cut"),
        field("windowed_s", pa.float64(), "sound inside windows", "s"),
        field("remainder_s", pa.float64(), "sound of a kept recording outside any window", "s"),
        field("duplicate_of", pa.string(), "recording with the same samples, or the same sound, that is kept instead"),
        *REPEATS,
        field("passages", pa.list_(PASSAGE), "its stretches that other recordings hold, in order of time"),
        field("split", pa.string(), "split drawn by duplicate group"),
    ]
)

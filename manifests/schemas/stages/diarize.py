"""The stage `diarize`: who speaks when, and how the speakers take turns."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, TURN, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck, span_outside, unknown_track
from manifests.schemas.spec import StageSpec

TURN_TAKING = [
    field(
        "second_speaker_share",
        pa.float64(),
        "share, 0 to 0.5, of the second most talkative speaker in the speaking time of all; null with fewer than two "
        "speakers, like all columns about the floor",
    ),
    field(
        "floor_transfers_per_min",
        pa.float64(),
        "changes of the speaker who holds the floor, per minute of recording; an utterance that lies entirely within "
        "that of another speaker does not take the floor",
        "1/min",
    ),
    field("gaps_per_min", pa.float64(), "changes of the floor without overlap, per minute of recording", "1/min"),
    field(
        "overlaps_per_min",
        pa.float64(),
        "places where two or more speakers talk at once, whether or not the floor changes, per minute of recording",
        "1/min",
    ),
    field(
        "backchannels_per_min",
        pa.float64(),
        "utterances of 0.25 to 1 s within an utterance of another speaker, per minute of recording",
        "1/min",
    ),
    field(
        "interruptions_per_min",
        pa.float64(),
        "changes of the floor at which the previous speaker goes on for 0.2 to 1 s, per minute of recording; whether "
        "that speaker had finished cannot be known from times alone",
        "1/min",
    ),
    field("overlapped_transfers", pa.float64(), "share, 0 to 1, of the changes of the floor that overlap"),
    field(
        "offset_median_s",
        pa.float64(),
        "median of the floor transfer offsets: the gap at each change of the floor, or the overlap as a negative "
        "number; null if the floor never changes",
        "s",
    ),
    field(
        "offset_sd_s", pa.float64(), "standard deviation of the floor transfer offsets, which long lapses increase", "s"
    ),
    field("offset_iqr_s", pa.float64(), "interquartile range of the floor transfer offsets", "s"),
    field("offsets_s", pa.list_(pa.float64()), "floor transfer offset of each change of the floor, in order", "s"),
]

DIARIZE = pa.schema(
    [
        *BASE,
        field("turns", pa.list_(TURN), "turns of speakers, which may overlap, in order of their starts"),
        field(
            "method",
            pa.string(),
            "how speakers were found: 'channels' if each channel is one side of a conversation and is processed "
            "separately, else 'pipeline'",
        ),
        field("num_speakers", pa.int32(), "number of different speakers"),
        field(
            "speakers_confidence",
            pa.float64(),
            "probability, 0 to 1, that the number of speakers is right, over all sides if each channel is one; null if "
            "there is no speaker or the pipeline does not compute it",
        ),
        field(
            "speaker_confidence",
            pa.map_(pa.string(), pa.float64()),
            "mean confidence of each speaker's turns, weighted by their length; null if turns have no confidence",
        ),
        field("speaker_s", pa.map_(pa.string(), pa.float64()), "speaking time of each speaker", "s"),
        field("overlap_s", pa.float64(), "time in which two or more speakers talk at once", "s"),
        field(
            "overlap_share",
            pa.float64(),
            "share, 0 to 1, of the speaking time in which two or more speakers talk at once",
        ),
        field(
            "turn_count",
            pa.int32(),
            "number of turns; turns of a speaker count as one if the pause between them is under 0.5 s and nobody else "
            "talks in it",
        ),
        field("turns_per_min", pa.float64(), "turns per minute of recording; high if speakers change often", "1/min"),
        field("longest_monologue_s", pa.float64(), "longest time for which one speaker holds the floor", "s"),
        *TURN_TAKING,
    ]
)

SPEC = StageSpec(
    order=30,
    summary="Who speaks when ([diarization.md](diarization.md)).",
    schema=DIARIZE,
    headline=(
        "num_speakers",
        "overlap_share",
        "longest_monologue_s",
        "second_speaker_share",
        "offset_median_s",
        "gaps_per_min",
        "overlaps_per_min",
        "backchannels_per_min",
        "interruptions_per_min",
    ),
    checks=(
        RowCheck(span_outside("turns", "duration_s"), "a turn that is empty or not inside the recording", ANNOTATE),
        RowCheck(unknown_track("turns"), "a turn on a track that the recording does not have", ANNOTATE),
        RowCheck("len(list_filter(turns, lambda s: s.speaker IS NULL)) > 0", "a turn without a speaker", ANNOTATE),
        RowCheck(
            "num_speakers <> len(list_distinct(list_transform(turns, lambda s: s.speaker)))",
            "a number of speakers that differs from its turns",
            ANNOTATE,
        ),
        RowCheck(
            "second_speaker_share NOT BETWEEN 0 AND 0.5", "a second speaker who speaks more than the first", ANNOTATE
        ),
        RowCheck(
            "(offset_median_s IS NULL) <> (len(offsets_s) = 0)",
            "offsets without their median, or a median without offsets",
            ANNOTATE,
        ),
    ),
    cpu_hours=0.071,
    listed=("turns", "offsets_s"),
)

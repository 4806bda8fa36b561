"""The stage `prosody`: pitch, speaking rate, pauses and loudness of each speaker."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, SLACK_S, RowCheck, unknown_track
from manifests.schemas.spec import StageSpec

VOICE_COLUMNS = [
    field(
        "pitch_median_hz",
        pa.float64(),
        "median pitch of the voiced speech; the value of a recording, here and in the columns below, is the mean "
        "over its speakers, weighted by their speech",
        "Hz",
    ),
    field(
        "pitch_range_semitones",
        pa.float64(),
        "range of the pitch from its 5th to its 95th percentile, without octave errors",
        "semitone",
    ),
    field(
        "pitch_sd_semitones",
        pa.float64(),
        "standard deviation of the pitch, which is low for monotonous speech",
        "semitone",
    ),
    field("voiced_share", pa.float64(), "share of the speech, 0 to 1, that has a pitch"),
    field(
        "syllables_per_s",
        pa.float64(),
        "speaking rate: syllable nuclei (voiced peaks of the level) per second of speech without pauses",
        "1/s",
    ),
    field(
        "pauses_per_min",
        pa.float64(),
        "silences of 0.2 to 3 s within the speech of one speaker, in which nobody else talks, per minute of speech and "
        "pauses",
        "1/min",
    ),
    field("pause_median_s", pa.float64(), "median length of these pauses; null if there are none", "s"),
    field("pause_share", pa.float64(), "share, 0 to 1, of these pauses in the time of speech and pauses"),
    field(
        "loudness_range_lu",
        pa.float64(),
        "difference of the 95th and the 10th percentile of the momentary loudness (0.4 s, EBU R128) of the speech",
        "LU",
    ),
]

VOICE = pa.struct(
    [
        field(
            "speaker", pa.string(), "speaker as in the turns of the stage diarize; null if tracks are measured instead"
        ),
        field("track", pa.int32(), "track"),
        field("alone_s", pa.float64(), "length of the speaker's speech in which nobody else talks", "s"),
        *VOICE_COLUMNS,
    ]
)

PROSODY = pa.schema(
    [
        *BASE,
        field("voices", pa.list_(VOICE), "measures of each speaker, from speech in which nobody else talks"),
        field("alone_s", pa.float64(), "length of the speech in which only one speaker talks, over all speakers", "s"),
        *VOICE_COLUMNS,
    ]
)

SPEC = StageSpec(
    order=70,
    summary="Pitch, speaking rate, pauses and loudness of each speaker ([talk.md](talk.md)).",
    schema=PROSODY,
    headline=(
        "pitch_median_hz",
        "pitch_sd_semitones",
        "syllables_per_s",
        "pause_share",
        "loudness_range_lu",
    ),
    checks=(
        RowCheck(unknown_track("voices"), "a voice on a track that the recording does not have", ANNOTATE),
        RowCheck(f"alone_s < 0 OR alone_s > duration_s * tracks + {SLACK_S}", "more speech than sound", ANNOTATE),
        RowCheck(
            "voiced_share NOT BETWEEN 0 AND 1 OR pause_share NOT BETWEEN 0 AND 1", "a share outside 0 to 1", ANNOTATE
        ),
    ),
    cpu_hours=0.013,
    listed=("voices",),
)

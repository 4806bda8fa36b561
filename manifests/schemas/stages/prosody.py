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
        "median pitch of the voiced speech; of a recording, as the other columns of prosody, the mean over its "
        "speakers weighted by their speech",
        "Hz",
    ),
    field(
        "pitch_range_semitones",
        pa.float64(),
        "range of the pitch, from its 5th to its 95th percentile, octave errors left out",
        "semitone",
    ),
    field(
        "pitch_sd_semitones",
        pa.float64(),
        "standard deviation of the pitch: low where somebody speaks monotonously",
        "semitone",
    ),
    field("voiced_share", pa.float64(), "share of the speech, 0 to 1, that has a pitch"),
    field(
        "syllables_per_s",
        pa.float64(),
        "speaking rate: syllable nuclei, which are voiced peaks of the level, per second of speech without pauses",
        "1/s",
    ),
    field(
        "pauses_per_min",
        pa.float64(),
        "silences of 0.2 to 3 s between stretches of speech of one speaker, in which nobody else is heard, per minute "
        "of speech and pauses",
        "1/min",
    ),
    field("pause_median_s", pa.float64(), "median length of these pauses; null without any", "s"),
    field("pause_share", pa.float64(), "share, 0 to 1, of these pauses in speech and pauses"),
    field(
        "loudness_range_lu",
        pa.float64(),
        "from the 10th to the 95th percentile of the momentary loudness (0.4 s, EBU R128) of the speech",
        "LU",
    ),
]

VOICE = pa.struct(
    [
        field("speaker", pa.string(), "speaker as in the turns of diarize; null where tracks are measured"),
        field("track", pa.int32(), "analysis track"),
        field("alone_s", pa.float64(), "speech in which nobody else is heard", "s"),
        *VOICE_COLUMNS,
    ]
)

PROSODY = pa.schema(
    [
        *BASE,
        field("voices", pa.list_(VOICE), "what was measured of each speaker where nobody else is heard"),
        field("alone_s", pa.float64(), "speech in which one speaker alone is heard, of all speakers", "s"),
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

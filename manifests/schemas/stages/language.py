"""The stage `language`: which languages are spoken."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck, span_outside
from manifests.schemas.spec import StageSpec

VOTE = pa.struct(
    [
        field("track", pa.int32(), "track"),
        field("start_s", pa.float64(), "start of the window", "s"),
        field("end_s", pa.float64(), "end of the window", "s"),
        field("speech_s", pa.float64(), "length of the speech that this vote represents", "s"),
        field("language", pa.string(), "language of the window in the most probable sequence of languages, ISO 639-1"),
        field("probability", pa.float64(), "probability of that language from this window alone"),
    ]
)

TRACK_LANGUAGE = pa.struct(
    [
        field("track", pa.int32(), "track"),
        field("speech_s", pa.float64(), "length of the speech on the track", "s"),
        field("language", pa.string(), "language with the largest share of its speech, ISO 639-1"),
        field("shares", pa.map_(pa.string(), pa.float64()), "share of its speech in each language; all sum to 1"),
    ]
)

LANGUAGE = pa.schema(
    [
        *BASE,
        field(
            "language",
            pa.string(),
            "language with the largest share of the speech, as an ISO 639-1 code; null without speech",
        ),
        field(
            "language_confidence",
            pa.float64(),
            "mean probability, 0 to 1, of that language from each window alone, weighted by the speech of the windows",
        ),
        field(
            "language_shares", pa.map_(pa.string(), pa.float64()), "share of the speech in each language; all sum to 1"
        ),
        field("track_languages", pa.list_(TRACK_LANGUAGE), "languages of each track that has speech"),
        field("votes", pa.list_(VOTE), "the windows that were classified, each with its language"),
    ]
)

SPEC = StageSpec(
    order=40,
    summary="Which languages are spoken ([languages.md](languages.md)).",
    schema=LANGUAGE,
    headline=("language_confidence",),
    checks=(
        RowCheck(
            span_outside("votes", "duration_s"),
            "a vote over a window that is empty or not inside the recording",
            ANNOTATE,
        ),
        RowCheck(
            "language IS NOT NULL AND abs(list_sum(map_values(language_shares)) - 1) > 1e-3",
            "shares of languages that do not sum to 1",
            ANNOTATE,
        ),
    ),
    cpu_hours=0.019,
    listed=(
        "track_languages",
        "votes",
    ),
)

"""What `manifest validate` checks in the rows of each table, of lakes and of foreign manifests.

The checks of a stage are part of its specification in `manifests/schemas/stages/`.
"""

from __future__ import annotations

from manifests.schemas import STAGE_SPECS
from manifests.schemas.row_checks import ANNOTATE, SLACK_S, RowCheck, span_outside

MISMATCH_S = 0.025
"""How far a foreign recording's duration may be from its samples over its rate, as in lhotse."""

INGEST = "ingest it again"
SELECT = "run select again"


FAILURE = [
    RowCheck("status NOT IN ('ok', 'failed')", "a status that is neither 'ok' nor 'failed'", ANNOTATE),
    RowCheck("status = 'failed' AND error_type IS NULL", "failed without an error type", ANNOTATE),
]
RECORDINGS = [
    *FAILURE,
    RowCheck("len(uris) = 0", "no file name", INGEST),
    # The id of an excerpt or of a further audio stream is no prefix of the file's sha256.
    RowCheck(
        "sha256 IS NOT NULL AND NOT starts_with(sha256, recording_id) AND NOT regexp_matches(uris[1], '#(audio|t)=')",
        "an id that is not the start of its sha256",
        INGEST,
    ),
    RowCheck("status = 'ok' AND sha256 IS NULL", "no sha256", INGEST),
    RowCheck("status = 'ok' AND (size_bytes IS NULL OR size_bytes <= 0)", "no size", INGEST),
    RowCheck("status = 'ok' AND (sample_rate IS NULL OR sample_rate <= 0)", "no sampling rate", INGEST),
    RowCheck("status = 'ok' AND (channels IS NULL OR channels <= 0)", "no channels", INGEST),
    RowCheck("claimed_duration_s < 0", "a claimed duration below 0", INGEST),
]
STAGES = {stage: [*FAILURE, *spec.checks] for stage, spec in STAGE_SPECS.items()}
VERDICTS = [
    RowCheck("verdict NOT IN ('kept', 'rejected', 'failed')", "an unknown verdict", SELECT),
    RowCheck(
        "(verdict = 'kept') <> (len(reasons) = 0)",
        "kept although a reason speaks against it, or not kept without a reason",
        SELECT,
    ),
    RowCheck("verdict <> 'kept' AND windows > 0", "windows of a recording that is not kept", SELECT),
    RowCheck("found <> windows", "a number of windows that differs from its verdict", SELECT),
]
WINDOWS = [
    RowCheck(
        "kept <> (len(reasons) = 0)", "kept although a reason speaks against it, or not kept without a reason", SELECT
    ),
    RowCheck("verdict IS NULL", "a recording without a verdict", SELECT),
    RowCheck("verdict <> 'kept'", "a recording that is not kept", SELECT),
    RowCheck(
        f"start_s < 0 OR duration_s <= 0 OR start_s + duration_s > recording_s + {SLACK_S}",
        "not inside its recording",
        SELECT,
    ),
    RowCheck(
        "recording_id = previous_id AND start_s <= previous_s",
        "a start that is not after the start of the previous window",
        SELECT,
    ),
    RowCheck("context_s < 0 OR context_s > duration_s", "a context that is longer than the window", SELECT),
    RowCheck(
        span_outside("turns", "duration_s").replace("s.end_s <= s.start_s", "s.end_s < s.start_s"),
        "a turn that is not inside the window",
        SELECT,
    ),
    RowCheck(
        "window_id <> concat(recording_id, '-', lpad(round(start_s * 1000)::BIGINT::VARCHAR, 9, '0'))",
        "an id that is not made of its recording and start",
        SELECT,
    ),
]
SHARD_WINDOWS = [
    RowCheck("status NOT IN ('ok', 'failed')", "a status that is neither 'ok' nor 'failed'", "encode that shard again"),
    RowCheck("status = 'failed' AND error IS NULL", "failed without an error message", "encode that shard again"),
    RowCheck(
        "status = 'ok' AND tracks * (context_frames + continuation_frames) <= 0", "no frames", "encode that shard again"
    ),
    RowCheck("selected IS NULL", "a window that the selection does not keep", "select and encode under another name"),
]

CORRECT = "correct that row in the manifest"
FOREIGN = {
    "recordings": [
        RowCheck("duration_s <= 0", "a duration that is not above 0", CORRECT),
        RowCheck("channels <= 0", "no channels", CORRECT),
        RowCheck("sample_rate <= 0", "a sampling rate that is not above 0", CORRECT),
        RowCheck(
            f"abs(duration_s - num_samples / sample_rate) > {MISMATCH_S}",
            "a duration that is not num_samples / sample_rate",
            CORRECT,
        ),
        RowCheck("len(uris) = 0 AND rest IS NULL", "no file", CORRECT),
    ],
    "segments": [
        RowCheck("start_s IS NULL", "no start", CORRECT),
        RowCheck("duration_s <= 0", "a duration that is not above 0", CORRECT),
        RowCheck("unknown", "a recording that is not in the manifests", "give its recordings too, or remove it"),
        RowCheck(
            f"start_s < -{SLACK_S} OR start_s + coalesce(duration_s, 0) > recording_s + {SLACK_S}",
            "not inside its recording",
            CORRECT,
        ),
        RowCheck(
            "NOT list_has_all(recording_channels, channels)", "a channel that the recording does not have", CORRECT
        ),
    ],
    "windows": [
        RowCheck("start_s < 0", "a start before 0", CORRECT),
        RowCheck("duration_s <= 0", "a duration that is not above 0", CORRECT),
        RowCheck("unknown", "a recording that is not in the manifests", "give its recordings too, or remove it"),
        RowCheck(f"start_s + duration_s > recording_s + {SLACK_S}", "not inside its recording", CORRECT),
    ],
}

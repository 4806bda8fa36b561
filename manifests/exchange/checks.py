"""What must hold of the rows of each table, as SQL: a condition that names bad rows, what is wrong, and what to do.

`duration_s` and `tracks` of a recording stand beside each row that is held against them.
"""

from __future__ import annotations

from dataclasses import dataclass

SLACK_S = 0.001
"""How far a span may reach beyond its recording, as in lhotse: resampling rounds to whole samples."""
MISMATCH_S = 0.025
"""How far a foreign recording's duration may be from its samples over its rate, as in lhotse."""


@dataclass(frozen=True)
class Rule:
    """`bad` is an SQL condition; null counts as valid."""

    bad: str
    what: str
    remedy: str


INGEST = "ingest it again"
ANNOTATE = "delete the file and annotate again"
SELECT = "run select again"


def span(of: str, inside: str) -> str:
    """Whether any of a list of spans (start_s, end_s) is empty, or begins before 0, or ends after `inside`."""
    wrong = f"s.start_s < 0 OR s.end_s <= s.start_s OR s.end_s > {inside} + {SLACK_S}"
    return f"len(list_filter({of}, lambda s: {wrong})) > 0"


def track(of: str) -> str:
    return f"len(list_filter({of}, lambda s: s.track < 0 OR s.track >= tracks)) > 0"


FAILURE = [
    Rule("status NOT IN ('ok', 'failed')", "a status that is neither 'ok' nor 'failed'", ANNOTATE),
    Rule("status = 'failed' AND error_type IS NULL", "failed without saying why", ANNOTATE),
]
RECORDINGS = [
    *FAILURE,
    Rule("len(uris) = 0", "no name", INGEST),
    # The id of a part of a file is made from which part it is, too.
    Rule(
        "sha256 IS NOT NULL AND NOT starts_with(sha256, recording_id) AND NOT regexp_matches(uris[1], '#(audio|t)=')",
        "an id that is not its sha256",
        INGEST,
    ),
    Rule("status = 'ok' AND sha256 IS NULL", "no sha256", INGEST),
    Rule("status = 'ok' AND (size_bytes IS NULL OR size_bytes <= 0)", "no size", INGEST),
    Rule("status = 'ok' AND (sample_rate IS NULL OR sample_rate <= 0)", "no sampling rate", INGEST),
    Rule("status = 'ok' AND (channels IS NULL OR channels <= 0)", "no channels", INGEST),
    Rule("claimed_duration_s < 0", "a claimed duration below 0", INGEST),
]
STAGES = {
    "signal": [
        Rule("status = 'ok' AND (num_samples IS NULL OR num_samples <= 0)", "no samples", ANNOTATE),
        Rule(
            "abs(duration_s - num_samples / sample_rate) > 1e-6", "a duration that is not samples over rate", ANNOTATE
        ),
        Rule("status = 'ok' AND pcm_sha256 IS NULL", "no hash of its samples", ANNOTATE),
        Rule("tracks NOT IN (1, channels)", "tracks that are neither 1 nor the channels", ANNOTATE),
    ],
    "vad": [
        Rule(span("segments", "duration_s"), "a stretch of speech that is empty or not inside it", ANNOTATE),
        Rule(track("segments"), "a stretch of speech on a track that the recording does not have", ANNOTATE),
        Rule(f"speech_s < 0 OR speech_s > duration_s + {SLACK_S}", "more speech than sound", ANNOTATE),
    ],
    "diarize": [
        Rule(span("turns", "duration_s"), "a turn that is empty or not inside it", ANNOTATE),
        Rule(track("turns"), "a turn on a track that the recording does not have", ANNOTATE),
        Rule("len(list_filter(turns, lambda s: s.speaker IS NULL)) > 0", "a turn without a speaker", ANNOTATE),
        Rule(
            "num_speakers <> len(list_distinct(list_transform(turns, lambda s: s.speaker)))",
            "another number of speakers than its turns have",
            ANNOTATE,
        ),
        Rule("second_speaker_share NOT BETWEEN 0 AND 0.5", "a second speaker who speaks more than the first", ANNOTATE),
        Rule("(offset_median_s IS NULL) <> (len(offsets_s) = 0)", "offsets and no median, or a median alone", ANNOTATE),
    ],
    "language": [
        Rule(span("votes", "duration_s"), "a vote of a stretch that is empty or not inside it", ANNOTATE),
        Rule(
            "language IS NOT NULL AND abs(list_sum(map_values(language_shares)) - 1) > 1e-3",
            "shares of languages that do not sum to 1",
            ANNOTATE,
        ),
    ],
    "quality": [Rule("music_likelihood NOT BETWEEN 0 AND 1", "a likelihood of music outside 0 to 1", ANNOTATE)],
    "phonemes": [
        Rule(span("stretches", "duration_s"), "a stretch of speech that is empty or not inside it", ANNOTATE),
        Rule(track("stretches"), "a stretch of speech on a track that it has not", ANNOTATE),
        Rule(
            "phones <> coalesce(list_sum(list_transform(stretches, lambda s: len(s.phones))), 0)",
            "another number of phones than its stretches have",
            ANNOTATE,
        ),
        Rule(
            "len(list_filter(stretches, lambda s: len(s.phones) <> len(s.starts_ms) "
            "OR len(s.phones) <> len(s.ends_ms))) > 0",
            "phones without times",
            ANNOTATE,
        ),
    ],
    "prosody": [
        Rule(track("voices"), "a voice on a track that it has not", ANNOTATE),
        Rule(f"alone_s < 0 OR alone_s > duration_s * tracks + {SLACK_S}", "more speech than sound", ANNOTATE),
        Rule("voiced_share NOT BETWEEN 0 AND 1 OR pause_share NOT BETWEEN 0 AND 1", "a share outside 0 to 1", ANNOTATE),
    ],
    "fingerprint": [
        Rule(
            "len(times_ms) <> len(landmarks) OR len(landmarks) <> landmark_count", "landmarks without times", ANNOTATE
        ),
        Rule("times_ms <> list_sort(times_ms)", "landmarks that are not in order of time", ANNOTATE),
        Rule("list_max(times_ms) > 1000 * duration_s + 16", "a landmark after its end", ANNOTATE),
    ],
}
VERDICTS = [
    Rule("verdict NOT IN ('kept', 'rejected', 'failed')", "a verdict that is none", SELECT),
    Rule("(verdict = 'kept') <> (len(reasons) = 0)", "kept with a reason against it, or not kept without one", SELECT),
    Rule("verdict <> 'kept' AND windows > 0", "windows although it is not kept", SELECT),
    Rule("found <> windows", "another number of windows than its verdict says", SELECT),
]
WINDOWS = [
    Rule("kept <> (len(reasons) = 0)", "kept with a reason against it, or not kept without one", SELECT),
    Rule("verdict IS NULL", "a recording without a verdict", SELECT),
    Rule("verdict <> 'kept'", "a recording that is not kept", SELECT),
    Rule(
        f"start_s < 0 OR duration_s <= 0 OR start_s + duration_s > recording_s + {SLACK_S}",
        "not inside its recording",
        SELECT,
    ),
    Rule("recording_id = previous_id AND start_s <= previous_s", "a start that is not after the one before", SELECT),
    Rule("context_s < 0 OR context_s > duration_s", "a context longer than itself", SELECT),
    Rule(
        span("turns", "duration_s").replace("s.end_s <= s.start_s", "s.end_s < s.start_s"), "a turn outside it", SELECT
    ),
    Rule(
        "window_id <> concat(recording_id, '-', lpad(round(start_s * 1000)::BIGINT::VARCHAR, 9, '0'))",
        "an id that is not its recording and start",
        SELECT,
    ),
]
SHARD_WINDOWS = [
    Rule("status NOT IN ('ok', 'failed')", "a status that is neither 'ok' nor 'failed'", "encode that shard again"),
    Rule("status = 'failed' AND error IS NULL", "failed without saying why", "encode that shard again"),
    Rule(
        "status = 'ok' AND tracks * (context_frames + continuation_frames) <= 0", "no frames", "encode that shard again"
    ),
    Rule("selected IS NULL", "a window that its selection does not keep", "select and encode under another name"),
]

MEND = "mend that row in the manifest"
FOREIGN = {
    "recordings": [
        Rule("duration_s <= 0", "a duration that is not above 0", MEND),
        Rule("channels <= 0", "no channels", MEND),
        Rule("sample_rate <= 0", "a sampling rate that is not above 0", MEND),
        Rule(
            f"abs(duration_s - num_samples / sample_rate) > {MISMATCH_S}",
            "a duration that is not samples over rate",
            MEND,
        ),
        Rule("len(uris) = 0 AND rest IS NULL", "no file", MEND),
    ],
    "segments": [
        Rule("start_s IS NULL", "no start", MEND),
        Rule("duration_s <= 0", "a duration that is not above 0", MEND),
        Rule("unknown", "a recording that is not in the manifests", "give its recordings too, or remove it"),
        Rule(
            f"start_s < -{SLACK_S} OR start_s + coalesce(duration_s, 0) > recording_s + {SLACK_S}",
            "not inside its recording",
            MEND,
        ),
        Rule("NOT list_has_all(recording_channels, channels)", "a channel that its recording has not", MEND),
    ],
    "windows": [
        Rule("start_s < 0", "a start before 0", MEND),
        Rule("duration_s <= 0", "a duration that is not above 0", MEND),
        Rule("unknown", "a recording that is not in the manifests", "give its recordings too, or remove it"),
        Rule(f"start_s + duration_s > recording_s + {SLACK_S}", "not inside its recording", MEND),
    ],
}

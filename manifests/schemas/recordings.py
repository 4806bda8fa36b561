"""The table of the recordings that were ingested."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import FAILURE, LABELS, field

RECORDINGS = pa.schema(
    [
        field("recording_id", pa.string(), "first 20 hex digits of the sha256 of the bytes", nullable=False),
        field(
            "uris",
            pa.list_(pa.string()),
            "all names (paths and URIs) under which these bytes were ingested, sorted",
            nullable=False,
        ),
        field("sha256", pa.string(), "sha256 of the bytes"),
        field("size_bytes", pa.int64(), "size of the file", "byte"),
        field("container", pa.string(), "container format as FFmpeg names it, or 'sphere'"),
        field("codec", pa.string(), "audio codec as FFmpeg names it"),
        field("sample_rate", pa.int32(), "sampling rate that the header claims", "Hz"),
        field("channels", pa.int32(), "number of channels that the header claims"),
        field("channel_layout", pa.string(), "channel layout that the header claims, such as mono, stereo or 5.1"),
        field("bit_depth", pa.int32(), "bits per sample, for codecs that have a fixed number of them", "bit"),
        field(
            "audio_streams",
            pa.int32(),
            "number of audio streams in the file, such as the languages of a film; only the first one is decoded",
        ),
        field(
            "claimed_duration_s",
            pa.float64(),
            "duration that the header claims, or that follows from the number of uncompressed samples; null if it "
            "could only be estimated or cannot be true",
            "s",
        ),
        field("source", pa.string(), "collection from which the recording comes, as given when it was ingested"),
        field("licence", pa.string(), "licence of the recording, as given when it was ingested"),
        field("language_hint", pa.string(), "language that the metadata of the source claim; nothing verifies it"),
        LABELS,
        field("hints", pa.string(), "JSON list of the manifest entries that named this recording"),
        *FAILURE,
    ]
)

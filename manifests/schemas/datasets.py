"""The tables of a dataset: the windows of its shards, sums over them, and subsets of them."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import TURN, field

SHARD_WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "id of the window", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "name of the split", nullable=False),
        field(
            "folder",
            pa.string(),
            "folder of the shard: the name of the split, followed by '.2tracks' if windows have two tracks",
            nullable=False,
        ),
        field("shard", pa.int64(), "number of the shard in that folder", nullable=False),
        field("status", pa.string(), "'ok' or 'failed'", nullable=False),
        field("error", pa.string(), "why the window could not be encoded"),
        field("start_s", pa.float64(), "start in the recording", "s"),
        field("duration_s", pa.float64(), "length of the window", "s"),
        field("tracks", pa.int32(), "number of tracks, which are encoded separately"),
        field("context_frames", pa.int64(), "number of frames of the context, per track", "frame"),
        field("continuation_frames", pa.int64(), "number of frames of the continuation, per track", "frame"),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "number of different speakers in the window"),
        field("repeated_share", pa.float64(), "share of the window that is repeated, as in the table `windows`"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        # This is a list because Hugging Face `datasets` cannot read maps.
        field(
            "labels",
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])),
            "labels that users have given to the recording, each with its name and value",
        ),
        field("turns", pa.list_(TURN), "turns in the window; their times count from its start"),
        field("array_offset", pa.int64(), "offset of the window's .npy file in the shard's archive", "byte"),
        field("array_bytes", pa.int64(), "size of that .npy file", "byte"),
        field("array_crc32", pa.int64(), "CRC-32 of that .npy file, as zlib computes it"),
    ]
)

PRODUCTS = pa.schema(
    [
        field(
            "high", pa.int64(), "sum of products of two values over frames: high * 2^60 + low", "2^-48", nullable=False
        ),
        field("low", pa.int64(), "lower part of that sum, from 0 to 2^60 - 1", "2^-48", nullable=False),
    ]
)
"""The upper triangle of a matrix, row by row."""

LEDGER = pa.schema(
    [
        field("split", pa.string(), "name of the split", nullable=False),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "number of different speakers in the window"),
        field("source", pa.string(), "source of the recording"),
        field("encoder", pa.string(), "name and fingerprint of the encoder", nullable=False),
        field("patch", pa.int32(), "number of frames in a token (k)", "frame", nullable=False),
        field("windows", pa.int64(), "number of windows", nullable=False),
        field(
            "hours", pa.float64(), "duration of the windows, regardless of their number of tracks", "h", nullable=False
        ),
        field("frames", pa.int64(), "number of frames over all tracks", "frame", nullable=False),
        field("context_tokens", pa.int64(), "floor(context frames / k) over all tracks", "token", nullable=False),
        field(
            "continuation_tokens", pa.int64(), "floor(continuation frames / k) over all tracks", "token", nullable=False
        ),
        field(
            "repeated_context_tokens",
            pa.int64(),
            "number of repeated context tokens: the sum over windows of their tokens times their repeated_share, "
            "rounded; all other tokens are unique; null if recordings were not matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.int64(),
            "number of repeated continuation tokens, computed in the same way",
            "token",
        ),
    ]
)

TOKENS = (
    "context_tokens", "continuation_tokens", "repeated_context_tokens", "repeated_continuation_tokens",
)  # fmt: skip
"""Columns of the ledger, of SHARDS and of SUBSET that count tokens."""

SHARDS = pa.schema(
    [
        field("folder", pa.string(), "folder of the shard in the dataset", nullable=False),
        field("shard", pa.int64(), "number of the shard in that folder", nullable=False),
        field("split", pa.string(), "split of the windows", nullable=False),
        field("tracks", pa.int32(), "number of tracks of each window", nullable=False),
        field("windows", pa.int64(), "number of windows that were encoded", nullable=False),
        field("frames", pa.int64(), "number of frames over all tracks", "frame", nullable=False),
        field("array_bytes", pa.int64(), "size of the .npy files of the windows", "byte", nullable=False),
        field(
            "context_tokens",
            pa.list_(pa.int64()),
            "number of context tokens as in the ledger, at patch sizes 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "continuation_tokens",
            pa.list_(pa.int64()),
            "number of continuation tokens as in the ledger, at patch sizes 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "repeated_context_tokens",
            pa.list_(pa.int64()),
            "number of repeated context tokens, as in the ledger; null if recordings were not matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.list_(pa.int64()),
            "number of repeated continuation tokens, computed in the same way",
            "token",
        ),
    ]
)

SUBSET = pa.schema(
    [
        *(SHARDS.field(name) for name in ("folder", "shard")),
        field("cuts", pa.string(), "path of the shard's Lhotse cuts in the folder of the dataset", nullable=False),
        field(
            "latents", pa.string(), "path of the shard's archive of arrays in the folder of the dataset", nullable=False
        ),
        field(
            "of_windows", pa.int64(), "number of windows in the shard with the chosen splits and tracks", nullable=False
        ),
        field("windows", pa.int64(), "number of these windows that are in the subset", nullable=False),
        *(SHARDS.field(name) for name in ("frames", "array_bytes", *TOKENS)),
        field(
            "ids",
            pa.list_(pa.string()),
            "ids of the windows in the subset, in the shard's order; null if it has all of them",
        ),
    ]
)

"""The tables of a dataset: what its shards hold, sums over them, and subsets of them."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import TURN, field

SHARD_WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "id of the window", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "split", nullable=False),
        field(
            "folder", pa.string(), "folder of the shard: the split, '.2tracks' after it for two tracks", nullable=False
        ),
        field("shard", pa.int64(), "shard of the folder", nullable=False),
        field("status", pa.string(), "'ok' or 'failed'", nullable=False),
        field("error", pa.string(), "why it failed"),
        field("start_s", pa.float64(), "start in the recording", "s"),
        field("duration_s", pa.float64(), "length", "s"),
        field("tracks", pa.int32(), "channels encoded apart"),
        field("context_frames", pa.int64(), "frames of context, per track", "frame"),
        field("continuation_frames", pa.int64(), "frames of continuation, per track", "frame"),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "speakers heard in the window"),
        field("repeated_share", pa.float64(), "share of the window that repeats, as that of `windows`"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        # A list, since Hugging Face `datasets` reads no maps.
        field(
            "labels",
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])),
            "labels of the recording that users have named themselves, each with its name and value",
        ),
        field("turns", pa.list_(TURN), "turns inside the window, seconds from its start"),
        field("array_offset", pa.int64(), "where the window's .npy file begins in the shard's archive", "byte"),
        field("array_bytes", pa.int64(), "size of that .npy file", "byte"),
        field("array_crc32", pa.int64(), "CRC-32 of that .npy file, as zlib counts it"),
    ]
)

PRODUCTS = pa.schema(
    [
        field(
            "high", pa.int64(), "sum of products of two values over frames: high * 2^60 + low", "2^-48", nullable=False
        ),
        field("low", pa.int64(), "from 0 to 2^60 - 1", "2^-48", nullable=False),
    ]
)
"""The upper triangle of a matrix, row by row."""

LEDGER = pa.schema(
    [
        field("split", pa.string(), "split", nullable=False),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "speakers heard in the window"),
        field("source", pa.string(), "source of the recording"),
        field("encoder", pa.string(), "name and fingerprint of the encoder", nullable=False),
        field("patch", pa.int32(), "frames stacked into one token (k)", "frame", nullable=False),
        field("windows", pa.int64(), "windows", nullable=False),
        field("hours", pa.float64(), "sound, each window once whatever its tracks", "h", nullable=False),
        field("frames", pa.int64(), "frames over all tracks", "frame", nullable=False),
        field("context_tokens", pa.int64(), "floor(context frames / k) over all tracks", "token", nullable=False),
        field(
            "continuation_tokens", pa.int64(), "floor(continuation frames / k) over all tracks", "token", nullable=False
        ),
        field(
            "repeated_context_tokens",
            pa.int64(),
            "those of the context tokens that repeat: of each window its tokens times its repeated_share, rounded; all "
            "others are unique; null where nothing was matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.int64(),
            "those of the continuation tokens that repeat, likewise",
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
        field("split", pa.string(), "split of these windows", nullable=False),
        field("tracks", pa.int32(), "number of tracks of each of these windows", nullable=False),
        field("windows", pa.int64(), "windows that were made", nullable=False),
        field("frames", pa.int64(), "frames over all tracks", "frame", nullable=False),
        field("array_bytes", pa.int64(), "size of the .npy files of these windows", "byte", nullable=False),
        field(
            "context_tokens",
            pa.list_(pa.int64()),
            "context tokens as in the ledger, at patch 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "continuation_tokens",
            pa.list_(pa.int64()),
            "continuation tokens as in the ledger, at patch 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "repeated_context_tokens",
            pa.list_(pa.int64()),
            "those of the context tokens that repeat, as in the ledger; null where nothing was matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.list_(pa.int64()),
            "those of the continuation tokens that repeat, likewise",
            "token",
        ),
    ]
)

SUBSET = pa.schema(
    [
        *(SHARDS.field(name) for name in ("folder", "shard")),
        field("cuts", pa.string(), "the shard's Lhotse cuts, in the folder of the dataset", nullable=False),
        field("latents", pa.string(), "the shard's archive of arrays, in the folder of the dataset", nullable=False),
        field("of_windows", pa.int64(), "windows of the chosen splits and tracks in the shard", nullable=False),
        field("windows", pa.int64(), "windows that are taken of these", nullable=False),
        *(SHARDS.field(name) for name in ("frames", "array_bytes", *TOKENS)),
        field("ids", pa.list_(pa.string()), "ids of these windows, in the shard's order; null where all are taken"),
    ]
)

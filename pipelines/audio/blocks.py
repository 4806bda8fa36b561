"""Blocks of sound in memory that two processes share: a ring of a few slots, copied into by one, out of by the other.

Neither maps the memory: a copy by the kernel costs as much as one from a mapping, and what the other process does to
the file cannot crash this one.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

BLOCK_SAMPLES = 1 << 18
"""Samples of each channel in a block."""
SLOTS = 3
"""Blocks that may be on their way at once."""
MAX_CHANNELS = 64


def open_memory() -> int:
    """The descriptor of a file without a name, in memory, that two processes share."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("speechmill-blocks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def put_block(memory: int, slot: int, block: np.ndarray) -> None:
    """Write float32 (channels, samples) to a slot; all blocks of one recording have equally many channels."""
    rows = [np.ascontiguousarray(row).data for row in block]
    written = os.pwritev(memory, rows, _offset(slot, len(block)))
    if written != block.nbytes:
        raise OSError(f"{written} of {block.nbytes} bytes of a block were written to shared memory")


def get_block(memory: int, slot: int, channels: int, samples: int) -> np.ndarray:
    """A copy of what `put_block` wrote. Raises ValueError where that cannot be what it wrote."""
    if not (0 <= slot < SLOTS and 0 < channels <= MAX_CHANNELS and 0 < samples <= BLOCK_SAMPLES):
        raise ValueError(f"no block is slot {slot} with {channels} x {samples} samples")
    block = np.empty((channels, samples), np.float32)
    if os.preadv(memory, [block.data], _offset(slot, channels)) != block.nbytes:
        raise ValueError("a block is missing in shared memory")
    return block


def _offset(slot: int, channels: int) -> int:
    return slot * channels * BLOCK_SAMPLES * 4

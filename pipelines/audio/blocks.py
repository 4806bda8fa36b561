"""Blocks of sound in memory that two processes share: a ring of a few slots, written by one and read by the other.

Neither process maps the memory. A copy by the kernel costs as much as a copy from a mapping, and so a process cannot be
crashed by what the other one does to the file.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

BLOCK_SAMPLES = 1 << 18
"""Samples of each channel in a block."""
SLOTS = 3
"""Blocks that may be written but not read yet."""
MAX_CHANNELS = 64


def open_memory() -> int:
    """Open a file without a name, in memory, and return its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("speechmill-blocks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def put_block(memory: int, slot: int, block: np.ndarray) -> None:
    """Write a block, float32 (channels, samples), to a slot. All blocks of a recording have the same channels."""
    rows = [np.ascontiguousarray(row).data for row in block]
    written = os.pwritev(memory, rows, _offset(slot, len(block)))
    if written != block.nbytes:
        raise OSError(f"{written} of {block.nbytes} bytes of a block were written to shared memory")


def get_block(memory: int, slot: int, channels: int, samples: int) -> np.ndarray:
    """Read a block, float32 (channels, samples). Raises ValueError if `put_block` cannot have written such a block."""
    if not (0 <= slot < SLOTS and 0 < channels <= MAX_CHANNELS and 0 < samples <= BLOCK_SAMPLES):
        raise ValueError(f"no block is slot {slot} with {channels} x {samples} samples")
    block = np.empty((channels, samples), np.float32)
    if os.preadv(memory, [block.data], _offset(slot, channels)) != block.nbytes:
        raise ValueError("a block is missing in shared memory")
    return block


def _offset(slot: int, channels: int) -> int:
    return slot * channels * BLOCK_SAMPLES * 4

"""Rechunks and resamples streams of blocks, float32 (channels, samples)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

import numpy as np
import soxr


def rechunk(blocks: Iterable[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of `block_samples`. The last block is shorter."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += block.shape[1]
        if count >= block_samples:
            joined = np.concatenate(held, axis=1)
            whole = count - count % block_samples
            for start in range(0, whole, block_samples):
                yield joined[:, start : start + block_samples]
            held, count = [joined[:, whole:]], count - whole
    if count:
        yield np.concatenate(held, axis=1)


def resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int) -> Generator[np.ndarray]:
    """Yield blocks at another rate (soxr, HQ), with round(n * rate_out / rate_in) samples in total.

    The blocks are first cut to a fixed size, so that the result does not depend on the sizes of `blocks`.
    """
    if rate_in == rate_out:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    samples_in = samples_out = channels = 0
    for block in rechunk(blocks, 1 << 16):
        channels = block.shape[0]
        stream = stream or soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")
        samples_in += block.shape[1]
        out = stream.resample_chunk(np.ascontiguousarray(block.T))
        samples_out += len(out)
        yield out.T
    if stream is not None:
        rest = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
        wanted = round(samples_in * rate_out / rate_in) - samples_out
        if len(rest) < wanted:  # soxr rounds the length in another way
            rest = np.concatenate([rest, np.zeros((wanted - len(rest), rest.shape[1]), np.float32)])
        yield rest[: max(0, wanted)].T

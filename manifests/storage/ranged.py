"""A seekable stream over range requests, with a few blocks in memory and read-ahead for sequential readers."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

BLOCK_BYTES = 8 << 20


class RangedFile(io.RawIOBase):
    """A file of `size` bytes, read by `fetch(start, stop)`, which may raise OSError.

    At most `ahead` + 3 blocks are in memory. The first block stays there, because readers of containers return to it.
    Nothing is fetched before the first read.
    """

    def __init__(
        self, fetch: Callable[[int, int], bytes], size: int, block_bytes: int = BLOCK_BYTES, ahead: int = 1
    ) -> None:
        self.size = size
        self._fetch = fetch
        self._block_bytes = block_bytes
        self._ahead = ahead
        self._position = 0
        self._blocks: dict[int, Future[bytes]] = {}
        self._last = -1
        self._pool = ThreadPoolExecutor(max(1, ahead), "ranged")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self.size:
            return 0
        number, start = divmod(self._position, self._block_bytes)
        view = memoryview(self._block(number))[start : start + len(buffer)]
        buffer[: len(view)] = view
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._blocks.clear()
        super().close()

    def _block(self, number: int) -> bytes:
        if number == self._last:
            return self._blocks[number].result()
        in_order = number == self._last + 1
        wanted = range(number, number + 1 + (self._ahead if in_order and number else 0))
        keep = {0, self._last, *wanted}
        for old in self._blocks.keys() - keep:
            self._blocks.pop(old).cancel()
        if len(wanted) == 1 and number not in self._blocks:  # another thread would only add latency
            self._blocks[number] = Future()
            self._blocks[number].set_result(self._fetch_block(number))
        for block in wanted:
            if block not in self._blocks and block * self._block_bytes < self.size:
                self._blocks[block] = self._pool.submit(self._fetch_block, block)
        data = self._blocks[number].result()
        self._last = number
        return data

    def _fetch_block(self, number: int) -> bytes:
        start = number * self._block_bytes
        return self._fetch(start, min(start + self._block_bytes, self.size))


def buffered(file: RangedFile) -> io.BufferedReader:
    """Wrap a file such that reads are complete and small ones are cheap."""
    return io.BufferedReader(file, 1 << 16)

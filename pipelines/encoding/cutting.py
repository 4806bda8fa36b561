"""Cuts windows out of a stream of sound, for several encoders from one decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from encoders.base import Encoder, WindowSound

T = TypeVar("T")


class SharedIterator(Generic[T]):
    """Lets several readers iterate over an iterable that can be iterated only once, each at its own pace.

    Items that the slowest reader has not read are held in memory. Unlike with `itertools.tee`, an error is raised for
    every reader, at the same place.
    """

    def __init__(self, items: Iterable[T], readers: int) -> None:
        self._items = iter(items)
        self._held: list[deque[T]] = [deque() for _ in range(readers)]
        self._error: Exception | None = None

    def reader(self, number: int) -> Iterator[T]:
        """Return the iterator of reader `number`, from 0."""
        held = self._held[number]
        while True:
            if held:
                yield held.popleft()
                continue
            if self._error is not None:
                raise self._error
            try:
                item = next(self._items)
            except StopIteration:
                return
            except Exception as error:
                self._error = error
                raise
            for other in self._held:
                other.append(item)


def first_frame(encoder: Encoder, start_s: float) -> int:
    """Return the frame that begins nearest to a time in whole microseconds; of two equally near frames, the later."""
    hop = encoder.hop_samples * 10**6
    return (2 * round(start_s * 1e6) * encoder.sample_rate + hop) // (2 * hop)


def num_frames(encoder: Encoder, duration_s: float) -> int:
    """Return the number of whole frames in a duration that was rounded to the microsecond."""
    return (round(duration_s * 1e6) + 1) * encoder.sample_rate // (encoder.hop_samples * 10**6)


def cut_windows(
    encoder: Encoder, blocks: Iterable[np.ndarray], windows: Sequence[Mapping[str, Any]]
) -> Generator[WindowSound]:
    """Yield the sound of each window, with the context before and after it that the encoder needs.

    Args:
        encoder: The encoder.
        blocks: The sound of a recording from its first sample on, float32 (tracks, n), at the encoder's rate.
        windows: Rows of WINDOWS, in order of time.
    """
    stream = iter(blocks)
    held = next(stream)
    offset = 0  # the position of held's first sample in the recording
    hop = encoder.hop_samples
    for window in windows:
        start = first_frame(encoder, window["start_s"]) * hop
        frames = num_frames(encoder, window["duration_s"])
        stop = start + frames * hop
        first, last = max(0, start - encoder.look_back_samples), stop + encoder.look_ahead_samples
        while offset + held.shape[1] < last and (block := next(stream, None)) is not None:
            dropped = min(max(0, first - offset), held.shape[1])
            held = np.concatenate([held[:, dropped:], block], axis=1)
            offset += dropped
        sound = held[:, max(0, first - offset) : last - offset]
        # The end of a window is rounded, so it may lie a few samples after the end of the recording.
        padding = max(0, stop - first - sound.shape[1])
        yield WindowSound(np.pad(sound, ((0, 0), (0, padding))), start - first, frames)

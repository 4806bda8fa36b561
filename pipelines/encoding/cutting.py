"""Windows cut out of a stream of sound, for several encoders from one decode."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from encoders.base import Encoder, WindowSound

T = TypeVar("T")


class Shared(Generic[T]):
    """An iterable that several readers go through, each at its own pace, though it can be iterated only once.

    What the slowest has not read yet is held. Unlike with `itertools.tee`, every reader meets an error at the place
    where the first one did.
    """

    def __init__(self, items: Iterable[T], readers: int) -> None:
        self._items = iter(items)
        self._held: list[deque[T]] = [deque() for _ in range(readers)]
        self._error: Exception | None = None

    def reader(self, number: int) -> Iterator[T]:
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
    """The frame that begins nearest to a time, which is kept to the microsecond; of two equally near ones the later."""
    hop = encoder.hop_samples * 10**6
    return (2 * round(start_s * 1e6) * encoder.sample_rate + hop) // (2 * hop)


def num_frames(encoder: Encoder, duration_s: float) -> int:
    """Whole frames of a duration, which was rounded to the microsecond."""
    return (round(duration_s * 1e6) + 1) * encoder.sample_rate // (encoder.hop_samples * 10**6)


def cut_windows(
    encoder: Encoder, blocks: Iterable[np.ndarray], windows: Sequence[Mapping[str, Any]]
) -> Generator[WindowSound]:
    """Each window (a row of WINDOWS, in order of time) with the sound around it that the encoder wants.

    `blocks` are those of a recording from its first sample on, float32 (tracks, n), at the encoder's rate.
    """
    stream = iter(blocks)
    held = next(stream)
    offset = 0  # of held's first sample in the recording
    hop = encoder.hop_samples
    for window in windows:
        start = first_frame(encoder, window["start_s"]) * hop
        frames = num_frames(encoder, window["duration_s"])
        stop = start + frames * hop
        first, last = max(0, start - encoder.look_back_samples), stop + encoder.look_ahead_samples
        while offset + held.shape[1] < last and (block := next(stream, None)) is not None:
            passed = min(max(0, first - offset), held.shape[1])
            held = np.concatenate([held[:, passed:], block], axis=1)
            offset += passed
        sound = held[:, max(0, first - offset) : last - offset]
        # The end of a window is rounded: it may lie a few samples past that of the recording.
        lacking = max(0, stop - first - sound.shape[1])
        yield WindowSound(np.pad(sound, ((0, 0), (0, lacking))), start - first, frames)

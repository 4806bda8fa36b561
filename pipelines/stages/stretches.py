"""Stretches of one voice within windows of speaker segmentation, and turns of speakers made of them again.

Speaker segmentation names voices within one window of 10 s only. A stretch is where one such voice speaks; clustering
gives each stretch to a speaker of the whole sound; turns are what the windows, averaged, then say of each speaker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 16000
WINDOW_SAMPLES = 160000
FRAME_STEP = 270
"""Samples from one frame to the next."""
FRAME_WIDTH = 991
"""Samples that one frame hears; its time is their middle."""
FRAMES = 589
"""Frames of a window."""
VOICES = 3
"""Most voices that the model tells apart in a window."""
POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
"""The voices that speak in each class of the model's output: none, one, or two of them at once."""


def seconds(frames: float) -> float:
    """The length of a number of frames."""
    return frames * FRAME_STEP / SAMPLE_RATE


def time_of(frame: float) -> float:
    """The time at which a frame begins, in seconds: half a step before the middle of what it hears."""
    return (frame * FRAME_STEP + (FRAME_WIDTH - FRAME_STEP) / 2) / SAMPLE_RATE


PAUSE_S = 0.35
"""A voice's stretches with a shorter pause between them are one."""
EDGE = 6
"""Frames beyond a stretch in which its voice may still be heard by another window's account."""
INACTIVE = 0.05
"""A speaker with less activity is not heard in a frame."""


@dataclass(frozen=True)
class Windows:
    """What the model says of overlapping windows of one stretch of sound."""

    starts: np.ndarray
    """The first frame of each window, int64 (windows,), counted from the beginning of the sound."""
    classes: np.ndarray
    """Probability of each class of `POWERSET`, float32 (windows, FRAMES, 7)."""
    num_samples: int

    @property
    def num_frames(self) -> int:
        """Frames up to the end of the last window."""
        return int(self.starts[-1]) + FRAMES

    @property
    def activity(self) -> np.ndarray:
        """Probability that each voice of a window speaks, float32 (windows, FRAMES, VOICES)."""
        return self.classes @ POWERSET

    @property
    def active(self) -> np.ndarray:
        """Whether each voice speaks in the most probable class, bool (windows, FRAMES, VOICES)."""
        return POWERSET[self.classes.argmax(axis=2)] > 0

    def averaged(self, values: np.ndarray) -> np.ndarray:
        """Values (windows, FRAMES, ...) averaged over the windows that hear each frame: (num_frames, ...)."""
        total = np.zeros((self.num_frames, *values.shape[2:]))
        heard = np.zeros(self.num_frames)
        for start, window in zip(self.starts, values, strict=True):
            total[start : start + FRAMES] += window
            heard[start : start + FRAMES] += 1
        return total / heard.reshape(-1, *[1] * (values.ndim - 2))


class Stretches(NamedTuple):
    """Arrays (count,) of stretches in which one voice of one window speaks, in order of window, voice and time."""

    window: np.ndarray
    voice: np.ndarray
    first: np.ndarray
    """First frame, counted from the beginning of the sound."""
    last: np.ndarray
    """The frame after the last one."""
    alone: list[np.ndarray]
    """Of each stretch, the frames, counted from the beginning of the sound, in which the voice speaks alone."""
    central: np.ndarray
    """Whether no other window has the stretch nearer to its middle: it is embedded once."""

    @property
    def alone_s(self) -> np.ndarray:
        """Seconds in which the voice speaks alone, of which a speaker embedding is made."""
        return np.array([seconds(len(frames)) for frames in self.alone])


def stretches_of(windows: Windows) -> Stretches:
    """Where each voice of each window speaks, joined over pauses under `PAUSE_S`."""
    active = windows.active
    gap = round(PAUSE_S * SAMPLE_RATE / FRAME_STEP)
    found: list[tuple[int, int, int, int]] = []
    alone: list[np.ndarray] = []
    for window, start in enumerate(windows.starts.tolist()):
        crowded = active[window].sum(axis=1) > 1
        for voice in range(VOICES):
            (frames,) = np.nonzero(active[window][:, voice])
            if not len(frames):
                continue
            for part in np.split(frames, np.flatnonzero(np.diff(frames) > gap) + 1):
                found.append((window, voice, start + int(part[0]), start + int(part[-1]) + 1))
                alone.append(start + part[~crowded[part]])
    window_of, voice_of, first, last = np.array(found, np.int64).reshape(-1, 4).T
    middles = windows.starts + FRAMES / 2
    distance = np.abs((first + last)[:, None] / 2 - middles[None, :])
    central = distance[np.arange(len(first)), window_of] <= distance.min(axis=1, initial=np.inf)
    return Stretches(window_of, voice_of, first, last, alone, central)


def speakers_active(
    windows: Windows, stretches: Stretches, labels: np.ndarray, certainty: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each speaker speaks, bool, and how probable that is, float: both (num_frames, speakers).

    `labels` is the speaker of each stretch and `certainty` the probability that it is. How many speak at once is what
    the windows say on average; it is given to the speakers that are most active there. Where the windows hear a second
    voice that belongs to no other speaker, the one heard nearest in time is taken.
    """
    count = int(labels.max(initial=-1)) + 1
    activity = windows.activity
    by_window = np.zeros((2, len(windows.starts), FRAMES, count), np.float32)
    for number, (window, label) in enumerate(zip(stretches.window, labels, strict=True)):
        start = windows.starts[window]
        heard = slice(
            max(0, stretches.first[number] - start - EDGE), min(FRAMES, stretches.last[number] - start + EDGE)
        )
        voice = activity[window, heard, stretches.voice[number]]
        for part, weight in enumerate((1.0, certainty[number])):
            place = by_window[part, window, heard, label]
            np.maximum(place, weight * voice, out=place)
    mean, probability = (windows.averaged(part) for part in by_window)
    any_voice = windows.averaged(1 - windows.classes[:, :, 0])
    two_voices = windows.averaged(windows.classes[:, :, POWERSET.sum(axis=1) > 1].sum(axis=2))
    speaking = (any_voice > 0.5).astype(int) + ((any_voice > 0.5) & (two_voices > 0.5))
    rank = np.where(mean < INACTIVE, INACTIVE / (1 + _distance_s(mean)) - INACTIVE, mean)
    order = np.argsort(-rank, axis=1, kind="stable")
    active = np.zeros(mean.shape, bool)
    frames = np.arange(len(mean))
    for place_of in range(min(2, count)):
        here = speaking > place_of
        active[frames[here], order[here, place_of]] = True
    # The last window may be longer than the sound.
    active[max(1, 1 + (windows.num_samples - FRAME_WIDTH) // FRAME_STEP) :] = False
    return active, probability


def _distance_s(mean: np.ndarray) -> np.ndarray:
    """Seconds from each frame to the nearest one in which each speaker is heard: (frames, speakers)."""
    frames = np.arange(len(mean))
    distance = np.full(mean.shape, np.inf)
    for speaker in range(mean.shape[1]):
        (heard,) = np.nonzero(mean[:, speaker] > 0.5)
        if len(heard):
            after = np.searchsorted(heard, frames)
            before = np.maximum(after - 1, 0)
            after = np.minimum(after, len(heard) - 1)
            distance[:, speaker] = np.minimum(np.abs(heard[after] - frames), np.abs(heard[before] - frames))
    return distance * FRAME_STEP / SAMPLE_RATE


def spans(active: np.ndarray) -> list[tuple[int, int]]:
    """First and past-the-last frame of each run of True in bool (frames,).

    >>> spans(np.array([False, True, True, False, True]))
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

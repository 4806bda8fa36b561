"""Stretches of speech of one voice within windows of speaker segmentation, and the activity of speakers.

Speaker segmentation tells voices apart within one window of 10 s only. A stretch is a span in which one such voice
speaks. Clustering assigns each stretch to a speaker of the whole sound, and the activity of a speaker is that of the
speaker's voices, averaged over the windows.
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
"""Samples in the receptive field of a frame; the time of a frame is the middle of it."""
FRAMES = 589
"""Frames in a window."""
VOICES = 3
"""The most voices that the model tells apart in a window."""
POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
"""The voices that speak in each class of the output of the model: none, one, or two at once."""


def seconds(frames: float) -> float:
    """The length of a number of frames in seconds."""
    return frames * FRAME_STEP / SAMPLE_RATE


def time_of(frame: float) -> float:
    """The time at which a frame begins, in seconds: half a step before the middle of its receptive field."""
    return (frame * FRAME_STEP + (FRAME_WIDTH - FRAME_STEP) / 2) / SAMPLE_RATE


PAUSE_S = 0.35
"""Stretches of a voice with a shorter pause between them are joined."""
EDGE = 6
"""Frames on both sides of a stretch in which the activity of its voice still counts for the speaker, because another
window may let the stretch begin earlier or end later."""
INACTIVE = 0.05
"""A speaker with less activity is taken to be silent in a frame."""


UNIFORM = np.ones(FRAMES)
CENTRAL = 1.02 - np.abs(2 * np.arange(FRAMES) + 1 - FRAMES) / FRAMES
"""Weights of the frames of a window that fall from the middle to both ends, where the model has less context."""


@dataclass(frozen=True)
class Windows:
    """The output of the model for overlapping windows of one piece of sound."""

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

    def averaged(self, values: np.ndarray, weights: np.ndarray = UNIFORM) -> np.ndarray:
        """Values (windows, FRAMES, ...) averaged over the windows that contain each frame: (num_frames, ...).

        `weights` (FRAMES,) is the weight of each frame of a window.
        """
        total = np.zeros((self.num_frames, *values.shape[2:]))
        weight = np.zeros(self.num_frames)
        shape = -1, *[1] * (values.ndim - 2)
        for start, window in zip(self.starts, values, strict=True):
            total[start : start + FRAMES] += window * weights.reshape(shape)
            weight[start : start + FRAMES] += weights
        return total / weight.reshape(shape)


class Stretches(NamedTuple):
    """Stretches as arrays (count,), in order of window, voice and time."""

    window: np.ndarray
    voice: np.ndarray
    first: np.ndarray
    """First frame, counted from the beginning of the sound."""
    last: np.ndarray
    """The frame after the last one."""
    alone: list[np.ndarray]
    """The frames of each stretch in which its voice speaks alone, counted from the beginning of the sound."""
    central: np.ndarray
    """Whether the stretch lies nearest to the middle of its own window, rather than of another one. Only such stretches
    are embedded."""

    @property
    def alone_s(self) -> np.ndarray:
        """Seconds in which the voice speaks alone, from which the speaker embedding is computed."""
        return np.array([seconds(len(frames)) for frames in self.alone])


def stretches_of(windows: Windows) -> Stretches:
    """The stretches of each voice of each window, joined over pauses shorter than `PAUSE_S`."""
    active = windows.active
    gap = round(PAUSE_S * SAMPLE_RATE / FRAME_STEP)
    rows: list[tuple[int, int, int, int]] = []
    alone: list[np.ndarray] = []
    for window, start in enumerate(windows.starts.tolist()):
        overlapped = active[window].sum(axis=1) > 1
        for voice in range(VOICES):
            (frames,) = np.nonzero(active[window][:, voice])
            if not len(frames):
                continue
            for part in np.split(frames, np.flatnonzero(np.diff(frames) > gap) + 1):
                rows.append((window, voice, start + int(part[0]), start + int(part[-1]) + 1))
                alone.append(start + part[~overlapped[part]])
    window_of, voice_of, first, last = np.array(rows, np.int64).reshape(-1, 4).T
    middles = windows.starts + FRAMES / 2
    distance = np.abs((first + last)[:, None] / 2 - middles[None, :])
    central = distance[np.arange(len(first)), window_of] <= distance.min(axis=1, initial=np.inf)
    return Stretches(window_of, voice_of, first, last, alone, central)


def speakers_active(
    windows: Windows,
    stretches: Stretches,
    labels: np.ndarray,
    certainty: np.ndarray,
    spoken: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each speaker speaks, bool, and the probability of it, float: both (num_frames, speakers).

    `labels` is the speaker of each stretch and `certainty` the probability that this is right. The number of speakers
    at once comes from the average over windows, and the most active speakers of a frame are taken. Where there is a
    second voice but no second active speaker, the speaker is taken who is active nearest in time. Where `spoken`, bool
    (frames,), is given, somebody speaks in exactly these frames.
    """
    count = int(labels.max(initial=-1)) + 1
    activity = windows.activity
    by_window = np.zeros((2, len(windows.starts), FRAMES, count), np.float32)
    for number, (window, label) in enumerate(zip(stretches.window, labels, strict=True)):
        start = windows.starts[window]
        frames = slice(
            max(0, stretches.first[number] - start - EDGE), min(FRAMES, stretches.last[number] - start + EDGE)
        )
        voice = activity[window, frames, stretches.voice[number]]
        for part, weight in enumerate((1.0, certainty[number])):
            place = by_window[part, window, frames, label]
            np.maximum(place, weight * voice, out=place)
    mean, probability = (windows.averaged(part, CENTRAL) for part in by_window)
    any_voice = windows.averaged(1 - windows.classes[:, :, 0])
    if spoken is not None:
        any_voice = np.pad(spoken, (0, max(0, len(any_voice) - len(spoken))))[: len(any_voice)].astype(float)
    two_voices = windows.averaged(windows.classes[:, :, POWERSET.sum(axis=1) > 1].sum(axis=2))
    speaking = (any_voice > 0.5).astype(int) + ((any_voice > 0.5) & (two_voices > 0.5))
    rank = np.where(mean < INACTIVE, INACTIVE / (1 + _distance_s(mean)) - INACTIVE, mean)
    order = np.argsort(-rank, axis=1, kind="stable")
    active = np.zeros(mean.shape, bool)
    every = np.arange(len(mean))
    for place_of in range(min(2, count)):
        here = speaking > place_of
        active[every[here], order[here, place_of]] = True
    if spoken is None:  # the last window may be longer than the sound
        active[max(1, 1 + (windows.num_samples - FRAME_WIDTH) // FRAME_STEP) :] = False
    return active, probability


def _distance_s(mean: np.ndarray) -> np.ndarray:
    """Seconds from each frame to the nearest one in which each speaker is active: (frames, speakers)."""
    frames = np.arange(len(mean))
    distance = np.full(mean.shape, np.inf)
    for speaker in range(mean.shape[1]):
        (active,) = np.nonzero(mean[:, speaker] > 0.5)
        if len(active):
            after = np.searchsorted(active, frames)
            before = np.maximum(after - 1, 0)
            after = np.minimum(after, len(active) - 1)
            distance[:, speaker] = np.minimum(np.abs(active[after] - frames), np.abs(active[before] - frames))
    return distance * FRAME_STEP / SAMPLE_RATE


def spans(active: np.ndarray) -> list[tuple[int, int]]:
    """The first frame of each run of True in bool (frames,), and the frame after its last one.

    >>> spans(np.array([False, True, True, False, True]))
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

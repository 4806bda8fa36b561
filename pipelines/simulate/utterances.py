"""Utterances: pieces of a recording of one speaker that begin and end in silence, with the speech inside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.stages.turn_taking import JOIN_S

MARGIN_S = 0.05
"""Sound that an utterance includes before and after its speech, at most half of the silence there."""
LENGTH_MEDIAN_S = 2.0
LENGTH_SPREAD = 0.7
"""The drawn lengths of utterances are lognormal: the median, and the standard deviation of the natural logarithm."""
LENGTH_BOUNDS_S = (0.6, 12.0)
Span = tuple[int, int]
"""First sample, and the one after the last."""


@dataclass(frozen=True)
class Word:
    """A spoken word as it is written, with its punctuation."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Phone:
    """A spoken phoneme in IPA."""

    symbol: str
    start: int
    stop: int


@dataclass(frozen=True)
class Transcript:
    """The words and phonemes of a synthetic voice, with its speed and pitch. Positions are samples of the recording."""

    words: tuple[Word, ...]
    phones: tuple[Phone, ...]
    rate: float
    """Requested speed; 1 is the voice's own."""
    pitch: float
    """Factor of its fundamental frequency."""


@dataclass(frozen=True)
class Utterance:
    """An utterance. Positions are samples of the recording, at the rate of the simulation."""

    recording_id: str
    sound: Span
    """The sound that is used: the speech with its margins."""
    speech: tuple[Span, ...]
    """Stretches of speech in order of time, not empty."""
    transcript: Transcript | None = None
    """The transcript of a synthetic voice; None for a recorded voice."""

    @property
    def first(self) -> int:
        """The sample at which its speech begins."""
        return self.speech[0][0]

    @property
    def length(self) -> int:
        """Number of samples from the beginning of its speech to the end."""
        return self.speech[-1][1] - self.first


def utterances(recording_id: str, stretches: Sequence[Span], num_samples: int, rate: int) -> list[Utterance]:
    """Join stretches of speech to utterances, each until it reaches a length that is drawn for it.

    Utterances are cut at silences only. The lengths depend only on the id of the recording. `stretches` must be in
    order of time and must not overlap.
    """
    seed = int.from_bytes(hashlib.sha256(recording_id.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    groups: list[list[Span]] = []
    wanted = 0.0
    for start, stop in stretches:
        if groups and start - groups[-1][-1][1] <= JOIN_S * rate and stop - groups[-1][0][0] <= wanted * rate:
            groups[-1].append((start, stop))
        else:
            groups.append([(start, stop)])
            wanted = float(np.clip(LENGTH_MEDIAN_S * np.exp(LENGTH_SPREAD * rng.normal()), *LENGTH_BOUNDS_S))
    ends = [0, *(group[-1][1] for group in groups)]
    begins = [*(group[0][0] for group in groups[1:]), num_samples]
    margin = round(MARGIN_S * rate)
    made = []
    for number, group in enumerate(groups):
        start, stop = group[0][0], group[-1][1]
        # Silence is shared with the neighbouring utterance, except at the beginning and the end of the recording.
        before = (start - ends[number]) // (2 if number else 1)
        after = (begins[number] - stop) // (2 if number + 1 < len(groups) else 1)
        sound = start - min(margin, before), stop + min(margin, after)
        made.append(Utterance(recording_id, sound, tuple(group)))
    return made

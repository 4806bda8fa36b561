"""Who speaks when: a schedule of utterances with gaps, overlaps, pauses, interruptions and backchannels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from pipelines.simulate.settings import TurnTaking
from pipelines.simulate.utterances import Span, Utterance
from pipelines.stages.turn_taking import BACKCHANNEL_S
from pipelines.stages.turn_taking import INTERRUPTION_S as YIELD_S

LEAST_PAUSE_S = 0.1
"""Between two utterances of one speaker."""
INTERRUPTED = (0.3, 0.8)
"""Where in an utterance another speaker breaks in, as shares of its length."""
LEAST_INTERRUPTED_S = 1.5
HOST_BEFORE_S, HOST_AFTER_S = 0.8, 0.3
"""A backchannel begins so long after its host has begun, and ends so long before the host ends."""
TRIES = 20


class Kind(Enum):
    """Why somebody speaks."""

    TURN = "turn"
    INTERRUPTION = "interruption"
    BACKCHANNEL = "backchannel"


@dataclass(frozen=True)
class Placed:
    """An utterance with its place in a conversation."""

    speaker: int
    utterance: Utterance
    start: int
    """Sample of the conversation at which its speech begins."""
    length: int
    """Samples from there to the end of its speech; less than the utterance has where the speaker breaks off."""
    kind: Kind

    @property
    def stop(self) -> int:
        """The sample after the end of its speech."""
        return self.start + self.length

    @property
    def broken_off(self) -> bool:
        """Whether the utterance goes on in the recording that it comes from."""
        return self.length < self.utterance.length

    @property
    def sound(self) -> Span:
        """What of the utterance is heard, in samples of its recording."""
        first, last = self.utterance.sound
        return first, (self.utterance.first + self.length if self.broken_off else last)

    @property
    def sound_start(self) -> int:
        """Sample of the conversation at which its sound begins, the margin before the speech included."""
        return self.start - (self.utterance.first - self.utterance.sound[0])

    def speech(self) -> Iterator[Span]:
        """Stretches of speech, in samples of the conversation."""
        shift = self.start - self.utterance.first
        for start, stop in self.utterance.speech:
            if start + shift < self.stop:
                yield start + shift, min(stop + shift, self.stop)

    def until(self, length: int) -> Placed:
        """The same broken off after at most so many samples, and at the end of a stretch where those end in silence."""
        cut = replace(self, length=length)
        return replace(cut, length=max(stop for _, stop in cut.speech()) - self.start)


class OffsetDistribution:
    """Floor transfer offsets in seconds: a normal variable plus an exponential one, skewed towards gaps."""

    def __init__(self, turns: TurnTaking) -> None:
        from scipy.stats import exponnorm

        tail = turns.offset_tail
        self.sigma = turns.offset_sd_s / math.sqrt(1 + tail * tail)
        self.tau = tail * self.sigma
        self.mu = turns.offset_median_s - self.sigma * float(exponnorm.median(tail))

    def draw(self, rng: np.random.Generator, least_s: float = -math.inf) -> float:
        """An offset of at least `least_s`; that bound itself where the distribution hardly reaches it."""
        for _ in range(TRIES):
            offset_s = float(rng.normal(self.mu, self.sigma) + rng.exponential(self.tau))
            if offset_s >= least_s:
                return offset_s
        return least_s


class Deck:
    """The utterances of a voice, dealt in a random order; they come again once all were dealt."""

    def __init__(self, cards: Sequence[Utterance], rng: np.random.Generator) -> None:
        self.cards, self.rng, self.left = cards, rng, list[int]()

    def deal(self) -> Utterance:
        if not self.left:
            self.left = self.rng.permutation(len(self.cards)).tolist()
        return self.cards[self.left.pop()]


@dataclass(frozen=True)
class Schedule:
    """What is said in a conversation, in order of the beginnings of speech."""

    placed: list[Placed]
    backchannels_left_out: int
    """Backchannels that were drawn and for which no place was found."""


def schedule(
    shares: Sequence[float],
    voices: Sequence[Sequence[Utterance]],
    num_samples: int,
    rate: int,
    turns: TurnTaking,
    rng: np.random.Generator,
) -> Schedule:
    """A conversation of `num_samples` samples in which speaker i has the share `shares[i]` of the time and says
    utterances of `voices[i]`, each of which holds at least one.

    The order of speakers is a Markov chain: with probability `turns.hold` the same one goes on after a pause, else the
    next one is drawn, the same one included, with probabilities whose stationary distribution gives the shares of time.
    """
    scheduler = _Scheduler(shares, voices, num_samples, rate, turns, rng)
    floor = scheduler.floor()
    backchannels, left_out = scheduler.backchannels(floor)
    placed = sorted([*floor, *backchannels], key=lambda one: (one.start, one.speaker))
    return Schedule(placed, left_out)


class _Scheduler:
    def __init__(
        self,
        shares: Sequence[float],
        voices: Sequence[Sequence[Utterance]],
        num_samples: int,
        rate: int,
        turns: TurnTaking,
        rng: np.random.Generator,
    ) -> None:
        self.voices, self.num_samples, self.rate, self.turns, self.rng = voices, num_samples, rate, turns, rng
        self.decks = [Deck(voice, rng) for voice in voices]
        lengths = [float(np.mean([one.length for one in voice])) for voice in voices]
        weights = np.asarray(shares) / lengths
        self.probabilities = weights / weights.sum()
        self.offsets = OffsetDistribution(turns)
        self.least_pause = round(LEAST_PAUSE_S * rate)

    def floor(self) -> list[Placed]:
        """Utterances of those who hold the floor, in order; each ends later than the one before it."""
        placed: list[Placed] = []
        speaker = int(self.rng.choice(len(self.voices), p=self.probabilities))
        ends = dict.fromkeys(range(len(self.voices)), -self.least_pause)
        while True:
            utterance = self.decks[speaker].deal()
            if not placed:
                start, kind = round(self.rng.uniform(0.3, 1.0) * self.rate), Kind.TURN
            elif placed[-1].speaker == speaker:
                start, kind = placed[-1].stop + self._pause(), Kind.TURN
            else:
                free = ends[speaker] + self.least_pause
                start, kind = self._transfer(placed, utterance.length, free)
            if start + utterance.length > self.num_samples:
                return placed
            placed.append(Placed(speaker, utterance, start, utterance.length, kind))
            for one in placed[-2:]:  # an interruption has shortened the one before
                ends[one.speaker] = one.stop
            if self.rng.random() >= self.turns.hold:
                speaker = int(self.rng.choice(len(self.voices), p=self.probabilities))

    def _pause(self) -> int:
        pause_s = self.turns.pause_median_s * math.exp(self.turns.pause_spread * self.rng.normal())
        return max(self.least_pause, round(pause_s * self.rate))

    def _transfer(self, placed: list[Placed], length: int, free: int) -> tuple[int, Kind]:
        """Where the utterance of another speaker begins, and why; `free` is when that speaker can begin at all.

        Whoever is interrupted is shortened in `placed`.
        """
        last = placed[-1]
        if self.rng.random() < self.turns.interruptions and last.length > LEAST_INTERRUPTED_S * self.rate:
            before = placed[-2].stop if len(placed) > 1 else 0
            start = last.start + round(self.rng.uniform(*INTERRUPTED) * last.length)
            goes_on = min(round(self.rng.uniform(*YIELD_S) * self.rate), round(0.9 * length), last.stop - start)
            shortened = last.until(start - last.start + goes_on)
            fits = start + length <= self.num_samples
            if fits and start >= max(free, before) and shortened.stop > start:
                placed[-1] = shortened
                return start, Kind.INTERRUPTION
        # It begins after the other has begun and ends after the other has ended: else the floor would not change hands.
        least = max(last.start, free, last.stop - length) + 1
        offset_s = self.offsets.draw(self.rng, (least - last.stop) / self.rate)
        return max(least, last.stop + round(offset_s * self.rate)), Kind.TURN

    def backchannels(self, floor: Sequence[Placed]) -> tuple[list[Placed], int]:
        """Short utterances of listeners within those on the floor, and how many found no place."""
        margin = round((HOST_BEFORE_S + HOST_AFTER_S + BACKCHANNEL_S[0]) * self.rate)
        hosts = [one for one in floor if one.length > margin]
        wanted = int(self.rng.poisson(self.turns.backchannels_per_min * self.num_samples / self.rate / 60))
        if len(self.voices) < 2 or not hosts:
            return [], wanted if len(self.voices) > 1 else 0
        room = np.array([one.length - margin for one in hosts], float)
        decks = [self._short(voice) for voice in self.voices]
        said = [[(one.start, one.stop) for one in floor if one.speaker == speaker] for speaker in range(len(decks))]
        made: list[Placed] = []
        for _ in range(wanted):
            for _ in range(TRIES):
                host = hosts[int(self.rng.choice(len(hosts), p=room / room.sum()))]
                if found := self._within(host, decks, said):
                    made.append(found)
                    said[found.speaker].append((found.start, found.stop))
                    break
        return made, wanted - len(made)

    def _short(self, voice: Sequence[Utterance]) -> Deck:
        """The utterances of a voice that are short enough to be backchannels; if there are none all, to be cut."""
        least, most = (limit * self.rate for limit in BACKCHANNEL_S)
        return Deck([one for one in voice if least <= one.length <= most] or voice, self.rng)

    def _within(self, host: Placed, decks: Sequence[Deck], said: Sequence[Sequence[Span]]) -> Placed | None:
        """A backchannel of another speaker within `host`, or None where this draw of place and speaker does not fit."""
        speaker = int(self.rng.choice([number for number in range(len(decks)) if number != host.speaker]))
        placed = Placed(speaker, (one := decks[speaker].deal()), 0, one.length, Kind.BACKCHANNEL)
        most = round(self.rng.uniform(*BACKCHANNEL_S) * self.rate)
        if one.length > BACKCHANNEL_S[1] * self.rate:
            placed = placed.until(most)
        first = host.start + round(HOST_BEFORE_S * self.rate)
        last = host.stop - round(HOST_AFTER_S * self.rate) - placed.length
        if last < first:
            return None
        placed = replace(placed, start=int(self.rng.integers(first, last + 1)))
        pause = self.least_pause
        if any(start - pause < placed.stop and placed.start < stop + pause for start, stop in said[speaker]):
            return None
        return placed

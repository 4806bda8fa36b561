"""Who speaks when: a schedule of utterances with gaps, overlaps, pauses, interruptions and backchannels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from pipelines.simulate.settings import TurnTaking
from pipelines.simulate.utterances import Span, Utterance, Word
from pipelines.stages.turn_taking import BACKCHANNEL_S
from pipelines.stages.turn_taking import INTERRUPTION_S as YIELD_S

LEAST_PAUSE_S = 0.1
"""Least time between two utterances of one speaker, in seconds."""
INTERRUPTED = (0.3, 0.8)
"""Range of the position in an utterance at which another speaker interrupts, as shares of its length."""
LEAST_INTERRUPTED_S = 1.5
HOST_BEFORE_S, HOST_AFTER_S = 0.8, 0.3
"""Least time from the start of an utterance to a backchannel in it, and from the end of that to the end of the
utterance, in seconds."""
NEEDED_BETWEEN_S = 1.0
"""Time that is reserved for each speaker who has not spoken yet, beyond the length of an utterance, in seconds."""
TRIES = 20


class Kind(Enum):
    """The kind of an utterance."""

    TURN = "turn"
    INTERRUPTION = "interruption"
    BACKCHANNEL = "backchannel"


@dataclass(frozen=True)
class Placed:
    """An utterance with its position in a conversation."""

    speaker: int
    utterance: Utterance
    start: int
    """Sample of the conversation at which its speech begins."""
    length: int
    """Samples from there to the end of its speech; fewer than the utterance has if the speaker breaks off."""
    kind: Kind

    @property
    def stop(self) -> int:
        """The sample after the end of its speech."""
        return self.start + self.length

    @property
    def broken_off(self) -> bool:
        """Whether the speaker breaks off, so that the utterance continues in the recording that it comes from."""
        return self.length < self.utterance.length

    @property
    def sound(self) -> Span:
        """The part of the utterance that is used, in samples of its recording."""
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

    def words(self) -> Iterator[tuple[Word, bool]]:
        """The words of a synthetic voice that are at least partly spoken, in samples of the conversation, and whether
        the speaker breaks off within each."""
        shift = self.start - self.utterance.first
        for word in self.utterance.said.words if self.utterance.said else ():
            if word.start + shift < self.stop:
                stop = min(word.stop + shift, self.stop)
                yield Word(word.text, word.start + shift, stop), stop < word.stop + shift

    def until(self, length: int) -> Placed:
        """The same utterance, broken off after at most this many samples, or at the end of the last stretch before them
        if they end in silence."""
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
        """Draw an offset of at least `least_s`; the bound itself if the distribution hardly reaches it."""
        for _ in range(TRIES):
            offset_s = float(rng.normal(self.mu, self.sigma) + rng.exponential(self.tau))
            if offset_s >= least_s:
                return offset_s
        return least_s


class Deck:
    """The utterances of a voice with the number of times that each was used. Those that were used least are drawn
    from."""

    def __init__(self, cards: Sequence[Utterance], rng: np.random.Generator) -> None:
        self.cards, self.rng = cards, rng
        self.said = np.zeros(len(cards), int)
        self.places = {card: place for place, card in enumerate(cards)}

    def draw(self, among: np.ndarray | None = None) -> Utterance:
        """Draw an utterance, from the indices `among` if given. It counts as used once `say` is called."""
        said = self.said if among is None else self.said[among]
        least = np.flatnonzero(said == said.min())
        drawn = int(self.rng.choice(least))
        return self.cards[drawn if among is None else int(among[drawn])]

    def say(self, card: Utterance) -> None:
        self.said[self.places[card]] += 1

    def deal(self) -> Utterance:
        """Draw an utterance and count it as used."""
        card = self.draw()
        self.say(card)
        return card


@dataclass(frozen=True)
class Schedule:
    """The utterances of a conversation, in order of the start of their speech."""

    placed: list[Placed]
    backchannels_left_out: int
    """Backchannels that were drawn but did not fit anywhere."""


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
    Where the time that is left is about what those need who have not spoken, the next one is drawn from them, so that
    everybody is heard unless the conversation is too short for that. A voice says an utterance again only after all
    others, but for backchannels, which are drawn from the short ones.
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
        lengths = np.array([float(np.mean([one.length for one in voice])) for voice in voices])
        weights = np.asarray(shares) / lengths
        self.probabilities = weights / weights.sum()
        self.lengths = [np.array([one.length for one in voice]) for voice in voices]
        between = NEEDED_BETWEEN_S * rate
        self.least = np.array([one.min() for one in self.lengths]) + between
        self.needed = np.array([one.max() for one in self.lengths]) + between
        self.offsets = OffsetDistribution(turns)
        self.least_pause = round(LEAST_PAUSE_S * rate)

    def floor(self) -> list[Placed]:
        """Utterances that take the floor, in order; each ends later than the one before it."""
        placed: list[Placed] = []
        unheard = set(range(len(self.voices)))
        ends = dict.fromkeys(range(len(self.voices)), -self.least_pause)
        speaker = self._next(0, unheard)
        while True:
            utterance = self.decks[speaker].draw(self._brief(speaker, placed[-1].stop if placed else 0, unheard))
            start, kind = self._place(placed, speaker, utterance, ends)
            if start + utterance.length > self.num_samples:
                last = self._last(placed, unheard, ends)
                if last is None:
                    return placed
                speaker, utterance, start = last
                kind = Kind.TURN
            self.decks[speaker].say(utterance)
            placed.append(Placed(speaker, utterance, start, utterance.length, kind))
            unheard.discard(speaker)
            for one in placed[-2:]:  # an interruption has shortened the one before
                ends[one.speaker] = one.stop
            holds = self.rng.random() < self.turns.hold
            if not holds or self._late(placed[-1].stop, unheard):
                speaker = self._next(placed[-1].stop, unheard)

    def _late(self, at: int, unheard: Set[int]) -> bool:
        """Whether the speakers who have not spoken may need all the time that is left after a sample."""
        return bool(unheard) and self.num_samples - at <= sum(self.needed[one] for one in unheard)

    def _brief(self, speaker: int, at: int, unheard: Set[int]) -> np.ndarray | None:
        """If little time is left, the indices of the utterances that leave enough for the others who have not spoken,
        or of the shortest one; None, which means all utterances, if there is enough time."""
        if not self._late(at, unheard):
            return None
        others = sum(self.least[one] for one in unheard if one != speaker)
        lengths = self.lengths[speaker]
        fitting = np.flatnonzero(lengths + NEEDED_BETWEEN_S * self.rate <= self.num_samples - at - others)
        return fitting if len(fitting) else np.array([lengths.argmin()])

    def _next(self, at: int, unheard: Set[int]) -> int:
        """Draw the next speaker by the shares, among those who have not spoken if little time is left."""
        among = sorted(unheard) if self._late(at, unheard) else range(len(self.voices))
        probabilities = self.probabilities[list(among)]
        return int(self.rng.choice(list(among), p=probabilities / probabilities.sum()))

    def _last(self, placed: list[Placed], unheard: Set[int], ends: dict[int, int]) -> tuple[int, Utterance, int] | None:
        """The shortest utterance of a speaker who has not spoken and its position at the end, or None if it does not
        fit."""
        for speaker in sorted(unheard):
            utterance = min(self.voices[speaker], key=lambda one: one.length)
            start = self.num_samples - utterance.length
            after = max(placed[-1].start, placed[-1].stop - utterance.length) + 1 if placed else 0
            if start >= max(after, ends[speaker] + self.least_pause):
                latest = max(after, placed[-1].stop + self.least_pause) if placed else 0
                return speaker, utterance, min(start, latest)
        return None

    def _place(
        self, placed: list[Placed], speaker: int, utterance: Utterance, ends: dict[int, int]
    ) -> tuple[int, Kind]:
        """The start of the next utterance on the floor, and its kind."""
        if not placed:
            return round(self.rng.uniform(0.3, 1.0) * self.rate), Kind.TURN
        if placed[-1].speaker == speaker:
            return placed[-1].stop + self._pause(), Kind.TURN
        return self._transfer(placed, utterance.length, ends[speaker] + self.least_pause)

    def _pause(self) -> int:
        pause_s = self.turns.pause_median_s * math.exp(self.turns.pause_spread * self.rng.normal())
        return max(self.least_pause, round(pause_s * self.rate))

    def _transfer(self, placed: list[Placed], length: int, free: int) -> tuple[int, Kind]:
        """The start and the kind of the utterance of another speaker, who can start at `free` at the earliest.

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
        """Short utterances of listeners within those on the floor, and the number of those that did not fit."""
        margin = round((HOST_BEFORE_S + HOST_AFTER_S + BACKCHANNEL_S[0]) * self.rate)
        hosts = [one for one in floor if one.length > margin]
        wanted = int(self.rng.poisson(self.turns.backchannels_per_min * self.num_samples / self.rate / 60))
        if len(self.voices) < 2 or not hosts:
            return [], wanted if len(self.voices) > 1 else 0
        room = np.array([one.length - margin for one in hosts], float)
        short = [self._short(voice) for voice in self.voices]
        said = [[(one.start, one.stop) for one in floor if one.speaker == speaker] for speaker in range(len(short))]
        made: list[Placed] = []
        for _ in range(wanted):
            for _ in range(TRIES):
                host = hosts[int(self.rng.choice(len(hosts), p=room / room.sum()))]
                if found := self._within(host, short, said):
                    made.append(found)
                    self.decks[found.speaker].say(found.utterance)
                    said[found.speaker].append((found.start, found.stop))
                    break
        return made, wanted - len(made)

    def _short(self, voice: Sequence[Utterance]) -> np.ndarray | None:
        """Indices of the utterances that are short enough for backchannels; None, which means that all may be cut, if
        none is."""
        least, most = (limit * self.rate for limit in BACKCHANNEL_S)
        places = np.flatnonzero([least <= one.length <= most for one in voice])
        return places if len(places) else None

    def _within(
        self, host: Placed, short: Sequence[np.ndarray | None], said: Sequence[Sequence[Span]]
    ) -> Placed | None:
        """A backchannel of another speaker within `host`, or None where this draw of place and speaker does not fit."""
        speaker = int(self.rng.choice([number for number in range(len(short)) if number != host.speaker]))
        one = self.decks[speaker].draw(short[speaker])
        placed = Placed(speaker, one, 0, one.length, Kind.BACKCHANNEL)
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

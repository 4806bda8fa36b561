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
"""Shortest pause between two utterances of one speaker, in seconds."""
INTERRUPTED = (0.3, 0.8)
"""The range in which another speaker interrupts an utterance, as shares of its length."""
LEAST_INTERRUPTED_S = 1.5
HOST_BEFORE_S, HOST_AFTER_S = 0.8, 0.3
"""Shortest time from the start of an utterance to a backchannel in it, and from the end of that to the end of the
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
        for word in self.utterance.transcript.words if self.utterance.transcript else ():
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


class UtterancePool:
    """The utterances of a voice, with the number of uses of each. Utterances with the fewest uses are drawn first."""

    def __init__(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> None:
        self.utterances, self.rng = utterances, rng
        self.uses = np.zeros(len(utterances), int)
        self.places = {utterance: place for place, utterance in enumerate(utterances)}

    def draw(self, among: np.ndarray | None = None) -> Utterance:
        """Draw an utterance, from the indices `among` if given. It counts as used once `mark_used` is called."""
        uses = self.uses if among is None else self.uses[among]
        least = np.flatnonzero(uses == uses.min())
        drawn = int(self.rng.choice(least))
        return self.utterances[drawn if among is None else int(among[drawn])]

    def mark_used(self, utterance: Utterance) -> None:
        self.uses[self.places[utterance]] += 1

    def draw_next(self) -> Utterance:
        """Draw an utterance and count it as used."""
        utterance = self.draw()
        self.mark_used(utterance)
        return utterance


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
    """Draw a conversation of `num_samples` samples.

    Speaker i has the share `shares[i]` of the speaking time and uses utterances of `voices[i]`, which has at least one.
    The order of speakers is a Markov chain: with probability `turns.hold` the same speaker continues after a pause.
    Otherwise the next speaker is drawn from all, with probabilities whose stationary distribution gives the shares. If
    the remaining time is hardly enough for those who have not spoken yet, the next speaker is one of them, so that all
    speak unless the conversation is too short. An utterance is used again only after all others of its voice, except
    for backchannels, which are drawn from the short ones.
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
        self.pools = [UtterancePool(voice, rng) for voice in voices]
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
        """Utterances that take the floor, in order. Each ends later than the previous one."""
        placed: list[Placed] = []
        not_spoken = set(range(len(self.voices)))
        ends = dict.fromkeys(range(len(self.voices)), -self.least_pause)
        speaker = self._next_speaker(0, not_spoken)
        while True:
            at = placed[-1].stop if placed else 0
            utterance = self.pools[speaker].draw(self._short_enough(speaker, at, not_spoken))
            start, kind = self._place(placed, speaker, utterance, ends)
            if start + utterance.length > self.num_samples:
                last = self._last_utterance(placed, not_spoken, ends)
                if last is None:
                    return placed
                speaker, utterance, start = last
                kind = Kind.TURN
            self.pools[speaker].mark_used(utterance)
            placed.append(Placed(speaker, utterance, start, utterance.length, kind))
            not_spoken.discard(speaker)
            for one in placed[-2:]:  # an interruption shortens the previous utterance
                ends[one.speaker] = one.stop
            holds = self.rng.random() < self.turns.hold
            if not holds or self._time_is_short(placed[-1].stop, not_spoken):
                speaker = self._next_speaker(placed[-1].stop, not_spoken)

    def _time_is_short(self, at: int, not_spoken: Set[int]) -> bool:
        """Whether the speakers who have not spoken yet may need all the time that remains after a sample."""
        return bool(not_spoken) and self.num_samples - at <= sum(self.needed[one] for one in not_spoken)

    def _short_enough(self, speaker: int, at: int, not_spoken: Set[int]) -> np.ndarray | None:
        """The indices of the utterances that a speaker can use, or None for all.

        If time is short, they are the utterances that leave enough time for the others who have not spoken yet, or the
        shortest one if there are none."""
        if not self._time_is_short(at, not_spoken):
            return None
        others = sum(self.least[one] for one in not_spoken if one != speaker)
        lengths = self.lengths[speaker]
        fitting = np.flatnonzero(lengths + NEEDED_BETWEEN_S * self.rate <= self.num_samples - at - others)
        return fitting if len(fitting) else np.array([lengths.argmin()])

    def _next_speaker(self, at: int, not_spoken: Set[int]) -> int:
        """Draw the next speaker by the shares; if time is short, from those who have not spoken yet."""
        among = sorted(not_spoken) if self._time_is_short(at, not_spoken) else range(len(self.voices))
        probabilities = self.probabilities[list(among)]
        return int(self.rng.choice(list(among), p=probabilities / probabilities.sum()))

    def _last_utterance(
        self, placed: list[Placed], not_spoken: Set[int], ends: dict[int, int]
    ) -> tuple[int, Utterance, int] | None:
        """The shortest utterance of a speaker who has not spoken yet, placed at the end; None if it does not fit."""
        for speaker in sorted(not_spoken):
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

    def _transfer(self, placed: list[Placed], length: int, earliest: int) -> tuple[int, Kind]:
        """The start and the kind of the utterance of another speaker, which can start at `earliest` or later.

        If it interrupts the previous utterance, that is shortened in `placed`.
        """
        last = placed[-1]
        if self.rng.random() < self.turns.interruptions and last.length > LEAST_INTERRUPTED_S * self.rate:
            before = placed[-2].stop if len(placed) > 1 else 0
            start = last.start + round(self.rng.uniform(*INTERRUPTED) * last.length)
            overlap = min(round(self.rng.uniform(*YIELD_S) * self.rate), round(0.9 * length), last.stop - start)
            shortened = last.until(start - last.start + overlap)
            fits = start + length <= self.num_samples
            if fits and start >= max(earliest, before) and shortened.stop > start:
                placed[-1] = shortened
                return start, Kind.INTERRUPTION
        # It begins and ends after the previous utterance begins and ends, because otherwise the floor would not change.
        least = max(last.start, earliest, last.stop - length) + 1
        offset_s = self.offsets.draw(self.rng, (least - last.stop) / self.rate)
        return max(least, last.stop + round(offset_s * self.rate)), Kind.TURN

    def backchannels(self, floor: Sequence[Placed]) -> tuple[list[Placed], int]:
        """Short utterances of listeners within those on the floor, and the number of backchannels that did not fit."""
        margin = round((HOST_BEFORE_S + HOST_AFTER_S + BACKCHANNEL_S[0]) * self.rate)
        hosts = [one for one in floor if one.length > margin]
        wanted = int(self.rng.poisson(self.turns.backchannels_per_min * self.num_samples / self.rate / 60))
        if len(self.voices) < 2 or not hosts:
            return [], wanted if len(self.voices) > 1 else 0
        room = np.array([one.length - margin for one in hosts], float)
        short = [self._short(voice) for voice in self.voices]
        spoken = [[(one.start, one.stop) for one in floor if one.speaker == speaker] for speaker in range(len(short))]
        made: list[Placed] = []
        for _ in range(wanted):
            for _ in range(TRIES):
                host = hosts[int(self.rng.choice(len(hosts), p=room / room.sum()))]
                if found := self._backchannel_within(host, short, spoken):
                    made.append(found)
                    self.pools[found.speaker].mark_used(found.utterance)
                    spoken[found.speaker].append((found.start, found.stop))
                    break
        return made, wanted - len(made)

    def _short(self, voice: Sequence[Utterance]) -> np.ndarray | None:
        """Indices of the utterances that are short enough for backchannels; None if none is, so that any is cut."""
        least, most = (limit * self.rate for limit in BACKCHANNEL_S)
        places = np.flatnonzero([least <= one.length <= most for one in voice])
        return places if len(places) else None

    def _backchannel_within(
        self, host: Placed, short: Sequence[np.ndarray | None], spoken: Sequence[Sequence[Span]]
    ) -> Placed | None:
        """A backchannel of another speaker within `host`, or None if the drawn place and speaker do not fit."""
        speaker = int(self.rng.choice([number for number in range(len(short)) if number != host.speaker]))
        one = self.pools[speaker].draw(short[speaker])
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
        if any(start - pause < placed.stop and placed.start < stop + pause for start, stop in spoken[speaker]):
            return None
        return placed

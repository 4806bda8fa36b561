"""Alignment: the stretches that two recordings share.

Two recordings have hits: places where a landmark of each has the same key. From each hit a line is followed in both
directions through pairs of landmarks whose bits are nearly equal, for as long as enough landmarks have a partner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from manifests.spans import Array

BIN_MS = 128
"""Width of the bins into which hits are sorted by the difference of their two times. The hits of one shared passage
have nearly equal differences: where a copy runs 1 % faster, the difference changes by 1 % of the time that passes."""
CHAIN_MS = 30_000
"""Longest time between two neighbouring hits in one bin that are still taken to be of one passage."""
NEAR_BITS = 16
"""Two landmarks count as the same if they differ in at most this many of 63 bits. Of landmarks of different sound one
pair in 2,000 does."""
NEAR_MS = 40
"""Two landmarks count as the same only if the time of the second is at most this far from where the alignment expects
it."""
CHANCE = 0.1
"""Share of the landmarks of different sound that are taken to be the same by chance. Along a line through two sounds
that have nothing to do with each other it is 0.001; but a voice that says similar syllables in a similar rhythm has up
to 0.4 over 3 s, and among thousands of recordings of one voice such places are found. See docs/duplicates.md."""
LED = 2
"""Landmarks of an alignment that do not count as evidence: it was begun where they were known to be equal."""
LEAST_EVIDENCE = 6.0
"""Least evidence of a stretch that is kept; `improbable` defines it. Eight landmarks, all the same, are just enough."""
LEAST_MS = 2000
"""Least time from the first of the landmarks that are the same to the last. Each landmark describes one second, so that
landmarks closer than that describe largely the same sound and are not independent evidence."""
STEP_MS, LONGEST_STEP_MS = 4000, 64_000
"""First and longest step by which an alignment is extended. Steps double where the sounds agree and are halved where
they do not."""
GAP_MS = 10_000
"""A stretch ends where no landmarks are the same for longer than this."""
LEAST_SHARE = 0.2
"""Least share of the landmarks of a step that must be the same for the stretch to be extended by it."""
FITTED = 200
"""Number of landmarks at the end of a stretch to which the line is fitted that predicts how it goes on."""
MOST_SLOPE = 0.02
"""Largest difference of speed between the two recordings."""
EDGE_MS = 250
"""Added to a stretch before its first landmark and after its last one."""


@dataclass(frozen=True)
class Marks:
    """The landmarks of a recording: times in ms, in order, and their bits."""

    times_ms: Array
    bits: Array

    def __len__(self) -> int:
        return len(self.times_ms)


@dataclass(frozen=True)
class Stretch:
    """Sound that two recordings share: where it lies in each, in ms, and how many landmarks are the same."""

    start_ms: int
    end_ms: int
    other_start_ms: int
    other_end_ms: int
    speed: float
    """Of the first recording relative to the other one: 1.01 where the first is played 1 % faster."""
    same: int
    """Landmarks of the first recording inside the stretch that have the same one in the other recording."""
    of: int
    """All landmarks of the first recording inside the stretch."""
    evidence: float
    """What `improbable` gives for them."""

    @property
    def confidence(self) -> float:
        """Share of the landmarks that are the same, 0 to 1."""
        return self.same / self.of

    def holds(self, at_ms: float, other_ms: float) -> bool:
        """Whether a hit lies on the line of this stretch, so that following it would find the stretch again."""
        expected = self.other_start_ms + (at_ms - self.start_ms) * self.speed
        return self.start_ms <= at_ms <= self.end_ms and abs(expected - other_ms) <= 4 * NEAR_MS


def diagonals(times_ms: Array, others_ms: Array, least: int) -> Iterator[tuple[int, int]]:
    """For each group of hits with nearly the same difference of times, its middle hit; the largest groups come first.

    Groups with hits at fewer than `least` different times are left out.
    """
    found: list[tuple[int, int, int]] = []
    for shift in (0, BIN_MS // 2):  # the second bins overlap the first, so that no edge of a bin splits a group
        bins = (others_ms.astype(np.int64) - times_ms + shift) // BIN_MS
        order = np.lexsort((times_ms, bins))
        at, where = times_ms[order], bins[order]
        parted = np.append(True, (where[1:] != where[:-1]) | (at[1:] - at[:-1] > CHAIN_MS))[: len(order)]
        begins = np.flatnonzero(parted)
        counts = np.diff(np.append(begins, len(order)))
        distinct = np.add.reduceat(parted | np.append(True, at[1:] != at[:-1])[: len(order)], begins)
        for start, count, different in zip(begins, counts, distinct, strict=True):
            if different >= least:
                middle = order[start + count // 2]
                found.append((-int(different), int(times_ms[middle]), int(others_ms[middle])))
    for _, at_ms, other_ms in sorted(found):
        yield at_ms, other_ms


def stretches(one: Marks, other: Marks, times_ms: Array, others_ms: Array, least: int = 1) -> list[Stretch]:
    """The stretches that two recordings share, in order of time, given the times of their hits in each."""
    found: list[Stretch] = []
    for at_ms, other_ms in diagonals(times_ms, others_ms, least):
        if not any(stretch.holds(at_ms, other_ms) for stretch in found):
            stretch = Alignment(one, other, at_ms, other_ms).stretch()
            if stretch is not None and not any(_equal(stretch, known) for known in found):
                found.append(stretch)
    return sorted(found, key=lambda stretch: (stretch.start_ms, stretch.other_start_ms))


def _equal(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches overlap by more than half of the shorter one in both recordings, and so are one."""
    pairs = ((one.start_ms, one.end_ms, other.start_ms, other.end_ms),
             (one.other_start_ms, one.other_end_ms, other.other_start_ms, other.other_end_ms))  # fmt: skip
    return all(
        min(end, other_end) - max(start, other_start) > 0.5 * min(end - start, other_end - other_start)
        for start, end, other_start, other_end in pairs
    )


@dataclass
class Alignment:
    """A stretch that is extended in both directions from one hit, at `at_ms` and `other_ms` in the two recordings."""

    one: Marks
    other: Marks
    at_ms: int
    other_ms: int
    places: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of landmarks that are the same, by their indices in both recordings, in order of the first recording."""

    def stretch(self) -> Stretch | None:
        """The whole stretch; None where it has too little evidence."""
        near = self._same(self.at_ms - STEP_MS, self.at_ms + STEP_MS, 1.0, self.at_ms, self.other_ms)
        if not near:
            return None
        self.places = near
        for direction in (1, -1):
            self._grow(direction)
        times_ms, others_ms = self._times(self.places)
        first, last = self.places[0], self.places[-1]
        of = last[0] - first[0] + 1
        same = len({place[0] for place in self.places})
        evidence = improbable(same - LED, of - LED)
        if evidence < LEAST_EVIDENCE or times_ms[-1] - times_ms[0] < LEAST_MS:
            return None
        speed, _, _ = self._line(self.places)
        edges = [
            (max(0, int(ms[0]) - EDGE_MS), min(int(ms[-1]) + EDGE_MS, int(marks.times_ms[-1]) + EDGE_MS))
            for ms, marks in ((times_ms, self.one), (others_ms, self.other))
        ]
        return Stretch(*edges[0], *edges[1], speed, same, of, evidence)

    def _times(self, places: list[tuple[int, int]]) -> tuple[Array, Array]:
        indices = np.array(places)
        return self.one.times_ms[indices[:, 0]], self.other.times_ms[indices[:, 1]]

    def _grow(self, direction: int) -> None:
        """Extend the stretch forwards (1) or backwards (-1) until too few landmarks are the same."""
        step, skipped = STEP_MS, 0
        while True:
            edge_ms = int(self.one.times_ms[self.places[-1 if direction > 0 else 0][0]])
            begin = edge_ms + direction * (skipped + 1)
            low, high = sorted((begin, begin + direction * step))
            count = int(np.diff(np.searchsorted(self.one.times_ms, [low, high + 1]))[0])
            near = self._same(low, high, *self._line(self._edge(direction))) if count else []
            if near and len(near) >= LEAST_SHARE * count:
                self.places = self.places + near if direction > 0 else near + self.places
                step, skipped = min(2 * step, LONGEST_STEP_MS), 0
            elif step > STEP_MS:
                step = max(STEP_MS, step // 2)
            else:
                skipped += STEP_MS // 2
                if skipped > GAP_MS or not self.one.times_ms[0] <= begin <= self.one.times_ms[-1]:
                    return

    def _edge(self, direction: int) -> list[tuple[int, int]]:
        return self.places[-FITTED:] if direction > 0 else self.places[:FITTED]

    def _line(self, places: list[tuple[int, int]]) -> tuple[float, float, float]:
        """The line through these pairs: its slope, and the mean time in each recording, through which it goes.

        Few or close pairs do not determine a slope, and are given one of 1.
        """
        times_ms, others_ms = self._times(places)
        middle, other_middle = float(np.mean(times_ms)), float(np.mean(others_ms))
        offsets = times_ms - middle
        if times_ms[-1] - times_ms[0] < STEP_MS or len(places) < 4:
            return 1.0, middle, other_middle
        speed = float((offsets * (others_ms - other_middle)).sum() / np.square(offsets).sum())
        return min(max(speed, 1 - MOST_SLOPE), 1 + MOST_SLOPE), middle, other_middle

    def _same(self, low: float, high: float, speed: float, middle: float, other_middle: float) -> list[tuple[int, int]]:
        """Pairs of landmarks that are the same, for landmarks of the first recording in [low, high] ms.

        The line with slope `speed` through (`middle`, `other_middle`) says where the partner of each is expected; of
        several partners the one with the fewest different bits is taken.
        """
        first, last = np.searchsorted(self.one.times_ms, [low, high + 1])
        times_ms = self.one.times_ms[first:last]
        expected = other_middle + speed * (times_ms - middle)
        # The slope has an error too, 1 % while it is not yet determined and 0.1 % afterwards, which counts the more the
        # farther a landmark is from the middle.
        reach = NEAR_MS + (0.01 if speed == 1.0 else 0.001) * np.abs(times_ms - middle)
        begins, ends = (np.searchsorted(self.other.times_ms, edge) for edge in (expected - reach, expected + reach))
        counts = np.maximum(ends - begins, 0)
        rows = np.repeat(np.arange(len(times_ms)), counts)
        if not len(rows):
            return []
        others = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(len(rows))
        differ = np.bitwise_count(self.one.bits[first + rows] ^ self.other.bits[others])
        rows, others, differ = (values[differ <= NEAR_BITS] for values in (rows, others, differ))
        order = np.lexsort((differ, rows))
        best = order[np.append(True, rows[order][1:] != rows[order][:-1])[: len(order)]]
        return [(int(first + row), int(place)) for row, place in zip(rows[best], others[best], strict=True)]


def improbable(same: int, of: int) -> float:
    """Evidence that sound is shared: how improbable it is that `same` of `of` landmarks are the same by chance.

    It is the negative logarithm to the base of 10 of Chernoff's upper bound on the probability that at least `same` of
    `of` independent landmarks are the same where each is with the probability CHANCE. Landmarks of one voice are not
    independent, so it is a score with a threshold that was set by measurement, and no probability.

    >>> round(improbable(5, 10), 1), round(improbable(10, 10), 1), improbable(0, 10)
    (2.2, 10.0, 0.0)
    """
    if same <= 0 or of <= 0 or same / of <= CHANCE:
        return 0.0
    share = same / of
    divergence = share * math.log(share / CHANCE)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - CHANCE))
    return of * divergence / math.log(10)

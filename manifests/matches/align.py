"""Alignment: from hits to the stretches that two recordings share, followed in both directions landmark by landmark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from manifests.spans import Array

BIN_MS = 128
"""Hits of one passage lie on one diagonal: their difference of times changes by 1 % of the time at most."""
CHAIN_MS = 30_000
"""From one hit of a diagonal to the next."""
NEAR_BITS = 16
"""Most bits in which two landmarks differ that are the same sound: of others one pair in 2,000 differs in so few."""
NEAR_MS = 40
"""Most by which the time of a landmark differs from where the alignment expects it."""
CHANCE = 0.002
"""Share of the landmarks of other sound that are the same by chance within NEAR_MS: twice what was measured."""
LED = 2
"""Landmarks of an alignment that are no evidence, since equal keys of them may have led to it."""
LEAST_EVIDENCE = 8.0
"""Of an alignment: the logarithm to the base of 10 of how improbable it is by chance, apart from what led to it."""
LEAST_MS = 2000
"""From the first equal landmark of a stretch to the last: those of one second look at the same sound, so that a word
which a voice says twice alike makes several."""
STEP_MS, LONGEST_STEP_MS = 4000, 64_000
"""Alignments are followed by steps that double while they hold, and are halved where they do not."""
GAP_MS = 10_000
"""Longest time without what is the same, inside a stretch."""
LEAST_SHARE = 0.2
"""Of the landmarks of a step, those that must be the same."""
FITTED = 200
"""Landmarks at the edge of an alignment that tell where it goes on."""
MOST_SLOPE = 0.02
"""Most by which one recording runs faster than the other."""
EDGE_MS = 250
"""Sound beyond the outermost landmarks of a stretch."""


@dataclass(frozen=True)
class Marks:
    """The landmarks of a recording: times in ms, in order, and their bits."""

    times_ms: Array
    bits: Array

    def __len__(self) -> int:
        return len(self.times_ms)


@dataclass(frozen=True)
class Stretch:
    """Sound that two recordings share: where in each, in ms, and how many landmarks of the first are the same."""

    start_ms: int
    end_ms: int
    other_start_ms: int
    other_end_ms: int
    speed: float
    """How much faster the first one runs."""
    same: int
    of: int
    evidence: float

    @property
    def confidence(self) -> float:
        """Share of the landmarks that are the same, 0 to 1."""
        return self.same / self.of

    def holds(self, at_ms: float, other_ms: float) -> bool:
        """Whether a hit is explained by it."""
        expected = self.other_start_ms + (at_ms - self.start_ms) * self.speed
        return self.start_ms <= at_ms <= self.end_ms and abs(expected - other_ms) <= 4 * NEAR_MS


def diagonals(times_ms: Array, others_ms: Array, least: int) -> Iterator[tuple[int, int]]:
    """A hit of each diagonal with `least` hits at different times, the diagonals with the most hits first."""
    found: list[tuple[int, int, int]] = []
    for shift in (0, BIN_MS // 2):  # so that no diagonal is parted by the edge of a bin
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
    """What two recordings share, by the hits at these times, in order of time."""
    found: list[Stretch] = []
    for at_ms, other_ms in diagonals(times_ms, others_ms, least):
        if not any(stretch.holds(at_ms, other_ms) for stretch in found):
            stretch = Alignment(one, other, at_ms, other_ms).stretch()
            if stretch is not None and not any(_equal(stretch, known) for known in found):
                found.append(stretch)
    return sorted(found, key=lambda stretch: (stretch.start_ms, stretch.other_start_ms))


def _equal(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches are mostly the same on both sides, so that one of them tells nothing."""
    pairs = ((one.start_ms, one.end_ms, other.start_ms, other.end_ms),
             (one.other_start_ms, one.other_end_ms, other.other_start_ms, other.other_end_ms))  # fmt: skip
    return all(
        min(end, other_end) - max(start, other_start) > 0.5 * min(end - start, other_end - other_start)
        for start, end, other_start, other_end in pairs
    )


@dataclass
class Alignment:
    """A stretch that grows from a hit."""

    one: Marks
    other: Marks
    at_ms: int
    other_ms: int
    places: list[tuple[int, int]] = field(default_factory=list)
    """Indices of landmarks that are the same, in order of the first."""

    def stretch(self) -> Stretch | None:
        """What it has grown to; None where that is no more than chance."""
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
        """Follow the alignment forwards (1) or backwards (-1) until it holds no longer."""
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
        """Speed, and a place on the line of these landmarks: the other's time is that of its place plus speed times."""
        times_ms, others_ms = self._times(places)
        middle, other_middle = float(np.mean(times_ms)), float(np.mean(others_ms))
        offsets = times_ms - middle
        if times_ms[-1] - times_ms[0] < STEP_MS or len(places) < 4:
            return 1.0, middle, other_middle
        speed = float((offsets * (others_ms - other_middle)).sum() / np.square(offsets).sum())
        return min(max(speed, 1 - MOST_SLOPE), 1 + MOST_SLOPE), middle, other_middle

    def _same(self, low: float, high: float, speed: float, middle: float, other_middle: float) -> list[tuple[int, int]]:
        """Landmarks of the first in [low, high] ms that have the same one in the other where a line expects it."""
        first, last = np.searchsorted(self.one.times_ms, [low, high + 1])
        times_ms = self.one.times_ms[first:last]
        expected = other_middle + speed * (times_ms - middle)
        # What the line does not know of the speed counts too: 1 % for a short one, 0.1 % for a long one.
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
    """Logarithm to the base of 10 of one over the most that `same` of `of` landmarks are probable by chance (Chernoff).

    >>> round(improbable(5, 10), 1), improbable(0, 10)
    (10.5, 0.0)
    """
    if same <= 0 or of <= 0 or same / of <= CHANCE:
        return 0.0
    share = same / of
    divergence = share * math.log(share / CHANCE)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - CHANCE))
    return of * divergence / math.log(10)

"""Statistics of the turns of speakers: pure functions of the turns of one recording, with times in seconds."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from manifests.windows import covered_s, union
from pipelines.stages.turn_taking import measured

Span = tuple[float, float]
Turn = Mapping[str, Any]

PAUSE_S = 0.5


def summary(turns: Sequence[Turn], duration_s: float) -> dict[str, Any]:
    """The derived columns of `manifests.schemas.DIARIZE`, for turns that hold `speaker`, `start_s` and `end_s`.

    >>> turns = [
    ...     {"speaker": "SPEAKER_00", "start_s": 0.0, "end_s": 4.0},
    ...     {"speaker": "SPEAKER_01", "start_s": 3.0, "end_s": 6.0},
    ...     {"speaker": "SPEAKER_01", "start_s": 6.25, "end_s": 8.0},
    ... ]
    >>> row = summary(turns, 60.0)
    >>> row["num_speakers"], row["speaker_s"]
    (2, {'SPEAKER_00': 4.0, 'SPEAKER_01': 4.75})
    >>> row["overlap_s"], row["overlap_share"]
    (1.0, 0.129032)
    >>> row["turn_count"], row["turns_per_min"], row["longest_monologue_s"]
    (2, 2.0, 4.0)
    >>> row["offsets_s"], row["second_speaker_share"]
    ([-1.0], 0.457143)
    """
    spoken = by_speaker(turns)
    together_s = overlap_s(spoken)
    any_s = covered_s([span for spans in spoken.values() for span in spans])
    count = sum(len(spans) for spans in joined(spoken).values())
    return {
        "num_speakers": len(spoken),
        "speaker_s": {speaker: round(sum(end - start for start, end in spoken[speaker]), 6) for speaker in spoken},
        "overlap_s": round(together_s, 6),
        "overlap_share": round(min(1.0, together_s / any_s), 6) if any_s else 0.0,
        "turn_count": count,
        "turns_per_min": round(60 * count / duration_s, 6) if duration_s else 0.0,
        "longest_monologue_s": round(longest_monologue_s(spoken), 6),
        **measured(spoken, duration_s),
    }


def by_speaker(turns: Sequence[Turn]) -> dict[str, list[Span]]:
    """Stretches of each speaker, in order of label then time; those of one speaker that touch become one.

    >>> by_speaker([{"speaker": "B", "start_s": 1, "end_s": 3}, {"speaker": "B", "start_s": 3, "end_s": 4}])
    {'B': [(1, 4)]}
    """
    spoken: dict[str, list[Span]] = {speaker: [] for speaker in sorted({turn["speaker"] for turn in turns})}
    for turn in turns:
        spoken[turn["speaker"]].append((turn["start_s"], turn["end_s"]))
    return {speaker: union(spans) for speaker, spans in spoken.items()}


def overlap_s(spoken: Mapping[str, Sequence[Span]]) -> float:
    """Time with two or more speakers at once.

    >>> overlap_s({"A": [(0.0, 4.0)], "B": [(3.0, 6.0)], "C": [(3.5, 3.75)]})
    1.0
    """
    return covered_s([span for spans in spoken.values() for span in spans], depth=2)


def joined(spoken: Mapping[str, Sequence[Span]], pause_s: float = PAUSE_S) -> dict[str, list[Span]]:
    """Turns: the stretches of a speaker, joined over pauses shorter than `pause_s` in which nobody else speaks.

    >>> joined({"A": [(0.0, 1.0), (1.25, 2.0), (2.25, 3.0)], "B": [(2.0, 2.125)]})
    {'A': [(0.0, 2.0), (2.25, 3.0)], 'B': [(2.0, 2.125)]}
    """
    return {speaker: _join(spans, others, pause_s) for speaker, (spans, others) in _with_others(spoken).items()}


def longest_monologue_s(spoken: Mapping[str, Sequence[Span]], pause_s: float = PAUSE_S) -> float:
    """The longest time in which only one speaker speaks, including pauses shorter than `pause_s`.

    Any speech of another speaker ends it, even a "yeah", because only one voice may be in a monologue for training. It
    neither begins nor ends with a pause.

    >>> longest_monologue_s({"A": [(0.0, 5.0), (5.25, 9.0)], "B": [(8.0, 10.0)]})
    8.0
    >>> longest_monologue_s({"A": [(0.0, 1.0), (1.25, 3.0)], "B": [(0.0, 1.0)]})
    1.75
    """
    alone = (_join(without(spans, others), others, pause_s) for spans, others in _with_others(spoken).values())
    return max((end - start for spans in alone for start, end in spans), default=0.0)


def _with_others(spoken: Mapping[str, Sequence[Span]]) -> dict[str, tuple[Sequence[Span], list[Span]]]:
    """The stretches of each speaker, and those in which anybody else speaks."""
    return {
        speaker: (spans, union([span for other, theirs in spoken.items() if other != speaker for span in theirs]))
        for speaker, spans in spoken.items()
    }


def _join(spans: Sequence[Span], others: Sequence[Span], pause_s: float) -> list[Span]:
    """The spans, joined over pauses shorter than `pause_s` that do not overlap any of `others`."""
    joined = list(spans[:1])
    for before, after in itertools.pairwise(spans):
        pause = (before[1], after[0])
        if pause[1] - pause[0] < pause_s and not inside(pause, others):
            joined[-1] = (joined[-1][0], after[1])
        else:
            joined.append(after)
    return joined


def without(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of the spans outside `others`; both are in order and without overlaps."""
    left = []
    for start, end in spans:
        for other_start, other_end in inside((start, end), others):
            if start < other_start:
                left.append((start, other_start))
            start = other_end
        if start < end:
            left.append((start, end))
    return left


def inside(span: Span, others: Sequence[Span]) -> Sequence[Span]:
    """Those of `others`, which are in order and without overlaps, that overlap the span."""
    first = bisect.bisect_right(others, span[0], key=lambda other: other[1])
    return others[first : bisect.bisect_left(others, span[1], key=lambda other: other[0])]


def within(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of the spans inside `others`; both are in order and without overlaps.

    >>> within([(0.0, 4.0), (5.0, 6.0)], [(1.0, 2.0), (3.0, 5.5)])
    [(1.0, 2.0), (3.0, 4.0), (5.0, 5.5)]
    """
    return [(max(start, first), min(end, last)) for start, end in spans for first, last in inside((start, end), others)]

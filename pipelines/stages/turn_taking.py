"""Turn-taking from times alone: floor transfers, gaps, overlaps, backchannels and interruptions.

The stage `diarize` and the simulator both use it, so that their numbers mean the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from manifests.windows import overlaps, union

Span = tuple[float, float]

JOIN_S = 0.6
"""Stretches of a speaker with a longer silence between them belong to different utterances."""
BACKCHANNEL_S = (0.25, 1.0)
"""Shortest and longest length of a backchannel."""
INTERRUPTION_S = (0.2, 1.0)
"""Shortest and longest time for which a speaker who is interrupted continues."""
EDGE_S = 1e-6
"""Times are rounded to this."""


class Utterance(NamedTuple):
    """Speech of one speaker without a long silence in it, in seconds."""

    speaker: Any
    start: float
    stop: float


@dataclass(frozen=True)
class Talk:
    """The utterances of a conversation, in order of their start."""

    floor: list[Utterance]
    """Utterances that take the floor: each begins and ends after the one before it."""
    backchannels: list[Utterance]
    """Utterances within one of another speaker, with a length within `BACKCHANNEL_S`."""
    beside: list[Utterance]
    """Utterances within one of another speaker that are shorter or longer than that."""


def talk(spoken: Mapping[Any, Sequence[Span]]) -> Talk:
    """Join the stretches of speech of each speaker to utterances, and sort these by their role.

    An utterance joins stretches with at most `JOIN_S` between them, whether or not others speak in between. One that
    lies within an utterance of another speaker does not take the floor. Of two that start together, the longer takes
    it.

    >>> utterances = talk({"A": [(0.0, 3.0), (3.5, 6.0)], "B": [(3.0, 3.5), (5.5, 8.0)]})
    >>> utterances.floor
    [Utterance(speaker='A', start=0.0, stop=6.0), Utterance(speaker='B', start=5.5, stop=8.0)]
    >>> utterances.backchannels
    [Utterance(speaker='B', start=3.0, stop=3.5)]
    """
    utterances = [Utterance(speaker, *span) for speaker, spans in spoken.items() for span in _joined(spans)]
    utterances.sort(key=lambda one: (one.start, -one.stop, str(one.speaker)))
    sorted_ = Talk([], [], [])
    for one in utterances:
        if not sorted_.floor or one.stop > sorted_.floor[-1].stop:
            sorted_.floor.append(one)
        elif BACKCHANNEL_S[0] - EDGE_S <= one.stop - one.start <= BACKCHANNEL_S[1] + EDGE_S:
            sorted_.backchannels.append(one)
        else:
            sorted_.beside.append(one)
    return sorted_


def _joined(spans: Sequence[Span]) -> list[Span]:
    """The stretches of one speaker joined over pauses of at most `JOIN_S`."""
    joined: list[Span] = []
    for start, stop in union(spans):
        if joined and start - joined[-1][1] <= JOIN_S + EDGE_S:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def offsets_s(floor: Iterable[Utterance]) -> list[float]:
    """Floor transfer offsets: from the end of each utterance on the floor to the start of the next one, if that is by
    another speaker. Gaps are positive, overlaps negative.

    >>> offsets_s([Utterance("A", 0.0, 2.0), Utterance("B", 1.5, 3.0), Utterance("B", 4.0, 5.0)])
    [-0.5]
    """
    return [round(b.start - a.stop, 6) for a, b in pairwise(floor) if a.speaker != b.speaker]


def of_offsets(offsets: Sequence[float], minutes: float) -> dict[str, Any]:
    """Statistics of floor transfer offsets: rates, the median, two measures of spread, and the share of overlaps."""
    several = len(offsets) > 1
    return {
        "floor_transfers_per_min": len(offsets) / minutes,
        "gaps_per_min": sum(offset >= 0 for offset in offsets) / minutes,
        "offset_median_s": float(np.median(offsets)) if offsets else None,
        "offset_sd_s": float(np.std(offsets, ddof=1)) if several else None,
        "offset_iqr_s": float(np.subtract(*np.quantile(offsets, (0.75, 0.25)))) if several else None,
        "overlapped_transfers": sum(offset < 0 for offset in offsets) / len(offsets) if offsets else None,
    }


def measured(spoken: Mapping[Any, Sequence[Span]], duration_s: float) -> dict[str, Any]:
    """The columns of `manifests.schemas.DIARIZE` about turn-taking, from the stretches of speech of each speaker.

    All are null if fewer than two speakers speak, and those about offsets if there is no floor transfer.

    >>> row = measured({"A": [(0.0, 5.0), (8.0, 12.0)], "B": [(2.0, 2.5), (5.5, 7.0), (11.5, 15.0)]}, 60.0)
    >>> row["offsets_s"], row["gaps_per_min"], row["offset_median_s"], row["overlapped_transfers"]
    ([0.5, 1.0, -0.5], 2.0, 0.5, 0.333333)
    >>> row["overlaps_per_min"], row["backchannels_per_min"], row["interruptions_per_min"]
    (2.0, 1.0, 1.0)
    >>> row["second_speaker_share"]
    0.37931
    """
    if len(spoken) < 2 or not duration_s:
        return dict.fromkeys(NAMES)
    minutes = duration_s / 60
    utterances = talk(spoken)
    offsets = offsets_s(utterances.floor)
    speech_s = sorted(sum(stop - start for start, stop in union(spans)) for spans in spoken.values())
    low, high = INTERRUPTION_S
    row = {
        "second_speaker_share": speech_s[-2] / sum(speech_s),
        "overlaps_per_min": len(overlaps(list(spoken.values()))) / minutes,
        "backchannels_per_min": len(utterances.backchannels) / minutes,
        "interruptions_per_min": sum(low - EDGE_S <= -offset <= high + EDGE_S for offset in offsets) / minutes,
        **of_offsets(offsets, minutes),
    }
    return {name: value if value is None else round(value, 6) for name, value in row.items()} | {"offsets_s": offsets}


NAMES = (
    *("second_speaker_share", "floor_transfers_per_min", "gaps_per_min", "overlaps_per_min", "backchannels_per_min"),
    *("interruptions_per_min", "overlapped_transfers", "offset_median_s", "offset_sd_s", "offset_iqr_s", "offsets_s"),
)
"""The columns that `measured` returns."""

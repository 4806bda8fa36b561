"""What a conversation is like, measured from its schedule: shares, offsets, overlaps, backchannels, interruptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from manifests.windows import union
from pipelines.simulate.turns import Kind, Placed, Schedule

Span = tuple[float, float]


def statistics(made: Schedule, speakers: int, num_samples: int, rate: int) -> dict[str, Any]:
    """The statistics of one conversation; docs/simulate.md lists them. What nothing was measured for is null."""
    minutes = num_samples / rate / 60
    placed = made.placed
    offsets = floor_transfer_offsets(placed, rate)
    speech = [union([span for one in placed if one.speaker == i for span in one.speech()]) for i in range(speakers)]
    speech_s = [sum(stop - start for start, stop in spans) / rate for spans in speech]
    anybody_s = sum(stop - start for start, stop in union([span for spans in speech for span in spans])) / rate
    overlap_s = sum(stop - start for start, stop in overlaps(speech)) / rate
    kinds = Counter(one.kind for one in placed)
    again = len(placed) - len({one.utterance for one in placed})
    return {
        "speakers_heard": len({one.speaker for one in placed}),
        "utterances": len(placed),
        "utterances_said_again": again,
        "words": sum(not cut for one in placed for _, cut in one.words()),
        "speech_s": speech_s,
        "shares": [one / total if (total := sum(speech_s)) else None for one in speech_s],
        "speech_share": anybody_s * rate / num_samples,
        "overlap_s": overlap_s,
        "overlap_share": overlap_s / anybody_s if anybody_s else None,
        "overlaps_per_min": len(overlaps(speech)) / minutes,
        "floor_transfers_per_min": len(offsets) / minutes,
        "gaps_per_min": sum(offset >= 0 for offset in offsets) / minutes,
        "offset_median_s": float(np.median(offsets)) if offsets else None,
        "offset_sd_s": float(np.std(offsets, ddof=1)) if len(offsets) > 1 else None,
        "overlapped_transfers": sum(offset < 0 for offset in offsets) / len(offsets) if offsets else None,
        "backchannels_per_min": kinds[Kind.BACKCHANNEL] / minutes,
        "backchannels_left_out": made.backchannels_left_out,
        "interruptions_per_min": kinds[Kind.INTERRUPTION] / minutes,
    }


def floor_transfer_offsets(placed: Iterable[Placed], rate: int) -> list[float]:
    """Seconds from the end of each utterance to the beginning of the next one, where another speaker says that.

    Backchannels take no floor and do not count.
    """
    floor = [one for one in placed if one.kind is not Kind.BACKCHANNEL]
    return [(b.start - a.stop) / rate for a, b in pairwise(floor) if a.speaker != b.speaker]


def overlaps(speech: Sequence[Sequence[Span]]) -> list[Span]:
    """Where at least two speakers speak at once, by the stretches of speech of each."""
    edges = sorted((at, step) for spans in speech for span in spans for at, step in zip(span, (1, -1), strict=True))
    found: list[Span] = []
    speaking, begun = 0, 0.0
    for at, step in edges:  # ends come before beginnings at the same sample
        speaking += step
        if step == 1 and speaking == 2:
            begun = at
        elif step == -1 and speaking == 1 and at > begun:
            found.append((begun, at))
    return found

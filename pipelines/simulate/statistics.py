"""Statistics of a conversation from its schedule: shares, offsets, overlaps, backchannels, interruptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from manifests.windows import overlaps, union
from pipelines.simulate.turns import Kind, Placed, Schedule
from pipelines.stages.turn_taking import Utterance, measured, of_offsets, offsets_s

Span = tuple[float, float]


def statistics(made: Schedule, speakers: int, num_samples: int, rate: int) -> dict[str, Any]:
    """The statistics of one conversation, which docs/simulate.md lists. Those that cannot be computed are null."""
    minutes = num_samples / rate / 60
    placed = made.placed
    offsets = floor_transfer_offsets(placed, rate)
    speech = [union([span for one in placed if one.speaker == i for span in one.speech()]) for i in range(speakers)]
    speech_s = [sum(stop - start for start, stop in spans) / rate for spans in speech]
    anybody_s = sum(stop - start for start, stop in union([span for spans in speech for span in spans])) / rate
    overlap_s = sum(stop - start for start, stop in overlaps(speech)) / rate
    by_times = measured(stretches_s(placed, rate), num_samples / rate)
    kinds = Counter(one.kind for one in placed)
    again = len(placed) - len({one.utterance for one in placed})
    return {
        "active_speakers": len({one.speaker for one in placed}),
        "utterances": len(placed),
        "utterances_repeated": again,
        "words": sum(not cut for one in placed for _, cut in one.words()),
        "speech_s": speech_s,
        "shares": [one / total if (total := sum(speech_s)) else None for one in speech_s],
        "speech_share": anybody_s * rate / num_samples,
        "overlap_s": overlap_s,
        "overlap_share": overlap_s / anybody_s if anybody_s else None,
        "overlaps_per_min": len(overlaps(speech)) / minutes,
        **of_offsets(offsets, minutes),
        "backchannels_per_min": kinds[Kind.BACKCHANNEL] / minutes,
        "backchannels_left_out": made.backchannels_left_out,
        "interruptions_per_min": kinds[Kind.INTERRUPTION] / minutes,
        "turn_taking": {name: value for name, value in by_times.items() if name != "offsets_s"},
    }


def floor_transfer_offsets(placed: Iterable[Placed], rate: int) -> list[float]:
    """Seconds from the end of each utterance to the start of the next one, if that is by another speaker.

    Backchannels do not take the floor and do not count.
    """
    floor = [one for one in placed if one.kind is not Kind.BACKCHANNEL]
    return offsets_s(Utterance(one.speaker, one.start / rate, one.stop / rate) for one in floor)


def stretches_s(placed: Iterable[Placed], rate: int) -> dict[int, list[Span]]:
    """The stretches of speech of each speaker who speaks, in seconds."""
    found: dict[int, list[Span]] = {}
    for one in placed:
        found.setdefault(one.speaker, []).extend((start / rate, stop / rate) for start, stop in one.speech())
    return found

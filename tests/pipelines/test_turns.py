"""Properties of what turns add up to, against a count of every instant."""

import doctest
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manifests import windows
from pipelines.stages import linking, turn_taking, turns

# On a grid of 1/8 s all sums are exact, so counted and computed seconds must be equal.
TICK_S = 0.125
spans = st.tuples(st.integers(0, 80), st.integers(1, 24)).map(lambda span: (span[0], span[0] + span[1]))
drawn = st.lists(st.tuples(st.sampled_from("ABC"), spans), max_size=12)
Drawn = list[tuple[str, tuple[int, int]]]


def rows(drawn: Drawn) -> list[dict[str, object]]:
    return [
        {"speaker": speaker, "track": 0, "start_s": start * TICK_S, "end_s": end * TICK_S}
        for speaker, (start, end) in drawn
    ]


def heard(drawn: Drawn) -> list[set[str]]:
    """Speakers in each tick."""
    return [{speaker for speaker, (start, end) in drawn if start <= tick < end} for tick in range(120)]


@pytest.mark.parametrize("module", [turns, turn_taking, linking, windows])
def test_examples(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@given(drawn)
def test_seconds_are_those_counted(drawn: Drawn) -> None:
    row, ticks = turns.summary(rows(drawn), 20.0), heard(drawn)
    speakers = {speaker for speaker, _ in drawn}
    assert row["num_speakers"] == len(speakers)
    assert row["speaker_s"] == {
        speaker: TICK_S * sum(speaker in tick for tick in ticks) for speaker in sorted(speakers)
    }
    together, anyone = sum(len(tick) > 1 for tick in ticks), sum(len(tick) > 0 for tick in ticks)
    assert row["overlap_s"] == TICK_S * together
    assert row["overlap_share"] == pytest.approx(together / anyone if anyone else 0.0, abs=1e-6)


@given(drawn)
@example([("A", (0, 1)), ("A", (2, 3)), ("B", (0, 1))])  # what is left of A after B begins with a pause
def test_the_longest_monologue_is_that_counted(drawn: Drawn) -> None:
    ticks = heard(drawn)
    longest = 0
    for speaker in "ABC":
        mine = [index for index, tick in enumerate(ticks) if tick == {speaker}]
        for first in mine:
            last = first
            for index in mine:
                quiet = ticks[last + 1 : index]
                if index > last and not any(quiet) and len(quiet) * TICK_S < turns.PAUSE_S:
                    last = index
            longest = max(longest, last + 1 - first)
    assert turns.summary(rows(drawn), 20.0)["longest_monologue_s"] == longest * TICK_S


@given(drawn, st.permutations(range(12)))
def test_neither_the_order_nor_the_time_of_day_matters(drawn: Drawn, order: list[int]) -> None:
    shuffled = [drawn[index] for index in order if index < len(drawn)]
    later = [(speaker, (start + 400, end + 400)) for speaker, (start, end) in drawn]
    row = turns.summary(rows(drawn), 20.0)
    assert row == turns.summary(rows(shuffled), 20.0) == turns.summary(rows(later), 20.0)


@given(drawn)
def test_turns_are_at_least_one_a_speaker_and_at_most_one_a_stretch(drawn: Drawn) -> None:
    spoken = turns.by_speaker(rows(drawn))
    for speaker, mine in turns.joined(spoken).items():
        assert 1 <= len(mine) <= len(spoken[speaker])
        assert all(before[1] < after[0] for before, after in itertools.pairwise(mine))
    row = turns.summary(rows(drawn), 20.0)
    assert row["turns_per_min"] == pytest.approx(3 * row["turn_count"])


def test_no_turns_and_no_sound() -> None:
    row = turns.summary([], 0.0)
    assert row["num_speakers"] == row["turn_count"] == 0
    assert (row["speaker_s"], row["overlap_share"], row["turns_per_min"], row["longest_monologue_s"]) == ({}, 0, 0, 0)

"""Turn-taking by times alone, against the schedules of simulated conversations, where who does what is known."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simulate_turns import HOUR, RATE, made
from test_turns import Drawn, drawn, rows

from manifests import schemas
from pipelines.simulate.settings import TurnTaking
from pipelines.simulate.statistics import statistics, stretches_s
from pipelines.simulate.turns import Kind, Schedule, schedule
from pipelines.simulate.utterances import Utterance, utterances
from pipelines.stages.turn_taking import NAMES, measured, talk
from pipelines.stages.turns import summary

SHARED = ("floor_transfers_per_min", "gaps_per_min", "overlaps_per_min", "backchannels_per_min", "overlapped_transfers",
          "offset_median_s", "offset_sd_s", "offset_iqr_s")  # fmt: skip
"""What the truth tells of its plan under the names of the columns."""


def told(found: Schedule, speakers: int, hours: float) -> dict[str, Any]:
    return statistics(found, speakers, round(hours * HOUR), RATE)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.6, 0.4], [0.4, 0.3, 0.3]])
def test_the_plan_is_found_in_times_where_nobody_comes_back_at_once(shares: list[float]) -> None:
    """Utterances are so long that none lies between two of another speaker with less than a pause between them."""
    found = made(shares, 1, lengths_s=(3.0, 6.0), offset_sd_s=0.4, interruptions=0, backchannels_per_min=0)
    truth = told(found, len(shares), 1)
    by_times = truth["turn_taking"]
    assert truth["overlapped_transfers"] > 0.2
    assert {name: truth[name] for name in SHARED} == pytest.approx({name: by_times[name] for name in SHARED}, abs=2e-6)
    assert by_times["second_speaker_share"] == pytest.approx(sorted(truth["shares"])[-2], abs=1e-6)
    row = summary(list(turns(found)), 3600.0)
    assert {name: row[name] for name in by_times} == pytest.approx(by_times, abs=2e-6)
    assert row["overlap_s"] == pytest.approx(truth["overlap_s"])


def turns(found: Schedule) -> Iterator[dict[str, Any]]:
    """The stretches of speech of a schedule as turns of a diarized recording."""
    for speaker, spans in stretches_s(found.placed, RATE).items():
        for start_s, end_s in spans:
            yield {"speaker": f"SPEAKER_{speaker:02d}", "start_s": round(start_s, 6), "end_s": round(end_s, 6)}


def spoken_voice(number: int) -> list[Utterance]:
    """The utterances of a recording with pauses as people make them, 0.35 s in the median."""
    rng = np.random.default_rng(number)
    at, stretches = RATE, []
    for length_s, pause_s in zip(
        rng.lognormal(math.log(1.2), 0.7, 300), rng.lognormal(math.log(0.35), 0.6, 300), strict=True
    ):
        stretches.append((at, at + round(length_s * RATE)))
        at = stretches[-1][1] + round(pause_s * RATE)
    return utterances(f"voice-{number}", stretches, at, RATE)


@pytest.mark.parametrize("speakers", [2, 4])
def test_with_the_settings_of_the_simulator_the_plan_is_nearly_found(speakers: int) -> None:
    """Short turns may be taken for backchannels and the other way round: times alone do not tell them apart."""
    voices = [spoken_voice(10 + number) for number in range(speakers)]
    found = schedule([1 / speakers] * speakers, voices, HOUR, RATE, TurnTaking(), np.random.default_rng(1))
    truth = told(found, speakers, 1)
    by_times = truth["turn_taking"]
    assert by_times["floor_transfers_per_min"] == pytest.approx(truth["floor_transfers_per_min"], rel=0.06)
    assert by_times["offset_median_s"] == pytest.approx(truth["offset_median_s"], abs=0.04)
    assert by_times["offset_sd_s"] == pytest.approx(truth["offset_sd_s"], rel=0.12)
    assert by_times["overlapped_transfers"] == pytest.approx(truth["overlapped_transfers"], abs=0.03)
    said = {(one.speaker, one.start) for one in found.placed if one.kind is Kind.BACKCHANNEL}
    heard = {(one.speaker, round(one.start * RATE)) for one in talk(stretches_s(found.placed, RATE)).backchannels}
    assert len(said & heard) > 0.72 * len(said)
    assert len(said & heard) > 0.93 * len(heard)


def test_who_breaks_in_while_the_other_breaks_off_is_found_but_not_alone() -> None:
    found = made([0.5, 0.5], 2, lengths_s=(3.0, 6.0), interruptions=0.3, backchannels_per_min=0)
    planned = {
        round(after.start / RATE, 4)
        for before, after in pairwise(found.placed)
        if after.kind is Kind.INTERRUPTION and before.stop - after.start >= 0.2 * RATE
    }
    floor = talk(stretches_s(found.placed, RATE)).floor
    heard = {round(b.start, 4) for a, b in pairwise(floor) if a.speaker != b.speaker and 0.2 <= a.stop - b.start <= 1}
    assert len(planned) > 100
    assert len(planned & heard) > 0.97 * len(planned)  # somebody who broke off soon may speak again within a pause
    truth = told(found, 2, 2)
    assert truth["turn_taking"]["interruptions_per_min"] == pytest.approx(len(heard) / 120, abs=0.02)
    assert truth["turn_taking"]["interruptions_per_min"] > truth["interruptions_per_min"]


def test_without_two_speakers_or_without_a_change_there_is_nothing_to_tell() -> None:
    monologue = [{"speaker": "A", "start_s": 0.0, "end_s": 5.0}]
    for few in ([], monologue):
        row = summary(few, 60.0)
        assert {name: row[name] for name in NAMES} == dict.fromkeys(NAMES)
    within = summary([*monologue, {"speaker": "B", "start_s": 2.0, "end_s": 2.5}], 60.0)
    assert (within["offsets_s"], within["offset_median_s"], within["overlapped_transfers"]) == ([], None, None)
    assert (within["gaps_per_min"], within["backchannels_per_min"], within["overlaps_per_min"]) == (0, 1, 1)
    once = summary([*monologue, {"speaker": "B", "start_s": 6.0, "end_s": 7.0}], 60.0)
    assert (once["offset_median_s"], once["offset_sd_s"], once["offset_iqr_s"]) == (1.0, None, None)


def test_the_names_are_those_of_the_schema() -> None:
    assert set(NAMES) == {column.name for column in schemas.TURN_TAKING}
    assert set(NAMES) <= set(schemas.DIARIZE.names)


@settings(max_examples=50)
@given(drawn, st.sampled_from(["ABC", "BCA", "CBA"]))
def test_nothing_is_lost_and_the_floor_is_held_by_one_after_another(drawn: Drawn, order: str) -> None:
    spoken: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
    for row in rows(drawn):
        spoken[str(row["speaker"])].append((float(str(row["start_s"])), float(str(row["end_s"]))))
    spoken = {speaker: spans for speaker, spans in spoken.items() if spans}
    found = talk(spoken)
    for before, after in pairwise(found.floor):
        assert before.start <= after.start
        assert before.stop < after.stop
    inside = [*found.backchannels, *found.beside]
    for one in inside:
        assert any(on.start <= one.start and one.stop <= on.stop and on.speaker != one.speaker for on in found.floor)
    for speaker, spans in spoken.items():
        own = [one for one in [*found.floor, *inside] if one.speaker == speaker]
        assert all(sum(one.start <= start and stop <= one.stop for one in own) == 1 for start, stop in spans)
    found_row = measured(spoken, 20.0)
    if len(spoken) > 1:
        assert 0 < found_row["second_speaker_share"] <= 0.5
        assert found_row["gaps_per_min"] <= found_row["floor_transfers_per_min"] == len(found_row["offsets_s"]) * 3

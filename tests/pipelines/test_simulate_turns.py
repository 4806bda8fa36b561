"""Schedules of simulated conversations: what is measured in them is what was asked for, within its sampling error."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import kstest

from manifests.windows import overlaps
from pipelines.simulate.settings import TurnTaking
from pipelines.simulate.statistics import floor_transfer_offsets, statistics
from pipelines.simulate.turns import BACKCHANNEL_S, Kind, OffsetDistribution, Schedule, schedule
from pipelines.simulate.utterances import MARGIN_S, Utterance, utterances

RATE = 16000
HOUR = 3600 * RATE


def voice(number: int, lengths_s: tuple[float, float]) -> list[Utterance]:
    """A hundred utterances of two stretches of speech each."""
    rng = np.random.default_rng(number)
    made, at = [], RATE
    for _ in range(100):
        length = round(rng.uniform(*lengths_s) * RATE)
        half, pause = length // 2, RATE // 5
        speech = ((at, at + half), (at + half + pause, at + length))
        made.append(Utterance(f"voice-{number}", (at - 800, at + length + 800), speech))
        at += length + RATE
    return made


def made(
    shares: list[float], hours: float = 2, seed: int = 0, lengths_s: tuple[float, float] = (1.5, 4.5), **turns: float
) -> Schedule:
    voices = [voice(number, lengths_s) for number in range(len(shares))]
    return schedule(shares, voices, round(hours * HOUR), RATE, TurnTaking(**turns), np.random.default_rng(seed))


def test_floor_transfer_offsets_have_the_distribution_that_was_asked_for() -> None:
    turns = TurnTaking(interruptions=0, backchannels_per_min=0)
    wanted = OffsetDistribution(turns)
    offsets = np.array(
        floor_transfer_offsets(made([0.5, 0.5], 3, interruptions=0, backchannels_per_min=0).placed, RATE)
    )
    count = len(offsets)
    assert count > 1000
    assert kstest(offsets, "exponnorm", args=(turns.offset_tail, wanted.mu, wanted.sigma)).pvalue > 0.001
    assert abs(np.median(offsets) - 0.2) < 4 * 1.25 * 0.6 / math.sqrt(count)
    assert abs(np.std(offsets) - 0.6) < 4 * 0.6 / math.sqrt(count)
    assert np.mean(offsets) > np.median(offsets)  # skewed towards gaps


def test_other_parameters_give_other_offsets() -> None:
    found = made([0.5, 0.5], offset_median_s=0.5, offset_sd_s=0.3, interruptions=0)
    offsets = floor_transfer_offsets(found.placed, RATE)
    assert abs(np.median(offsets) - 0.5) < 4 * 1.25 * 0.3 / math.sqrt(len(offsets))
    assert abs(np.std(offsets) - 0.3) < 4 * 0.3 / math.sqrt(len(offsets))


def test_about_two_in_five_changes_of_speaker_overlap_by_default() -> None:
    found = statistics(made([0.5, 0.5], 3), 2, 3 * HOUR, RATE)
    assert 0.33 < found["overlapped_transfers"] < 0.45


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.8, 0.2], [0.4, 0.3, 0.2, 0.1]])
def test_speakers_have_their_shares_of_the_time(shares: list[float]) -> None:
    found = statistics(made(shares, 6, backchannels_per_min=0), len(shares), 6 * HOUR, RATE)
    # An utterance and its successor are correlated by `hold`, which widens the error.
    error = 1.3 * math.sqrt(0.25 / found["utterances"])
    assert np.abs(np.array(found["shares"]) - shares).max() < 4 * error


def test_shares_hold_although_voices_have_utterances_of_different_lengths() -> None:
    voices = [voice(0, (1, 2)), voice(1, (4, 8))]
    found = schedule([0.5, 0.5], voices, 6 * HOUR, RATE, TurnTaking(backchannels_per_min=0), np.random.default_rng(0))
    assert abs(statistics(found, 2, 6 * HOUR, RATE)["shares"][0] - 0.5) < 0.04


def test_backchannels_come_at_their_rate_within_utterances_of_others() -> None:
    found = made([0.4, 0.3, 0.3], 4, backchannels_per_min=5.0)
    floor = [one for one in found.placed if one.kind is not Kind.BACKCHANNEL]
    said = [one for one in found.placed if one.kind is Kind.BACKCHANNEL]
    assert abs(len(said) + found.backchannels_left_out - 1200) < 4 * math.sqrt(1200)
    assert found.backchannels_left_out < 0.02 * len(said)
    for one in said:
        assert one.length <= BACKCHANNEL_S[1] * RATE
        assert any(host.start < one.start and one.stop < host.stop and host.speaker != one.speaker for host in floor)


def test_the_interrupted_break_off_while_the_other_speaks() -> None:
    found = made([0.5, 0.5], 4, interruptions=0.3, backchannels_per_min=0)
    floor = found.placed
    pairs = [(before, after) for before, after in pairwise(floor) if after.kind is Kind.INTERRUPTION]
    transfers = len(floor_transfer_offsets(floor, RATE))
    # Some are given up, since the other one would not be speaking any more.
    assert 0.2 < len(pairs) / transfers < 0.3 + 4 * math.sqrt(0.21 / transfers)
    for before, after in pairs:
        assert before.speaker != after.speaker
        assert before.start < after.start < before.stop < after.stop
        assert before.stop - after.start <= RATE
    assert sum(one.broken_off for one in floor) > 0.5 * len(pairs)
    assert sum(one.broken_off for one in floor) <= len(pairs)


@pytest.mark.parametrize("speakers", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_nobody_speaks_twice_at_once_or_outside_the_conversation(speakers: int, seed: int) -> None:
    found = made([1 / speakers] * speakers, 0.5, seed, (0.3, 6.0), interruptions=0.3, backchannels_per_min=10)
    assert found.placed
    for speaker in range(speakers):
        own = sorted((one.start, one.stop) for one in found.placed if one.speaker == speaker)
        assert own
        assert all(stop < start for (_, stop), (start, _) in pairwise(own))
    assert min(one.sound_start for one in found.placed) >= 0
    assert max(one.stop for one in found.placed) <= 0.5 * HOUR
    if speakers == 1:
        assert {one.kind for one in found.placed} == {Kind.TURN}


def test_pauses_have_the_median_that_was_asked_for() -> None:
    floor = made([1.0], 3, pause_median_s=0.8).placed
    pauses = [(after.start - before.stop) / RATE for before, after in pairwise(floor)]
    error = 1.25 * TurnTaking().pause_spread / math.sqrt(len(pauses))
    assert abs(math.log(np.median(pauses) / 0.8)) < 4 * error


def test_equal_seeds_give_equal_schedules() -> None:
    assert made([0.5, 0.5], 0.1) == made([0.5, 0.5], 0.1)
    assert made([0.5, 0.5], 0.1) != made([0.5, 0.5], 0.1, seed=1)


def test_every_utterance_is_said_before_one_is_said_again() -> None:
    placed = [one for one in made([1.0], 1).placed if one.kind is Kind.TURN]
    assert len({one.utterance for one in placed[:100]}) == 100
    found = statistics(Schedule(placed[:150], 0), 1, HOUR, RATE)
    assert found["utterances_repeated"] == 50


@pytest.mark.parametrize("lengths_s", [(1.5, 4.5), (1, 12)])
@pytest.mark.parametrize("speakers", [2, 4, 8])
def test_everybody_is_heard_in_a_short_conversation_also_with_a_small_share(
    speakers: int, lengths_s: tuple[float, float]
) -> None:
    shares = [1 - 0.01 * (speakers - 1), *([0.01] * (speakers - 1))]
    for seed in range(40):
        found = made(shares, 0.75 / 60, seed, lengths_s)
        heard = {one.speaker for one in found.placed if one.kind is not Kind.BACKCHANNEL}
        assert len(heard) == speakers, f"seed {seed}"
        assert found.placed[-1].stop <= 0.75 * 60 * RATE


def test_who_cannot_be_heard_for_want_of_time_is_left_to_the_statistics() -> None:
    found = made([0.125] * 8, 6 / 3600, lengths_s=(2, 4))
    assert 1 <= len({one.speaker for one in found.placed}) < 8


def test_turns_and_backchannels_share_what_was_said() -> None:
    """No utterance is a backchannel and a turn, or twice either, while enough others are left."""
    found = made([0.5, 0.5], 3 / 60, lengths_s=(0.5, 2), backchannels_per_min=6)
    assert any(one.kind is Kind.BACKCHANNEL for one in found.placed)
    assert len({one.utterance for one in found.placed}) == len(found.placed)


def test_recordings_are_cut_in_silences_and_no_speech_is_lost() -> None:
    rng = np.random.default_rng(0)
    edges = np.cumsum(rng.integers(2000, 60_000, size=400)).tolist()
    stretches = list(zip(edges[::2], edges[1::2], strict=True))
    found = utterances("a", stretches, edges[-1] + 100, RATE)
    assert [span for one in found for span in one.speech] == stretches
    assert found == utterances("a", stretches, edges[-1] + 100, RATE)
    assert found != utterances("b", stretches, edges[-1] + 100, RATE)
    for one in found:
        assert one.first - MARGIN_S * RATE <= one.sound[0] <= one.first
        assert one.speech[-1][1] <= one.sound[1] <= one.speech[-1][1] + MARGIN_S * RATE
    assert all(before.sound[1] <= after.sound[0] for before, after in pairwise(found))
    assert found[-1].sound[1] == edges[-1] + 100
    assert 10 < len(found) < 200  # some are joined


def test_overlaps_are_where_two_or_more_speak() -> None:
    assert overlaps([[(0, 10), (20, 30)], [(5, 12), (30, 40)], [(8, 9), (25, 26)]]) == [(5, 10), (25, 26)]

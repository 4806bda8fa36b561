"""Stretches of voices, their clustering by log odds, and the turns made of them: pure functions on made-up windows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stages.clustering import cluster, joined, log_odds, unit
from pipelines.stages.confidence import of_count
from pipelines.stages.speakers import Compensation
from pipelines.stages.stretches import (
    FRAMES,
    POWERSET,
    VOICES,
    Stretches,
    Windows,
    seconds,
    spans,
    speakers_active,
    stretches_of,
)

STEP = 296
POWERSET_OF_FIRST_VOICE = np.eye(len(POWERSET))[1]


def windows_of(spoken: list[list[tuple[int, int]]], frames: int, seed: int = 0) -> Windows:
    """Windows over the frames in which speakers speak; every window names its voices in an order of its own."""
    truth = np.zeros((frames, len(spoken)), bool)
    for speaker, parts in enumerate(spoken):
        for first, last in parts:
            truth[first:last, speaker] = True
    rng = np.random.default_rng(seed)
    starts = [*range(0, frames - FRAMES, STEP), frames - FRAMES]
    classes = np.zeros((len(starts), FRAMES, len(POWERSET)), np.float32)
    for window, start in enumerate(starts):
        heard = truth[start : start + FRAMES]
        most = np.argsort(-heard.sum(axis=0), kind="stable")[:VOICES]
        here = most[heard[:, most].any(axis=0)]
        places = rng.permutation(VOICES)[: len(here)]
        voices = np.zeros((FRAMES, VOICES))
        voices[:, places] = heard[:, here]
        chosen = (np.abs(voices[:, None, :] - POWERSET[None])).sum(axis=2).argmin(axis=1)
        classes[window, np.arange(FRAMES), chosen] = 1.0
    return Windows(np.array(starts), classes, frames * 270 + 721)


def vectors_of(stretches: Stretches, spoken: list[list[tuple[int, int]]], noise: float, seed: int = 0) -> np.ndarray:
    """Embeddings around a direction of each speaker, noisier where a stretch is short."""
    rng = np.random.default_rng(seed)
    found = np.full((len(stretches.first), 64), np.nan)
    for number in range(len(found)):
        overlap = [
            sum(
                max(0, min(last, stretches.last[number]) - max(first, stretches.first[number])) for first, last in parts
            )
            for parts in spoken
        ]
        spread = rng.normal(size=64) * noise / np.sqrt(8 * max(stretches.alone_s[number], 0.1))
        found[number] = np.eye(64)[int(np.argmax(overlap))] + spread
    return unit(found)


def taking_turns(speakers: int, frames: int, length: int) -> list[list[tuple[int, int]]]:
    spoken: list[list[tuple[int, int]]] = [[] for _ in range(speakers)]
    for number, start in enumerate(range(0, frames - length, length + 30)):
        spoken[number % speakers].append((start, start + length))
    return spoken


@pytest.mark.parametrize("speakers", [1, 2, 3, 5])
def test_speakers_of_windows_are_found_and_given_their_time(speakers: int) -> None:
    frames = 3000
    spoken = taking_turns(speakers, frames, 120)
    windows = windows_of(spoken, frames)
    stretches = stretches_of(windows)
    found = cluster(stretches, vectors_of(stretches, spoken, 0.3))
    assert found.centroids.shape[0] == speakers
    assert found.certainty.min() > 0.9
    active, probability = speakers_active(windows, stretches, found.labels, found.certainty)
    truth = np.zeros((windows.num_frames, speakers), bool)
    for speaker, parts in enumerate(spoken):
        for first, last in parts:
            truth[first:last, speaker] = True
    best = max((truth == active[:, list(order)]).mean() for order in itertools.permutations(range(speakers)))
    # A window names three voices at most: of five speakers it leaves out some.
    assert best > (0.99 if speakers <= VOICES else 0.9)
    assert probability[active].mean() > 0.9
    assert (probability <= 1 + 1e-6).all()


def test_overlapped_speech_is_given_to_both() -> None:
    spoken = [[(0, 400), (700, 1000)], [(300, 700), (900, 1200)]]
    windows = windows_of(spoken, 1300)
    stretches = stretches_of(windows)
    found = cluster(stretches, vectors_of(stretches, spoken, 0.2))
    active, _ = speakers_active(windows, stretches, found.labels, found.certainty)
    both = active.sum(axis=1) == 2
    assert [part for part in spans(both) if part[1] - part[0] > 20] == [(300, 400), (900, 1000)]
    assert all(len(frames) == 0 or not both[frames].any() for frames in stretches.alone)


def test_each_stretch_is_central_in_one_window() -> None:
    spoken = taking_turns(2, 2400, 100)
    stretches = stretches_of(windows_of(spoken, 2400))
    whole = [(first, last) for parts in spoken for first, last in parts]
    for first, last in whole:
        same = (stretches.first == first) & (stretches.last == last)
        assert same.sum() >= 1
        assert stretches.central[same].sum() >= 1
    assert stretches.central.sum() < len(stretches.central)


def test_brief_groups_are_no_speakers_and_the_most_are_kept() -> None:
    spoken = [[(0, 500), (900, 1400)], [(520, 600), (1420, 1500)], [(620, 880)]]
    windows = windows_of(spoken, 1600)
    stretches = stretches_of(windows)
    vectors = vectors_of(stretches, spoken, 0.1)
    assert len(cluster(stretches, vectors).speech_s) == 3
    assert len(cluster(stretches, vectors, min_speaker_s=seconds(200)).speech_s) == 2
    assert len(cluster(stretches, vectors, min_speaker_share=0.15).speech_s) == 2
    assert len(cluster(stretches, vectors, max_speakers=1).speech_s) == 1
    assert len(cluster(stretches, vectors, min_speaker_s=1000.0).speech_s) == 1
    assert len(cluster(stretches, vectors, prior=1000.0).speech_s) == 1
    assert set(cluster(stretches, vectors, max_speakers=1).labels) == {0}


def test_what_a_channel_adds_to_all_embeddings_does_not_join_speakers() -> None:
    spoken = taking_turns(3, 3000, 120)
    stretches = stretches_of(windows_of(spoken, 3000))
    channel = np.zeros(64)
    channel[63] = 1.3
    moved = unit(vectors_of(stretches, spoken, 0.2) + channel)
    among = moved[stretches.central] @ moved[stretches.central].T
    assert log_odds(among, np.array(5.0), np.array(5.0)).min() > 0  # by their cosines alone, all are one speaker
    assert len(cluster(stretches, moved).speech_s) == 3


def test_a_stretch_that_another_window_divides_goes_to_whom_it_shares_frames_with() -> None:
    """Two speakers, whom the first window takes for one voice and the second one tells apart."""
    spoken = [[(445, 505)], [(512, 585)]]
    windows = windows_of(spoken, FRAMES + STEP)
    first, second = windows.classes
    second = second.copy()
    first[:] = 0
    first[:445, 0] = first[585:, 0] = 1
    first[445:585] = POWERSET_OF_FIRST_VOICE
    stretches = stretches_of(Windows(windows.starts, np.stack([first, second]), windows.num_samples))
    assert len(stretches.first) == 3
    vectors = vectors_of(stretches, spoken, 0.0)
    vectors[~stretches.central] = np.nan
    labels = cluster(stretches, vectors, min_speaker_s=0.5).labels
    assert labels[0] == labels[2]  # the longer of the two
    assert labels[1] != labels[2]


def test_without_any_embedding_there_is_one_speaker() -> None:
    spoken = [[(100, 110)], [(130, 140)]]
    stretches = stretches_of(windows_of(spoken, FRAMES + 1))
    found = cluster(stretches, np.full((len(stretches.first), 64), np.nan))
    assert set(found.labels) == {0}
    nothing = stretches_of(windows_of([[]], FRAMES + 1))
    assert len(cluster(nothing, np.zeros((0, 64))).labels) == 0


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_spans_are_the_runs_of_true(values: list[bool]) -> None:
    active = np.array(values, bool)
    again = np.zeros(len(active), bool)
    parts = spans(active)
    for first, last in parts:
        assert first < last
        again[first:last] = True
    assert (again == active).all()
    assert all(before[1] < after[0] for before, after in itertools.pairwise(parts))


@given(st.floats(0.1, 60), st.floats(0.1, 60), st.floats(-1, 0.99))
def test_log_odds_rise_with_the_cosine_and_shrink_with_brevity(one_s: float, other_s: float, cosine: float) -> None:
    here = log_odds(np.array(cosine), np.array(one_s), np.array(other_s))
    assert here == log_odds(np.array(cosine), np.array(other_s), np.array(one_s))
    assert here < log_odds(np.array(cosine + 0.01), np.array(one_s), np.array(other_s))
    slope = log_odds(np.array(1.0), np.array(one_s), np.array(other_s)) - log_odds(
        np.array(0.0), np.array(one_s), np.array(other_s)
    )
    longer = log_odds(np.array(1.0), np.array(2 * one_s), np.array(other_s)) - log_odds(
        np.array(0.0), np.array(2 * one_s), np.array(other_s)
    )
    assert longer > slope


def test_what_is_apart_never_joins_and_evidence_adds_up() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    lengths, none = np.ones(3), np.zeros((3, 3))
    assert sorted(map(sorted, joined(vectors, lengths, log_odds, none))) == [[0, 1], [2]]
    apart = np.zeros((3, 3), bool)
    apart[0, 1] = apart[1, 0] = True
    assert sorted(map(sorted, joined(vectors, lengths, log_odds, none, apart))) == [[0], [1], [2]]
    said = np.array([[0, -100.0, 0], [-100.0, 0, 0], [0, 0, 0]])
    # Evidence is bounded: equal voices are one, however often windows say otherwise.
    assert sorted(map(sorted, joined(vectors, 100 * lengths, log_odds, said))) == [[0, 1], [2]]


def test_compensation_takes_out_the_channel_and_keeps_the_voice() -> None:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    voices = rng.normal(size=(5, 16))
    voices -= voices @ directions.T @ directions
    compensate = Compensation(np.zeros(16), directions)
    moved = voices + rng.normal(size=(5, 3)) @ directions * 5
    np.testing.assert_allclose(compensate(moved), unit(voices), atol=1e-9)


def test_the_packaged_compensation_has_orthonormal_directions() -> None:
    packaged = Compensation.packaged()
    assert packaged.mean.shape == (192,)
    np.testing.assert_allclose(packaged.directions @ packaged.directions.T, np.eye(len(packaged.directions)), atol=1e-5)


def test_the_number_of_speakers_is_surer_where_turns_are_sure_and_voices_differ() -> None:
    two, alike = np.eye(3)[:2], unit(np.array([[1.0, 0.0, 0.0], [1.0, 0.3, 0.0]]))
    long_s = np.array([30.0, 30.0])
    sure = of_count(0.95, two, long_s)
    assert of_count(0.6, two, long_s) < sure
    assert of_count(0.95, alike, long_s) < sure
    assert 0 < of_count(0.95, two[:1], long_s[:1]) < 1

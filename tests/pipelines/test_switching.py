"""Sequences of languages behind windows: which languages appear, where they change, and what odds that takes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages import prior, switching

EN, CY, ES = 0, 1, 2
COSTS = math.log(20), math.log(5)
FLAT = np.zeros(3)


def heard(*windows: tuple[float, float, float]) -> np.ndarray:
    return switching.evidence(np.array(windows), floor=0.05, weights=np.ones(len(windows)))


SURELY_EN, SURELY_ES, EN_OR_ES = (0.98, 0.01, 0.01), (0.01, 0.01, 0.98), (0.34, 0.02, 0.64)


def test_a_doubtful_window_among_sure_ones_is_of_their_language() -> None:
    assert switching.decode(heard(SURELY_EN, EN_OR_ES, SURELY_EN), [0], FLAT, *COSTS) == [EN, EN, EN]


def test_sure_windows_of_another_language_are_of_that_language() -> None:
    said = heard(SURELY_EN, SURELY_EN, SURELY_ES, SURELY_ES, SURELY_EN)
    assert switching.decode(said, [0], FLAT, *COSTS) == [EN, EN, ES, ES, EN]


def test_once_a_language_is_there_a_doubtful_window_beside_it_is_of_it_too() -> None:
    said = heard(SURELY_ES, SURELY_ES, EN_OR_ES, SURELY_EN, SURELY_EN)
    assert switching.decode(said, [0], FLAT, *COSTS) == [ES, ES, ES, EN, EN]


def test_a_further_language_needs_the_odds_that_were_asked_for() -> None:
    """Two tracks, so that nothing changes within one: the evidence alone decides against the odds."""
    for odds, expected in ((19.0, [EN, EN]), (21.0, [EN, ES])):
        said = np.log(np.array([[0.99, 0.005, 0.005], [1 / (1 + odds), 1e-9, odds / (1 + odds)]]))
        assert switching.decode(said, [0, 1], FLAT, *COSTS) == expected


def test_a_track_may_have_a_language_of_its_own_without_a_switch() -> None:
    said = heard(SURELY_EN, SURELY_EN, SURELY_ES, SURELY_ES)
    alone, path = switching.best_path(said, [0, 2], frozenset({EN, ES}), 100.0)
    assert path == [EN, EN, ES, ES]
    assert alone == pytest.approx(said[:2, EN].sum() + said[2:, ES].sum())


def test_welsh_needs_the_odds_of_the_prior_and_no_more() -> None:
    languages = ["en", "cy", "es"]
    log_prior = prior.log_prior(languages, prior.MILLIONS, 0.25)
    odds = (prior.MILLIONS["en"] / prior.MILLIONS["cy"]) ** 0.25
    for factor, expected in ((0.9, EN), (1.1, CY)):
        said = np.log(np.array([[1.0, odds * factor, 0.01]]))
        assert switching.decode(said, [0], log_prior, *COSTS) == [expected]


def test_what_one_window_says_is_bounded_by_the_floor_and_its_length() -> None:
    never = np.array([[1.0, 0.0], [1.0, 0.0]])
    said = switching.evidence(never, floor=0.1, weights=np.array([1.0, 0.5]))
    assert said[0, 0] - said[0, 1] == pytest.approx(math.log(0.95 / 0.05))
    assert said[1] == pytest.approx(said[0] / 2)


PROBABILITIES = st.lists(
    st.lists(st.sampled_from([0.05, 0.2, 0.5, 0.9]), min_size=3, max_size=3), min_size=1, max_size=5
)


@given(PROBABILITIES, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 1.0, 3.0]), st.integers(1, 4))
def test_the_path_is_the_best_of_all(
    rows: list[list[float]], switch_cost: float, language_cost: float, second: int
) -> None:
    """As scoring every sequence finds it; with two languages, sets are few enough that none can be missed."""
    said = np.log(np.array(rows))[:, :2]
    begins = [0, second] if second < len(rows) else [0]
    log_prior = np.array([0.0, -0.7])

    def score(path: tuple[int, ...]) -> float:
        switches = sum(path[n] != path[n - 1] for n in range(1, len(path)) if n not in begins)
        used = set(path)
        total = sum(said[n, language] for n, language in enumerate(path)) - switch_cost * switches
        return float(total + sum(log_prior[list(used)]) - language_cost * (len(used) - 1))

    best = max(map(score, itertools.product(range(2), repeat=len(rows))))
    path = switching.decode(said, begins, log_prior, language_cost, switch_cost)
    assert score(tuple(path)) == pytest.approx(best)

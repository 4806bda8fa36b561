"""A scaling law is recovered from tables that were sampled from it, and what follows from it is as published."""

import numpy as np
import pytest
from law_tables import CHINCHILLA, PAPER, runs_of, sampled

from studies.laws import isoflop
from studies.laws.estimate import Model, Points, Projected, fit_huber, fit_projected
from studies.laws.fit import Settings, study
from studies.laws.intervals import QUANTITIES
from studies.laws.law import Law
from studies.laws.profile import profiles

CONSTANTS = ("E", "A", "B", "alpha", "beta", "gamma")
FRAMES_PER_HOUR = 80 * 3600


def test_the_optimum_of_the_published_law_is_as_published() -> None:
    flops = np.array([1e18, 1e19, 1e20, 1e21])
    assert PAPER.optimal_params(flops) == pytest.approx([14.4e6, 55.6e6, 214e6, 824e6], rel=0.005)
    assert PAPER.optimal_tokens(flops) == pytest.approx([1.15e10, 3.00e10, 7.79e10, 2.02e11], rel=0.005)
    assert PAPER.optimal_tokens(flops) / FRAMES_PER_HOUR == pytest.approx([40e3, 104e3, 270e3, 702e3], rel=0.005)
    assert PAPER.tokens_exponent == pytest.approx(0.414, abs=5e-4)


def test_the_curvature_of_the_published_law_is_as_published_and_that_of_its_loss() -> None:
    flops = np.array([1e18, 1e21])
    assert PAPER.curvature(flops) == pytest.approx([2.4e-24, 2.5e-27], rel=0.02)
    tokens = PAPER.optimal_tokens(flops)
    step = tokens * 1e-3
    low, middle, high = (PAPER.loss(flops / 6 / d, d) for d in (tokens - step, tokens, tokens + step))
    assert PAPER.curvature(flops) == pytest.approx((high - 2 * middle + low) / step**2, rel=1e-3)


def test_within_one_percent_of_the_best_loss_hours_lie_as_published() -> None:
    low, high = PAPER.tokens_range(np.array([1e18, 1e21]), 0.01)
    assert low / FRAMES_PER_HOUR == pytest.approx([20e3, 243e3], rel=0.03)
    assert high / FRAMES_PER_HOUR == pytest.approx([80e3, 2.2e6], rel=0.03)
    flops = np.array([1e18, 1e21])
    best = PAPER.loss(PAPER.optimal_params(flops), PAPER.optimal_tokens(flops))
    for tokens in (low, high):
        assert PAPER.loss(flops / 6 / tokens, tokens) == pytest.approx(1.01 * best, rel=1e-9)


@pytest.mark.parametrize("fit", [fit_huber, fit_projected])
@pytest.mark.parametrize(
    "law", [PAPER, CHINCHILLA, Law(1.8, 2e7, 5e7, 0.87, 0.92, 0.4), Law(2.0, 20, 45, 0.17, 0.18, 2)]
)
def test_without_noise_both_methods_find_the_law_from_nearly_every_start(fit, law: Law) -> None:
    found = fit(sampled(law), None)
    for name in CONSTANTS:
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-4), name
    assert found.starts == 128
    assert found.reached > 100
    assert found.at_bound == ()


def test_without_noise_the_optimal_ratios_are_recovered() -> None:
    law = fit_huber(sampled(PAPER), None).law
    flops = np.array([5.64e19, 1e21])
    assert law.optimal_tokens(flops) / law.optimal_params(flops) == pytest.approx([401, 245], rel=0.01)


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_with_noise_the_law_lies_within_its_intervals_as_often_as_they_say(noise: float) -> None:
    held = []
    for seed in range(8):
        points = sampled(PAPER, noise, seed)
        ends = profiles(points, fit_huber(points, None, 32), free_gamma=True)
        for name in QUANTITIES:
            low, high = ends[name]
            truth = getattr(PAPER, name)
            held.append((low is None or low <= truth) and (high is None or truth <= high))
            assert low != high
    assert 0.85 <= np.mean(held) <= 1  # 56 intervals of 95 %, which depend on one another


def test_both_bootstraps_hold_the_law_and_narrow_with_the_noise() -> None:
    settings = Settings(gamma=None, starts=32, resamples=100)
    widths = []
    for noise in (0.002, 0.008):
        document, _, _ = study(runs_of(sampled(PAPER, noise, 2)), settings)
        for by in ("runs", "budgets"):
            low, high = document["intervals"]["alpha"][by]
            assert low <= PAPER.alpha <= high
            widths.append(high - low)
    assert widths[2] > 2 * widths[0]
    assert widths[3] > 2 * widths[1]


@pytest.mark.parametrize(
    ("law", "free"),
    [(PAPER, True), (CHINCHILLA, False), (Law(1.8, 2e7, 5e7, 0.87, 0.92, 0.4), True)],
)
def test_gamma_is_freed_where_it_earns_its_place(law: Law, free: bool) -> None:
    document, found, _ = study(runs_of(sampled(law, 0.002, 1)), Settings(starts=32, resamples=100))
    assert document["gamma_choice"]["free"] is free, document["gamma_choice"]
    assert found.gamma == pytest.approx(law.gamma, rel=0.1)
    assert {"gamma_fixed", "gamma_free"} == document["forms"].keys()


def test_derivatives_of_both_searches_are_those_of_their_residuals() -> None:
    points = sampled(PAPER, 0.01)
    model, projected = Model(points), Projected(points)
    theta = model.theta(PAPER)[None]
    slopes = model.residuals(theta)[1][0]
    for index, unit in enumerate(np.eye(6) * 1e-6):
        ahead, behind = (model.residuals(theta + sign * unit)[0][0] for sign in (1, -1))
        assert slopes[:, index] == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)
    outer = np.array([[0.3, 0.4, 0.8, 0.2]])
    errors, slopes2 = projected.two(outer)
    for index, unit in enumerate(np.eye(4) * 1e-6):  # Kaufman's derivatives give the exact gradient of the sum
        ahead, behind = ((projected.two(outer + sign * unit)[0] ** 2).sum() for sign in (1, -1))
        assert 2 * (slopes2[0, :, index] * errors[0]).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


def test_budgets_are_found_though_their_compute_is_noisy() -> None:
    points = sampled(CHINCHILLA, 0.0, budget_noise=0.04)
    budgets = isoflop.find_budgets(points)
    assert len(budgets) == 10
    assert (budgets.of == np.repeat(np.arange(10), 9)).all()
    steady = isoflop.fit_parabolas(sampled(CHINCHILLA), isoflop.find_budgets(sampled(CHINCHILLA)))
    noisy = isoflop.fit_parabolas(points, budgets)
    assert steady is not None
    assert noisy is not None
    assert noisy.tokens_exponent == pytest.approx(steady.tokens_exponent, abs=0.01)


def test_the_bias_of_parabolas_is_told_where_a_wide_grid_lies_off_its_centre() -> None:
    law = Law(1.7, 400, 4e4, 0.34, 0.52)
    centred = sampled(law, span=20, centre=8)
    params = centred.params * (centred.flops / 1e18) ** -0.3  # the grid drifts past the optimum as compute grows
    tokens = centred.flops / 6 / params
    noise = np.exp(0.0005 * np.random.default_rng(0).standard_normal(len(params)))
    points = Points(params, tokens, law.loss(params, tokens) * noise)
    document, found, _ = study(runs_of(points), Settings(gamma=1.0, starts=32, resamples=100))
    parabolas = document["isoflop"]
    assert found.tokens_exponent == pytest.approx(law.tokens_exponent, abs=0.002)
    assert abs(parabolas["tokens_exponent"] - law.tokens_exponent) > 0.02
    assert parabolas["expected_from_law"] == pytest.approx(parabolas["tokens_exponent"], abs=0.005)
    assert any("disagree" in sentence for sentence in document["warnings"])


def test_an_exponent_that_nothing_bounds_is_an_open_interval_and_told() -> None:
    centred = sampled(CHINCHILLA, budgets=4, sizes=6, span=3)
    law = Law(2.0, 1e-9, 2143, 0.35, 0.3672)  # what N contributes is far below the noise
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(centred)))
    points = Points(centred.params, centred.tokens, law.loss(centred.params, centred.tokens) * noise)
    document, _, _ = study(runs_of(points), Settings(gamma=1.0, resamples=100))
    unknown = {one["constant"] for one in document["unidentified"]}
    assert unknown & {"A", "alpha"}, document["unidentified"]
    for name in unknown:
        assert (
            None in document["intervals"][name]["profile"]
            or name in document["forms"]["gamma_fixed"]["huber"]["at_bound"]
        )
        assert any(sentence.startswith(f"{name} is not identified") for sentence in document["warnings"])


def test_a_downstream_metric_is_predicted_in_two_stages_and_jointly() -> None:
    points = sampled(CHINCHILLA, 0.004, 5)
    rng = np.random.default_rng(0)
    truth = 0.9 - 0.4 * np.exp(0.8 * (CHINCHILLA.loss(points.params, points.tokens) - 2.5))
    metrics = {
        "accuracy": truth + 0.004 * rng.standard_normal(len(points)),
        "luck": rng.standard_normal(len(points)),
        "rare": np.where(np.arange(len(points)) < 5, 0.5, np.nan),
    }
    runs = runs_of(points)
    runs = type(runs)(points, runs.lines, runs.evaluations, None, None, metrics)
    document, _, _ = study(runs, Settings(gamma=1.0, starts=32, resamples=100))
    accuracy, luck, rare = document["downstream"]
    for way in ("two_stage", "joint"):
        assert accuracy[way]["train"] < 0.006
        assert accuracy[way]["held_out"] < 0.012
    assert "does not follow" in luck["refused"]
    assert "fewer than" in rare["refused"]

"""Published tables give the published laws, with the rules of the defaults and the warnings that they deserve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from law_tables import real_table

from pipelines.commands.cli import cli
from studies.laws import design, intervals, judge
from studies.laws.design import Information
from studies.laws.estimate import Points, fit_huber
from studies.laws.runs import Columns, read

pytestmark = pytest.mark.recordings


def fitted(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["study", "fit", *words, "--resamples", "100", "--json"])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def chinchilla() -> Path:
    return real_table("chinchilla_points.csv")


@pytest.fixture(scope="module")
def document(chinchilla: Path) -> dict[str, Any]:
    return fitted(str(chinchilla))


def test_chinchillas_points_give_the_published_law(document: dict[str, Any]) -> None:
    published = {"E": 1.8172, "A": 480, "B": 2120, "alpha": 0.3475, "beta": 0.367, "gamma": 1}
    for name, value in published.items():
        assert document[name] == pytest.approx(value, rel=0.02), name
    assert document["method"]["reached"] > 64
    for by in ("runs", "budgets", "profile"):
        low, high = document["intervals"]["beta"][by]
        assert low < 0.367 < high


def test_the_rule_leaves_out_the_five_runs_of_fewest_tokens_per_parameter(document: dict[str, Any]) -> None:
    left_out = document["outliers"]["runs"]
    assert [one["line"] for one in left_out] == [2, 3, 4, 5, 6]
    assert max(one["tokens_per_param"] for one in left_out) < 0.42
    assert document["runs"] == 240


def test_with_all_runs_a_warning_says_how_far_five_of_them_move_beta(chinchilla: Path) -> None:
    document = fitted(str(chinchilla), "--outlier-sd", "0", "--gamma", "1")
    assert document["runs"] == 245
    for name, value in {"E": 1.8913, "A": 495.7, "B": 12846, "alpha": 0.3493, "beta": 0.4530}.items():
        assert document[name] == pytest.approx(value, rel=0.02), name
    influence = document["outliers"]["influence"]
    assert influence["with"]["beta"] - influence["without"]["beta"] == pytest.approx(0.086, abs=0.005)
    assert any("5 runs" in sentence and "beta by +0.08" in sentence for sentence in document["warnings"])
    assert any("disagree" in sentence for sentence in document["warnings"])


def test_the_largest_budget_is_held_out_and_its_error_told(document: dict[str, Any]) -> None:
    held = document["held_out"]
    assert held["runs"] + held["train_runs"] == 240
    assert held["flops"] > 2e21
    assert 0.002 < held["train_error"] < 0.006
    assert held["train_error"] < held["error"] < 0.02


def test_two_evaluations_of_one_run_are_one_run(document: dict[str, Any]) -> None:
    table = str(real_table("openlm_c4_rpj.csv"))
    found = fitted(table, "--loss", "c4_val_loss", "--by", "data")
    assert found["rows"] == 138
    assert {one["group"]: (one["runs"], one["evaluations"]) for one in found["fits"]} == {
        "c4_original": (34, 68),
        "rpj": (35, 70),
    }
    for one in found["fits"]:
        assert one["evaluation_sd"] > 0
        assert one["held_out"]["runs"] == 1
        assert one["held_out"]["error"] < 0.1
        assert "no isoFLOP parabolas" in " ".join(one["warnings"])
        assert one["forms"]["gamma_fixed"]["huber"]["reached"] > 64
    only = fitted(table, "--loss", "c4_val_loss", "--where", "data=rpj")
    assert only["alpha"] == pytest.approx(found["fits"][1]["alpha"], rel=1e-6)


def with_some(pilot: Points, rest: Points, which: np.ndarray) -> Points:
    parts = zip(vars(pilot).values(), vars(rest.take(which)).values(), strict=True)
    return Points(*(np.concatenate(pair) for pair in parts))


def width(points: Points) -> float:
    """Of the 95 % interval of the exponent of D*, by bootstrap over runs."""
    resampled = intervals.bootstrap(points, fit_huber(points, 1.0, 32), np.arange(len(points)), False, 200)
    low, high = resampled.interval(lambda law: law.tokens_exponent)
    assert low is not None
    assert high is not None
    return high - low


def test_sixteen_chosen_runs_are_worth_sixty_four_of_the_usual_grid(chinchilla: Path) -> None:
    """Chosen by what is known from the small runs alone, then fitted together with these and with their real losses.

    The usual grid takes the larger runs evenly by budget and size. Over three sets of small runs its intervals are
    wider with four times as many runs, which cost more than twice the compute.
    """
    points = read(chinchilla, Columns()).groups[""].points
    points = points.take(~judge.ratio_rule(points).outside)
    widths: dict[str, list[float]] = {"chosen": [], "usual": []}
    for largest in (1.5e19, 3.5e19, 7e19):
        small = points.flops < largest
        pilot, rest = points.take(small), points.take(~small)
        fit = fit_huber(pilot, 1.0, 32)
        information = Information.of(pilot, fit.law, judge.misfits(pilot, fit)[1], False)
        known, candidates = (information.slopes(some.params, some.tokens) for some in (pilot, rest))
        aim = information.gradient(lambda law: law.tokens_exponent)
        chosen = design.choose(known, candidates, np.ones(len(rest)), len(rest), aim, count=16)
        order = np.lexsort((rest.params, (np.log(rest.flops) / 0.3).round()))
        usual = order[np.linspace(0, len(order) - 1, 64).round().astype(int)]
        assert len(chosen) == 16
        assert rest.flops[chosen].sum() < 0.5 * rest.flops[usual].sum()
        widths["chosen"].append(width(with_some(pilot, rest, chosen)))
        widths["usual"].append(width(with_some(pilot, rest, usual)))
    assert sum(widths["chosen"]) < sum(widths["usual"])

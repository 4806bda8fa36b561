"""Grids of runs: sizes, tokens, steps, hours, bytes and epochs, and the runs that are worth most to a law."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from law_tables import PAPER, sampled, write_table

from pipelines.commands.cli import cli
from studies.laws import design
from studies.laws.design import Information
from studies.laws.estimate import Points, fit_huber

LOGMEL = ["--frame-rate", "80", "--dim", "80"]


def planned(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["study", "plan", *words, "--json"])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_run_is_counted_in_tokens_steps_hours_bytes_and_epochs() -> None:
    (run,) = planned("--budgets", "1e21", "--sizes", "824e6", *LOGMEL, "--hours-held", "100000")["runs"]
    assert run["tokens"] == pytest.approx(1e21 / 6 / 824e6)
    assert run["tokens_per_param"] == pytest.approx(245, rel=0.01)
    assert run["hours"] == pytest.approx(702e3, rel=0.01)
    assert run["epochs"] == pytest.approx(7.02, rel=0.01)
    assert run["gigabytes"] == pytest.approx(100_000 * 80 * 3600 * 160 / 1e9)  # what is stored is read seven times
    assert run["steps"] == -(-run["tokens"] // 2**20)


def test_patches_and_context_change_hours_but_not_tokens() -> None:
    words = ["--budgets", "1e20", "--sizes", "2e8", *LOGMEL]
    (plain,) = planned(*words)["runs"]
    (patched,) = planned(*words, "--patch", "4")["runs"]
    found = planned(*words, "--count", "continuation", "--context-share", "0.25")
    assert patched["hours"] == pytest.approx(4 * plain["hours"])
    assert found["runs"][0]["hours"] == pytest.approx(plain["hours"] / 0.75)
    assert found["runs"][0]["tokens"] == plain["tokens"]
    assert any("1.33 times 6 N D" in sentence for sentence in found["warnings"])


def test_the_family_has_the_published_shape_and_the_grid_keeps_sizes_by_ratio() -> None:
    found = planned("--budgets", "1e18..1e21:4", *LOGMEL, "--ratio", "20..2000")
    for run in found["runs"]:
        assert run["width"] == 128 * run["depth"]
        assert run["params"] == pytest.approx(36 * run["width"] ** 2 * run["depth"])
        assert 20 <= run["tokens_per_param"] <= 2000
        assert 6 * run["params"] * run["tokens"] == pytest.approx(run["flops"])
    assert {round(np.log10(run["flops"]), 6) for run in found["runs"]} == {18, 19, 20, 21}
    assert found["totals"]["flops"] == pytest.approx(sum(run["flops"] for run in found["runs"]))


def test_more_than_four_epochs_are_warned_of_with_the_reference() -> None:
    words = ["--budgets", "1e20", "--sizes", "2e8", *LOGMEL, "--hours-held"]
    assert not any("Muennighoff" in sentence for sentence in planned(*words, "100000")["warnings"])
    assert any("Muennighoff et al. 2023" in sentence for sentence in planned(*words, "50000")["warnings"])


def test_the_grid_is_written_as_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "grid.csv"
    found = planned("--budgets", "1e19", *LOGMEL, "--csv", str(path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["params"]) for row in rows] == [run["params"] for run in found["runs"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--budgets", "1e19"], 2, "--frame-rate"),
        (["--budgets", "1e19..x", *LOGMEL], 2, "LOW..HIGH:COUNT"),
        (["--budgets", "1e40", *LOGMEL], 2, "give up to"),
        (["--budgets", "1e19", "--ratio", "9..1", *LOGMEL], 2, "not LOW..HIGH"),
        (["--budgets", "1e19", "--sizes", "1e12", *LOGMEL], 1, "no size has 5 to 10000 tokens per parameter"),
        (["--budgets", "1e19", "--spend", "1e20", *LOGMEL], 2, "need --from-fit"),
        (["--budgets", "1e19", "--lake", "nowhere"], 2, "--dataset"),
        (["--budgets", "1e19", "--lake", "nowhere", "--dataset", "x"], 1, "there is no lake at nowhere"),
        (["--budgets", "1e19", "--dataset", "x", *LOGMEL], 2, "need --lake"),
    ],
)
def test_mistakes_are_told(words: list[str], code: int, message: str) -> None:
    from forked import speechmill

    done = speechmill("study", "plan", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr


def test_rates_and_amounts_come_from_the_ledger_of_a_dataset(tmp_path: Path) -> None:
    from forked import speechmill
    from small_runs import make_input, run_words

    from manifests.lake import Lake

    make_input(tmp_path, 2)
    done = speechmill(*run_words(tmp_path, tmp_path / "lake"))
    assert done.returncode == 0, done.stderr
    ledger = Lake.at(str(tmp_path / "lake")).read("datasets/cheap/ledger.parquet").to_pylist()
    rows = [row for row in ledger if row["split"] == "train" and row["patch"] == 2]
    held = sum(row["continuation_tokens"] for row in rows)
    words = ["--budgets", "1e12", "--sizes", "1e5,2e5", "--ratio", "1..1e9", "--lake", str(tmp_path / "lake")]
    found = planned(*words, "--dataset", "cheap", "--patch", "2", "--count", "continuation", "--encoder", "logmel")
    sound = found["sound"]
    assert sound["tokens_held"] == held
    assert sound["frames_per_hour"] == pytest.approx(80 * 3600, rel=0.01)
    assert sound["bytes_per_frame"] == pytest.approx(160, rel=0.02)  # 80 values in float16, and headers
    assert sound["share_counted"] == pytest.approx(0.75, rel=0.01)
    assert [run["epochs"] for run in found["runs"]] == pytest.approx([run["tokens"] / held for run in found["runs"]])
    mistakes = {"--encoder mimi": "not by mimi", "--split test": "no split test", "--version 9": "no version 9"}
    for wrong, message in mistakes.items():
        done = speechmill("study", "plan", *words, "--dataset", "cheap", *wrong.split())
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_of_few_candidates_the_best_set_is_found() -> None:
    points = sampled(PAPER, 0.003, budgets=4)
    information = Information.of(points, fit_huber(points, 1.0, 32).law, 0.003, False)
    known = information.slopes(points.params, points.tokens)
    flops = np.repeat([1e21, 2e21, 4e21], 4)
    params = PAPER.optimal_params(flops) * np.tile([0.1, 0.5, 2, 10], 3)
    candidates = information.slopes(params, flops / 6 / params)
    for aim in (None, information.gradient(lambda law: law.tokens_exponent)):
        chosen = design.choose(known, candidates, flops, 5e21, aim)
        assert flops[chosen].sum() <= 5e21
        sets = (np.flatnonzero([number >> i & 1 for i in range(12)]) for number in range(1 << 12))
        best = max(design.merit(known, candidates[some], aim) for some in sets if flops[some].sum() <= 5e21)
        nothing = design.merit(known, candidates[:0], aim)
        reached = design.merit(known, candidates[chosen], aim)
        assert reached - nothing >= 0.9 * (best - nothing)


def test_the_errors_that_a_plan_tells_are_those_of_repeated_studies() -> None:
    spread, told = [], 0.0
    for seed in range(30):
        points = sampled(PAPER, 0.003, seed, sizes=5)
        law = fit_huber(points, None, 16, delta=0.03).law  # least squares, for which the information is meant
        spread.append(law.tokens_exponent)
    points = sampled(PAPER, sizes=5)
    information = Information.of(points, PAPER, 0.003, True)
    told = information.error(information.slopes(points.params, points.tokens), lambda law: law.tokens_exponent)
    assert told == pytest.approx(np.std(spread), rel=0.35)


def test_next_runs_are_chosen_from_the_document_of_a_fit(tmp_path: Path) -> None:
    table = write_table(tmp_path / "runs.csv", sampled(PAPER, 0.003))
    words = ["study", "fit", str(table), "--starts", "100", "--resamples", "100", "--gamma", "free", "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    (tmp_path / "fit.json").write_text(done.stdout)
    words = ["--budgets", "1e20..1e22:5", *LOGMEL, "--from-fit", str(tmp_path / "fit.json"), "--spend", "2e22"]
    found = planned(*words)
    following = found["next"]
    assert following["flops"] <= 2e22
    assert following["runs"] == found["runs"]
    for name, error in following["errors_before"].items():
        assert following["errors_after"][name] < error, name
    needed = following["usual_grid"]["runs_needed"]
    assert needed is None or needed >= len(following["runs"])
    told = CliRunner().invoke(cli, ["study", "plan", *words, "--runs", "5"])
    assert "with these runs" in told.output
    (tmp_path / "fit.json").write_text('{"E": 1}')
    refused = CliRunner().invoke(cli, ["study", "plan", *words])
    assert "not the document of a fit" in str(refused.exception)


def test_a_set_of_runs_that_identifies_too_little_is_compared_all_the_same() -> None:
    points = Points(np.array([1e8]), np.array([1e10]), np.array([0.01]))
    information = Information.of(points, PAPER, 0.003, True)
    slopes = information.slopes(points.params, points.tokens)
    assert np.isfinite(design.merit(slopes, slopes[:0], None))

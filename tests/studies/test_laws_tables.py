"""Tables as people have them: what is read, what is dropped and why, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from law_tables import CHINCHILLA, sampled, write_table

from runtime.errors import SpeechmillError
from studies.laws import identify, judge, runs
from studies.laws.estimate import Points
from studies.laws.runs import Columns, read


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return path


def test_rows_that_cannot_be_used_are_counted_by_reason_with_their_lines(tmp_path: Path) -> None:
    rows = [
        "params,tokens,loss", "1e8,1e10,3.1", "1e8,2e10,nan", "1e8,3e10,-1", "1e8,4e10,diverged", "1e8,5e10,",
        "1e8,1e10,3.1", "0,1e10,3", "70,1e10,3", "1e8,inf,3", "2e8,1e10,2.9",
    ]  # fmt: skip
    found = read(table(tmp_path, "\n".join(rows)), Columns())
    assert found.rows == 10
    assert len(found.groups[""].points) == 2
    reasons = {one["reason"]: one["lines"] for one in found.dropped.as_list()}
    assert reasons == {
        "loss is not finite": [3],
        "loss is not above 0": [4],
        "loss is not a number": [5],
        "loss is empty": [6],
        "equal to an earlier row in every column": [7],
        "params is not above 0": [8],
        "params is not between 1000 and 1e+16: give plain numbers, not millions or logarithms": [9],
        "tokens is not finite": [10],
    }
    assert found.rows == len(found.groups[""].points) + sum(found.dropped.counts.values())


def test_columns_are_found_by_usual_names_and_flops_stand_in_for_one_of_them(tmp_path: Path) -> None:
    found = read(table(tmp_path, "N;compute;val_loss\n1e8;6e18;3\n2e8;6e18;2.9\n"), Columns())
    assert found.columns == {"params": "N", "tokens": None, "loss": "val_loss", "flops": "compute"}
    assert found.groups[""].points.tokens == pytest.approx([1e10, 5e9])
    other = read(table(tmp_path, "a,b,c\n1e8,1e9,3\n"), Columns("a", "b", "c"))
    assert other.columns["flops"] is None  # what is named for something else is not taken


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("size,tokens,loss\n1e8,1e10,3\n", Columns(), "no column params; there are size, tokens, loss"),
        ("params,tokens,loss\n1e8,1e10,3\n", Columns(loss="bpb"), "no column 'bpb', as --loss says"),
        ("params,tokens,loss\n1e8,1e10,3\n", Columns(by="corpus"), "no column 'corpus', as --by says"),
        ("params,params,loss\n1,2,3\n", Columns(), "two columns are called 'params'"),
        ("params,tokens,loss\n1e8,1e10,3,4\n", Columns(), ":2: 4 cells under 3 columns"),
        ("params,tokens,loss\n", Columns(), "no row under the header"),
        ("", Columns(), "is empty"),
        ('params,tokens,loss\n1e8,1e10,"3\n', Columns(), "not a CSV table"),
    ],
)
def test_what_is_no_table_of_runs_is_refused_by_name(tmp_path: Path, text: str, columns: Columns, message: str) -> None:
    with pytest.raises(SpeechmillError) as caught:
        read(table(tmp_path, text), columns)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_files_and_tables_beyond_the_bounds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "params,tokens,loss\n" + "".join(f"1e8,{n + 1}e9,3\n" for n in range(30)))
    monkeypatch.setattr(runs, "MAX_ROWS", 20)
    with pytest.raises(SpeechmillError, match="more than 20 rows"):
        read(path, Columns())
    with path.open("r+b") as file:
        file.truncate(runs.MAX_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(SpeechmillError, match="MB"):
        read(path, Columns())
    path.write_bytes(b"params,tokens,loss\n\xff\xfe\n")
    with pytest.raises(SpeechmillError, match="not a CSV"):
        read(path, Columns())


def test_evaluations_of_one_run_are_averaged_and_points_in_the_middle_of_a_run_dropped(tmp_path: Path) -> None:
    text = "id,params,tokens,loss\na,1e8,1e9,4\na,1e8,2e9,3.0\na,1e8,2e9,3.2\nb,1e8,1e9,3.9\n"
    found = read(table(tmp_path, text), Columns(run="id"))
    group = found.groups[""]
    assert group.points.loss == pytest.approx([3.1, 3.9])
    assert group.evaluations.tolist() == [2, 1]
    assert found.dropped.as_list() == [{"reason": "not at the end of its run", "rows": 1, "lines": [2]}]
    assert group.evaluation_sd == pytest.approx(abs(np.log(3.2 / 3.0)) / np.sqrt(2), rel=1e-6)


def test_rows_can_be_chosen_and_grouped(tmp_path: Path) -> None:
    text = "corpus,params,tokens,loss\nx,1e8,1e9,4\ny,1e8,1e9,3\nx,2e8,1e9,3.9\n"
    found = read(table(tmp_path, text), Columns(by="corpus"))
    assert {name: len(group.points) for name, group in found.groups.items()} == {"x": 2, "y": 1}
    only = read(table(tmp_path, text), Columns(), [("corpus", "x")])
    assert len(only.groups[""].points) == 2
    assert only.dropped.counts == {"excluded by --where": 1}


@pytest.mark.parametrize(
    ("params", "tokens", "message"),
    [
        (np.geomspace(1e8, 1e9, 5), np.geomspace(1e9, 1e11, 5), "5 usable runs are too few"),
        (np.full(12, 1e8), np.geomspace(1e9, 1e11, 12), "1 model size"),
        (np.tile([1e8, 2e8], 6), np.geomspace(1e9, 1e11, 12), "2 model sizes"),
        (np.geomspace(1e8, 1e9, 12), np.full(12, 1e10), "1 token count"),
        (np.geomspace(1e8, 1e9, 12), 1e19 / np.geomspace(1e8, 1e9, 12), "1 compute budget"),
        (np.geomspace(1e8, 1e10, 12), 20 * np.geomspace(1e8, 1e10, 12), "N and D are collinear"),
    ],
)
def test_tables_that_identify_no_law_are_refused_with_the_reason(params, tokens, message: str) -> None:
    with pytest.raises(SpeechmillError) as caught:
        identify.check(Points(params, tokens, CHINCHILLA.loss(params, tokens)))
    assert message in str(caught.value)
    assert caught.value.remedy


def test_the_rule_on_tokens_per_parameter_leaves_out_few_far_runs_only() -> None:
    points = sampled(CHINCHILLA)
    assert not judge.ratio_rule(points).outside.any()
    far = Points(np.append(points.params, 1e11), np.append(points.tokens, 1e7), np.append(points.loss, 5.0))
    assert np.flatnonzero(judge.ratio_rule(far).outside).tolist() == [len(points)]
    assert not judge.ratio_rule(far, 0).outside.any()
    most = Points(np.full(30, 1e9), np.append(np.full(24, 2e10), np.full(6, 1e12)), np.ones(30))
    assert "too many to be outliers" in judge.ratio_rule(most).note


def test_a_table_of_other_names_is_fitted_by_the_command(tmp_path: Path) -> None:
    import json

    from click.testing import CliRunner

    from pipelines.commands.cli import cli

    path = write_table(tmp_path / "t.csv", sampled(CHINCHILLA, 0.002), ("width", "seen", "bits"))
    words = ["study", "fit", str(path), "--params", "width", "--tokens", "seen", "--loss", "bits", "--resamples", "100"]
    done = CliRunner().invoke(cli, [*words, "--starts", "100", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["alpha"] == pytest.approx(CHINCHILLA.alpha, rel=0.05)
    assert document["columns"]["loss"] == "bits"
    told = CliRunner().invoke(cli, [*words, "--starts", "100", "--params-are", "without embeddings"])
    assert "of 100 starts reached the best optimum" in told.output
    assert "without embeddings" in told.output

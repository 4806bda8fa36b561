"""Samples: as large as the promised interval needs, by simulation, and as the command tells it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from lakes import rules, write_lake

from manifests.select import select
from pipelines.commands.cli import cli
from studies.estimate import Ratio
from studies.sample import FEW, from_pilot, needed, worst_case

WHOLE = ("recordings", "annotations")
"""Views with the measurements of each recording."""


class Population:
    """Recordings of very different lengths; long ones are mostly of one language, as it may well be."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = rng.lognormal(6.5, 0.9, count)
        is_long = self.lengths > np.median(self.lengths)
        self.is_english = rng.random(count) < np.where(is_long, 0.7, 0.2)
        self.truth = self.share(np.arange(count))

    def share(self, rows: np.ndarray) -> float:
        """The share of the hours of these recordings that is English."""
        return float((self.lengths * self.is_english)[rows].sum() / self.lengths[rows].sum())

    def table(self, rows: np.ndarray) -> pa.Table:
        names = np.where(self.is_english[rows], "en", "de")
        return pa.table({"recording_id": rows.astype(str), "duration_s": self.lengths[rows], "language": names})

    def ratio(self, rows: np.ndarray) -> Ratio:
        x = self.lengths[rows]
        y = x * self.is_english[rows]
        return Ratio(len(rows), *(float(part.sum()) for part in (x, x * x, y, y * y, x * y)))


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def plan(
    connection: duckdb.DuckDBPyConnection,
    pilot: pa.Table,
    margin: float,
    hours: float | None,
    relative: bool = False,
    view: str = "annotations",
) -> dict[str, int]:
    """The recordings that each language needs."""
    connection.register(view, pilot)
    found = from_pilot(connection, view, "language", margin, relative, 0.95, hours)
    return {row["group"]: row["recordings"] for row in found["groups"]}


@pytest.mark.parametrize(
    ("count", "margin", "relative"), [(30_000, 0.04, False), (1500, 0.04, False), (4000, 0.06, True)]
)
def test_samples_of_that_size_are_as_near_as_promised_as_often_as_promised(
    connection: duckdb.DuckDBPyConnection, count: int, margin: float, relative: bool
) -> None:
    whole = Population(count, 1)
    half_width = margin * whole.truth if relative else margin
    rng = np.random.default_rng(2)
    met, sizes = [], []
    for _ in range(25):  # each pilot gives a size of its own
        pilot = whole.table(rng.choice(count, 300, replace=False))
        sizes.append(plan(connection, pilot, margin, whole.lengths.sum() / 3600, relative)["en"])
        drawn = (rng.choice(count, sizes[-1], replace=False) for _ in range(80))
        met += [abs(whole.share(rows) - whole.truth) <= half_width for rows in drawn]
    assert 0.94 <= np.mean(met) <= 0.98
    assert max(sizes) < count


def test_the_interval_of_a_sample_holds_the_truth_as_often_as_it_says() -> None:
    whole = Population(20_000, 3)
    rng = np.random.default_rng(4)
    for size, population in ((200, math.inf), (8_000, 20_000)):
        held = []
        for _ in range(600):
            ratio = whole.ratio(rng.choice(20_000, size, replace=False))
            held.append(abs(ratio.value - whole.truth) <= ratio.half_width(0.95, population))
        assert 0.925 <= np.mean(held) <= 0.97, size


def test_windows_of_one_recording_are_one_observation(connection: duckdb.DuckDBPyConnection) -> None:
    """A hundred windows of a recording tell no more than the recording."""
    rng = np.random.default_rng(5)
    languages = np.where(rng.random(200) < 0.5, "en", "de")
    ids = [f"r{number}" for number in range(200)]
    recordings = pa.table({"recording_id": ids, "duration_s": np.full(200, 4000.0), "language": languages})
    windows = pa.table(
        {
            "recording_id": np.repeat(ids, 100),
            "duration_s": np.full(20_000, 40.0),
            "language": np.repeat(languages, 100),
        }
    )
    planned = plan(connection, recordings, 0.05, None)
    assert planned == plan(connection, windows, 0.05, None, view="windows")
    assert planned == plan(connection, recordings, 0.05, None, view="windows")


def test_the_worst_case_is_the_binomial_one_made_larger_by_uneven_lengths() -> None:
    equal = worst_case(0.05, False, 0.95, 0.5, 1800.0, 0.0, None)
    assert equal["recordings"] == 385  # 1.96^2 / 4 / 0.05^2, as every table of sample sizes has it
    assert worst_case(0.05, False, 0.95, 0.5, 1800.0, 1.0, None)["recordings"] == 769
    few = worst_case(0.05, False, 0.95, 0.5, 1800.0, 0.0, 500.0)  # 1,000 recordings
    assert few["recordings"] == 278  # 385 / (1 + 385 / 1,000)
    assert worst_case(0.5, False, 0.95, 0.5, 1800.0, 0.0, None)["recordings"] == FEW
    assert worst_case(0.01, False, 0.95, 0.5, 1800.0, 0.0, 5.0)["recordings"] == 10
    assert needed(0.01, 0.0, 60.0, 0.95) == FEW


def test_a_ratio_is_that_of_its_sums() -> None:
    seconds, amounts = np.array([10.0, 20.0, 40.0, 5.0]), np.array([1.0, 2.5, 3.0, 1.0])
    sums = (seconds.sum(), (seconds**2).sum(), amounts.sum(), (amounts**2).sum(), (seconds * amounts).sum())
    ratio = Ratio(4, *map(float, sums))
    rest = amounts - amounts.sum() / seconds.sum() * seconds
    assert ratio.deviation_s == pytest.approx(np.sqrt((rest**2).sum() / 3))
    assert ratio.standard_error() == pytest.approx(np.sqrt((rest**2).sum() / 3 / 4) / seconds.mean())
    assert ratio.standard_error(4) == 0


def test_the_command_plans_by_a_pilot_and_without(tmp_path: Path) -> None:
    spoken = [(0.0, 19.0)]
    batch = [{"id": f"r{n}", "duration_s": 20.0 + n, "speech": spoken[: n % 3]} for n in range(60)]
    lake = write_lake(tmp_path / "lake", [batch])
    select(lake, rules())
    words = ["study", "sample", str(tmp_path / "lake"), "--json", "--hours", "1000"]
    done = CliRunner().invoke(cli, [*words, "--by", "num_speakers", "--margin", "0.1"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {row["group"] for row in found["groups"]} == {"0", "1"}
    assert found["pilot"]["recordings"] == 60
    assert found["recordings"] == max(row["recordings"] for row in found["groups"]) > FEW
    done = CliRunner().invoke(cli, [*words, "--where", "speech_share > 0.3"])
    assert [row["group"] for row in json.loads(done.stdout)["groups"]] == ["speech_share > 0.3"]
    for view, by in (("windows", "kept"), ("verdicts", "verdict"), ("window_verdicts", "kept")):
        done = CliRunner().invoke(cli, [*words[:3], "--view", view, "--by", by])
        assert "draw " in done.stdout, done.output
    alike = [CliRunner().invoke(cli, [*words, "--view", view, "--by", "num_speakers"]).stdout for view in WHOLE]
    assert len(set(alike)) == 1
    for view, remedy in (("ledger", "--view recordings"), ("recording", "did you mean recordings")):
        done = CliRunner().invoke(cli, [*words, "--view", view, "--by", "split"])
        assert done.exit_code == 1
        assert remedy in f"{done.output}{getattr(done.exception, 'remedy', '')}"
    assert CliRunner().invoke(cli, ["study", "sample", "--margin", "0.02"]).exit_code == 0
    assert CliRunner().invoke(cli, words).exit_code == 2
    for wrong in (["--by", "nix"], ["--where", "speech_share > 5"], ["--where", "1); DROP TABLE x; --"]):
        done = CliRunner().invoke(cli, [*words, *wrong])
        assert done.exit_code == 1, done.output

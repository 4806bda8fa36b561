"""Bills: closed-form cases by hand, what bounds a step, the promised interval by simulation, and a real sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from forked import speechmill
from lakes import rules, write_lake
from small_runs import make_input, run_words

from manifests.lake import Lake
from manifests.select import select
from pipelines.commands.cli import cli
from pipelines.progress.usage import Usage
from runtime.errors import SpeechmillError
from studies.cost import cost
from studies.prices import Machine, Prices, Requests, Storage, Transfer, example_table, load
from studies.usage import Amount, Sample, Step, sample_of

PRICES = Prices(
    {"plain": Machine(10, 40, 100, 2.0), "gpu": Machine(8, 32, 100, 8.0, gpus=1)},
    Storage(0.02, 6), Transfer(0.01), "EUR", "2026-11-01", False, Requests(0.005, 0.0004),
)  # fmt: skip
GIB = 2**30


def step(name: str = "annotate", cpu_s: float = 0.1, **changes: Any) -> Step:
    known: dict[str, Any] = {
        "gpu_s": Amount(0.0), "read_bytes": Amount(32_000.0), "written_bytes": Amount(100.0),
        "peak_memory_bytes": 2 * GIB, "parts": {},
    }  # fmt: skip
    return Step(name, Amount(cpu_s), **(known | changes))


def bill(*steps: Step, hours: float = 1000.0, **named: Any) -> dict[str, Any]:
    return cost(Sample(["r"], 100, 10.0, Amount(32_000.0), Amount(0.8), steps), PRICES, hours, **named)


def test_a_bill_is_the_arithmetic_of_its_rates() -> None:
    found = bill(step(), step("encode", 0.05, written_bytes=Amount(10_000.0)), days=1)
    annotate, encode = found["steps"]
    assert annotate["cpu_hours"]["value"] == pytest.approx(100)  # 0.1 s a second, of 1,000 hours
    assert annotate["machine_hours"]["value"] == pytest.approx(10)  # on 10 cores
    assert (annotate["machine"], annotate["bound_by"], annotate["machines"]) == ("plain", "cpu", 1)
    assert annotate["workers_a_machine"] == 10
    assert annotate["money"]["value"] == pytest.approx(20)
    assert encode["written_tb"] == pytest.approx(0.036)
    assert bill(step(), hours=1e5, days=1)["steps"][0]["machines"] == 42  # 1,000 machine hours in a day
    stored = {row["what"]: row["money"]["value"] for row in found["storage"]}
    assert stored["recordings"] == pytest.approx(1000 * 3600 * 32_000 / 1e9 * 0.02 * 6)
    assert stored["features and annotations"] == pytest.approx(1000 * 3600 * 10_100 / 1e9 * 0.02 * 6)
    read_gb = 3 * 32_000 * 3600 * 1000 / 1e9  # to hash, to annotate, to encode
    assert found["transfer"]["money"]["value"] == pytest.approx(0.01 * read_gb)
    assert found["money"]["value"] == pytest.approx(30 + sum(stored.values()) + 0.01 * read_gb)
    assert [(row["count"], row["money"]) for row in found["requests"]] == [(0, 0.0), (0, 0.0)]


def test_requests_are_priced_by_the_thousand() -> None:
    annotate, encode = step(requests={"put": 0.5, "get": 2.0}), step("encode", requests={"put": 0.25, "list": 0.25})
    puts, gets = (found := bill(annotate, encode))["requests"]
    assert (puts["count"], gets["count"]) == (3_600_000, 7_200_000)  # one and two a second of 1,000 hours
    assert (puts["money"], gets["money"]) == (pytest.approx(18.0), pytest.approx(2.88))
    less = bill(step(), step("encode"))
    assert found["money"]["value"] - less["money"]["value"] == pytest.approx(20.88)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, "cpu"),
        ({"peak_memory_bytes": 8 * GIB}, "memory"),
        ({"read_bytes": Amount(2e6)}, "network"),
    ],
)
def test_the_resource_that_bounds_is_named(changes: dict[str, Any], bound: str) -> None:
    (found,) = bill(step(**changes), machine="plain")["steps"]
    assert found["bound_by"] == bound
    assert found["busy"][bound] == 1
    assert all(share < 1 for what, share in found["busy"].items() if what != bound)
    expected = {"cpu": 10, "memory": 1000 * 0.1 / 5, "network": 1000 * 2.0001e6 / 1e8}[bound]
    assert found["machine_hours"]["value"] == pytest.approx(expected, rel=1e-3)


def test_a_step_on_gpus_goes_where_they_are() -> None:
    found = bill(step(), step("annotate diarize", 0.01, gpu_s=Amount(0.02)))["steps"]
    assert [(one["machine"], one["bound_by"]) for one in found] == [("plain", "cpu"), ("gpu", "gpu")]
    assert found[1]["machine_hours"]["value"] == pytest.approx(20)
    with pytest.raises(SpeechmillError, match="cannot run the step annotate diarize: too little gpu"):
        bill(step("annotate diarize", 0.01, gpu_s=Amount(0.02)), machine="plain")
    with pytest.raises(SpeechmillError, match="no machine 'huge'") as caught:
        bill(step(), machine="huge")
    assert "plain, gpu" in caught.value.remedy


def summary(
    lake: Lake,
    name: str,
    spent: dict[str, Usage],
    selected: str = "sel",
    own: dict[str, dict[str, float]] | None = None,
) -> None:
    """A run's folder as `Watch` leaves it."""
    steps: dict[str, Any] = {}
    for group, sums in spent.items():
        told = {"recordings": sums.observations, "hours": sums.seconds / 3600, "wall_s": 1.0, "failed": 0}
        steps[group.partition(" ")[0]] = told | {"hours_per_hour": 1.0, "spent": {group: sums.to_json()}}
    told = {
        "outcome": "done",
        "wall_s": 1.0,
        "steps": steps,
        "own": own or {},
        "results": {"select": {"selection": selected}},
    }
    lake.storage.put(f"runs/{name}/summary.json", json.dumps(told).encode())
    lake.storage.put(f"runs/{name}/recipe.json", json.dumps({"name": "r"}).encode())


def test_the_interval_holds_what_the_whole_takes_as_often_as_it_says(tmp_path: Path) -> None:
    """Recordings that cost differently, by their length and beside it; the bill of all from 60 of them."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5, 0.8, 20_000)
    costs = lengths * rng.gamma(4, 0.1 / 4, 20_000) + rng.exponential(2, 20_000)
    truth = costs.sum() / 3600
    lake = write_lake(tmp_path / "lake", [[{"id": f"r{n}", "duration_s": 20.0, "speech": [(0, 19)]} for n in range(4)]])
    select(lake, rules())
    held = []
    for _ in range(50):
        annotate = Usage()
        for row in rng.choice(20_000, 60, replace=False):
            annotate.observe(lengths[row], {"cpu_s": costs[row], "read_bytes": lengths[row]})
        summary(lake, "20260101T000000Z-0000", {"annotate": annotate, "encode": annotate})
        (found, _) = cost(sample_of(lake), PRICES, lengths.sum() / 3600)["steps"]
        held.append(found["cpu_hours"]["low"] <= truth <= found["cpu_hours"]["high"])
    assert np.mean(held) >= 0.86


def test_runs_of_one_recipe_are_joined_and_others_are_left_out(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [[{"id": f"r{n}", "duration_s": 20.0, "speech": [(0, 19)]} for n in range(4)]])
    select(lake, rules())
    with pytest.raises(SpeechmillError, match="has annotated and encoded a sample") as caught:
        sample_of(lake)
    assert "speechmill run" in caught.value.remedy
    made = []
    for seconds, cpu_s in ((10.0, 1.0), (30.0, 2.0), (20.0, 4.0)):
        one = Usage(peak_memory_bytes=int(seconds), first_seconds=2.0)
        one.observe(seconds, {"cpu_s": cpu_s, "cpu_s.vad": cpu_s / 2, "read_bytes": 100.0})
        one.add({"written_bytes": 64.0, "put_requests": 3.0})
        made.append(one)
    for number, one in enumerate(made[:2]):
        own = {"ingest": {"cpu_s": 1.1, "list_requests": 2}, "select": {"cpu_s": 0.44}} if number else None
        summary(lake, f"2026010{number + 1}T000000Z-0000", {"annotate": one}, own=own)
    summary(lake, "20260103T000000Z-0000", {"encode": made[2]})
    found = sample_of(lake)
    assert (len(found.runs), found.recordings, found.hours) == (3, 2, 40 / 3600)
    annotate, command, encode = sorted(found.steps, key=lambda one: one.name)
    assert command.parts == {"ingest": (pytest.approx(0.025), 0.0), "select": (pytest.approx(0.01), 0.0)}  # of 44 s
    assert command.cpu_s.value == pytest.approx(0.035)
    assert command.requests == {"list": pytest.approx(2 / 44)}
    assert annotate.requests == {"put": pytest.approx(6 / 44)}
    assert annotate.cpu_s.value == pytest.approx(3 / 40)
    assert annotate.parts["vad"][0] == pytest.approx(1.5 / 40)
    assert annotate.written_bytes.value == pytest.approx(128 / 44)
    assert annotate.peak_memory_bytes == 30
    kept = 16 / 20  # two windows of 8 s of each recording of 20 s
    assert found.kept.value == pytest.approx(kept)
    assert encode.cpu_s.value == pytest.approx(kept * 4 / 20)
    only = sample_of(lake, ["20260101T000000Z-0000", "20260103T000000Z-0000"])
    assert only.recordings == 1
    assert cost(only, PRICES, 10.0)["money"]["low"] is None
    with pytest.raises(SpeechmillError, match="no run nix"):
        sample_of(lake, ["nix"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("cores = 32\n", ""), "machines.cpu-32: cores must be a number of 0 or more"),
        (("cores = 32", "cores = -1"), "cores must be a number"),
        (("cores = 32", "cores = true"), "cores must be a number"),
        (("busy = 0.9", "busy = 2"), "and busy above 0 and at most 1"),
        (("months = 12", "month = 12"), "storage: unknown key: month"),
        (("date = 2026-11-01", 'date = "today"'), "date a day"),
        (("[storage]", "[storag]"), "unknown key: storag"),
        (("[storage]", "[storage"), "cannot be read as a price table"),
    ],
)
def test_a_price_table_is_checked(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(example_table())
    assert load(str(path)) == load(None)
    path.write_text(example_table().replace(*change, 1))
    with pytest.raises(SpeechmillError, match=told) as caught:
        load(str(path))
    assert "--show-prices" in caught.value.remedy


def test_a_real_sample_is_billed(tmp_path: Path) -> None:
    make_input(tmp_path, 6)
    done = speechmill(*run_words(tmp_path, tmp_path / "lake"))
    assert done.returncode == 0, done.stderr
    printed = CliRunner().invoke(cli, ["study", "cost", str(tmp_path / "lake"), "--hours", "7e6", "--json"])
    assert printed.exit_code == 0, printed.output
    found = json.loads(printed.stdout)
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    seconds = 6 * 30.0
    assert found["sample"]["recordings"] == 5  # the first one of a process is kept apart
    assert found["sample"]["kept"]["value"] == pytest.approx(24 / 30)
    recordings = next(row for row in found["storage"] if row["what"] == "recordings")
    assert recordings["tb"] == pytest.approx(size / seconds * 3600 * 7e6 / 1e12)
    shards = [path for path in (tmp_path / "lake/datasets/cheap").glob("[ptw]*/*") if path.is_file()]
    encode = next(row for row in found["steps"] if row["step"] == "encode")
    assert encode["written_tb"] == pytest.approx(
        sum(path.stat().st_size for path in shards) / seconds * 3600 * 7e6 / 1e12, rel=0.01
    )
    *steps, command = found["steps"]
    assert all(row["cpu_hours"]["low"] < row["cpu_hours"]["value"] < row["cpu_hours"]["high"] for row in steps)
    assert {row["part"] for row in found["parts"] if row["step"] != "command"} == {
        "vad", "logmel", "decoding and the rest",
    }  # fmt: skip
    took = {row["part"]: row["cpu_hours"] for row in found["parts"] if row["step"] == "command"}
    assert min(took["ingest"], took["select"]) > 0
    assert sum(took.values()) == pytest.approx(command["cpu_hours"]["value"])
    assert [row["count"] for row in found["requests"]] == [0, 0]  # the lake lies on a disk
    assert found["example_prices"]
    shown = CliRunner().invoke(cli, ["study", "cost", str(tmp_path / "lake"), "--hours", "7e6"])
    assert "limited by cpu" in shown.stdout
    assert "these prices are invented examples" in shown.stdout
    assert CliRunner().invoke(cli, ["study", "cost", "--show-prices"]).stdout == example_table()

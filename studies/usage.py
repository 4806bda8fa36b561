"""The resources that runs over a sample used, per second of sound, with standard errors.

They come from `runs/<time>/summary.json` and are estimated from sums over recordings (`estimate.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.choice import choose
from manifests.lake import Lake
from manifests.report.runs import Run, newest_runs
from manifests.views import open_views
from runtime.errors import SpeechmillError
from studies.estimate import Ratio, ratio_of

RECIPE_TABLES = ("name", "decode", "annotate", "select", "encode")
"""Tables of a recipe that must be equal in the runs over one sample."""
REMEDY = "run a sample with `speechmill run`"
COMMAND = "command"
"""Name of the step that contains the work of the commands themselves, without their workers."""
WORKER = "decoding and the rest"
"""Name of the part of a step that is not in any stage."""


@dataclass(frozen=True)
class Amount:
    """A number and its standard error."""

    value: float
    error: float = 0.0

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.value * factor, self.error * abs(factor))

    def __add__(self, other: Amount) -> Amount:
        """Add two amounts. Their errors are added too, because both come from the same recordings and are
        correlated."""
        return Amount(self.value + other.value, self.error + other.error)

    def times(self, other: Amount) -> Amount:
        """Multiply two amounts. Their relative errors are added, for the same reason."""
        return Amount(self.value * other.value, self.error * other.value + other.error * self.value)

    def interval(self, spread: float) -> dict[str, float | None]:
        """Return the value with the ends of the interval of `spread` standard errors, None if the error is unknown."""
        if not math.isfinite(self.error):
            return {"value": self.value, "low": None, "high": None}
        half = spread * self.error
        return {"value": self.value, "low": max(0.0, self.value - half), "high": self.value + half}


@dataclass(frozen=True)
class Step:
    """What a group of workers needs per second of input sound."""

    name: str
    """'annotate' or 'encode'; other groups also have the names of their stages."""
    cpu_s: Amount
    gpu_s: Amount
    read_bytes: Amount
    written_bytes: Amount
    peak_memory_bytes: int
    parts: Mapping[str, tuple[float, float]]
    """CPU and GPU seconds by part."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests to object stores, by kind."""


@dataclass(frozen=True)
class Sample:
    """The measurements of runs over some recordings."""

    runs: Sequence[str]
    recordings: int
    hours: float
    size_bytes: Amount
    """Size of the recordings per second of sound."""
    kept: Amount
    """Seconds of encoded windows per second of input sound."""
    steps: Sequence[Step]


def sample_of(lake: Lake, names: Sequence[str] = ()) -> Sample:
    """Return the measurements of runs.

    Args:
        lake: The lake with the sample.
        names: Names of runs; by default the newest run and all others with the same recipe.

    Raises:
        SpeechmillError: No step of these runs annotated, or none encoded.
    """
    runs = [run for run in newest_runs(lake) if _spent(run) or run.summary.get("own")]
    if names:
        if unknown := set(names) - {run.name for run in runs}:
            raise SpeechmillError(f"there is no run {', '.join(sorted(unknown))} with measurements", REMEDY)
        runs = [run for run in runs if run.name in names]
    elif first := next(filter(_spent, runs), None):
        runs = [run for run in runs if all(run.recipe.get(key) == first.recipe.get(key) for key in RECIPE_TABLES)]
    spent: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, sums in _spent(run).items():
            spent[name] = _add_sums(spent[name], sums) if name in spent else sums
    if "annotate" not in spent or "encode" not in spent:
        raise SpeechmillError(f"no run in {lake.storage.root} has annotated and encoded a sample", REMEDY)
    kept = _kept(lake, runs)
    annotated = spent["annotate"]
    # Other groups only process the pieces of long recordings, so their share of the sound is smaller than 1.
    shares = {name: Amount(sums["seconds"] / annotated["seconds"]) for name, sums in spent.items()} | {"encode": kept}
    shares |= {name: Amount(1.0) for name in spent if name.startswith("annotate")}
    steps = [_step(name, sums, shares[name]) for name, sums in spent.items()]
    if own := [run.summary["own"] for run in runs if run.summary.get("own")]:
        steps.append(_command(own, _all_seconds(annotated)))
    size = _amount(ratio_of(annotated, "read_bytes"))
    hours = annotated["seconds"] / 3600
    return Sample([run.name for run in runs], annotated["observations"], hours, size, kept, steps)


def _spent(run: Run) -> dict[str, dict[str, Any]]:
    """Return the sums of a run over its sound, by group of workers."""
    groups = (group for step in run.steps.values() for group in step.get("spent", {}).items())
    return {name: sums for name, sums in groups if sums["observations"] and sums["seconds"]}


def _add_sums(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Add the sums of two runs."""
    summed = ("observations", "seconds", "seconds_squared", "first_seconds", "first_cpu_s")
    added = {name: one[name] + other[name] for name in summed}
    of = {
        name: {what: one["of"].get(name, {}).get(what, 0.0) + other["of"].get(name, {}).get(what, 0.0) for what in sums}
        for name, sums in (one["of"] | other["of"]).items()
    }
    return {**added, "of": of, "peak_memory_bytes": max(one["peak_memory_bytes"], other["peak_memory_bytes"])}


def _amount(ratio: Ratio) -> Amount:
    return Amount(ratio.value, ratio.standard_error())


def _step(name: str, spent: Mapping[str, Any], of_input: Amount) -> Step:
    """Build a step. `of_input` is the sound that it processes, in seconds per second of input sound."""
    rates = {quantity: _amount(ratio_of(spent, quantity)) for quantity in ("cpu_s", "read_bytes", "written_bytes")}
    # Written bytes are only known for all recordings together, and are proportional to their length.
    written = spent["of"].get("written_bytes", {"total": 0.0})["total"]
    rates["written_bytes"] = Amount(written / _all_seconds(spent))
    requests = {
        kind: spent["of"][f"{kind}_requests"]["total"] / _all_seconds(spent) * of_input.value
        for kind in ("put", "list", "get")
        if f"{kind}_requests" in spent["of"]
    }
    parts: dict[str, tuple[float, float]] = {}
    gpu = Amount(0.0)
    for quantity in spent["of"]:
        kind, _, part = quantity.partition(".")
        if part:
            amount = _amount(ratio_of(spent, quantity))
            cpu_s, gpu_s = parts.get(part, (0.0, 0.0))
            is_gpu = kind == "gpu_s"
            parts[part] = (cpu_s + amount.value * (not is_gpu), gpu_s + amount.value * is_gpu)
            gpu = gpu + amount * is_gpu
    parts[WORKER] = (max(0.0, rates["cpu_s"].value - sum(cpu_s for cpu_s, _ in parts.values())), 0.0)
    scaled = {part: (cpu_s * of_input.value, gpu_s * of_input.value) for part, (cpu_s, gpu_s) in parts.items()}
    amounts = (rates["cpu_s"], gpu, rates["read_bytes"], rates["written_bytes"])
    cpu, gpu, read, written = (amount.times(of_input) for amount in amounts)
    return Step(name, cpu, gpu, read, written, spent["peak_memory_bytes"], scaled, requests)


def _all_seconds(spent: Mapping[str, Any]) -> float:
    """Return the seconds of sound, including the first recording of each process."""
    return float(spent["seconds"] + spent["first_seconds"])


def _command(own: Sequence[Mapping[str, Mapping[str, float]]], seconds: float) -> Step:
    """Return the step of ingest, select and the work of the commands around the workers.

    Part of that work does not depend on the length of the sample, so a small sample overestimates it by an unknown
    amount.
    """
    total: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for run in own:
        for name, sums in run.items():
            total.update(sums)
            parts[name] += sums["cpu_s"]  # type: ignore[assignment]
    rates = {name: amount / seconds for name, amount in total.items()}
    requests = {kind: rates[name] for kind in ("put", "list", "get") if (name := f"{kind}_requests") in rates}
    zero = Amount(0.0)
    part_rates = {name: (cpu_s / seconds, 0.0) for name, cpu_s in parts.items()}
    return Step(COMMAND, Amount(rates.get("cpu_s", 0.0)), zero, zero, zero, 0, part_rates, requests)


def _kept(lake: Lake, runs: Sequence[Run]) -> Amount:
    """Return the share of the sound that is in kept windows, by the selection that the runs made."""
    selection = next((run.selected for run in runs if run.selected), None)
    connection = open_views(lake, choose(lake, selection), ())
    query = (
        "SELECT count(*), sum(x), sum(x * x), sum(y), sum(y * y), sum(x * y) FROM (SELECT duration_s AS x, "
        "coalesce(kept_s, 0) AS y FROM verdicts LEFT JOIN (SELECT recording_id, sum(duration_s) AS kept_s FROM windows "
        "WHERE kept GROUP BY recording_id) USING (recording_id) WHERE duration_s > 0)"
    )
    (row,) = connection.execute(query).fetchall()
    return _amount(Ratio(*(value or 0 for value in row)))

"""The cost of processing a number of hours: the measurements of a run over a sample, times a table of prices.

The measurements are in `runs/<time>/summary.json`. Amounts are per second of sound. They are estimated from sums over
recordings (`estimate.py`), and each has a standard error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.choice import choose
from manifests.lake import Lake
from manifests.look import terminal
from manifests.report.runs import Run, newest_runs
from manifests.views import open_views
from runtime.errors import SpeechmillError
from studies.estimate import Ratio, quantile, ratio_of
from studies.prices import Machine, Prices

RECIPE_TABLES = ("name", "decode", "annotate", "select", "encode")
"""Tables of a recipe that must be equal in the runs over one sample."""
REMEDY = "run a sample with `speechmill run`"
REQUESTS = {"PUT, POST and LIST": ("put", "list"), "GET and HEAD": ("get",)}
"""Kinds of requests with the same price, and their names in the summaries of runs."""
COMMAND = "command"
"""Name of the step that contains the work of the commands themselves, without their workers."""
WORKER = "decoding and the rest"
"""Name of the part of a step that is not in any stage."""
GIB = 2**30


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
        lake: The lake that holds the sample.
        names: Names of runs; by default the newest run and all others with the same recipe.

    Raises:
        SpeechmillError: These runs have not both annotated and encoded.
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


def cost(
    sample: Sample,
    prices: Prices,
    hours: float,
    days: float = 30.0,
    confidence: float = 0.95,
    machine: str | None = None,
) -> dict[str, Any]:
    """Compute the cost of sound that is like the sample.

    Args:
        sample: The measurements.
        prices: The price table.
        hours: Hours of sound.
        days: How long each step may take, which decides the number of machines.
        confidence: Of the intervals.
        machine: The machine for all steps; by default the cheapest one for each.

    Returns:
        The JSON document that docs/json.md describes.

    Raises:
        SpeechmillError: The machine is not in the table, or no machine can run a step.
    """
    if machine is not None and machine not in prices.machines:
        raise SpeechmillError(f"no machine {machine!r}", f"the price table has: {', '.join(prices.machines)}")
    seconds = 3600 * hours
    spread = quantile(confidence, sample.recordings - 1) if sample.recordings > 1 else math.inf
    steps, money = [], Amount(0.0)
    for step in sample.steps:
        kinds = {machine: prices.machines[machine]} if machine else prices.machines
        name, cheapest = _cheapest(step, kinds)
        bound, needed = _bound(step, cheapest)
        machine_hours = needed * hours
        step_money = machine_hours * cheapest.price_per_hour
        money = money + step_money
        count = max(1, math.ceil(machine_hours.value / (24 * days)))
        steps.append(
            {
                "step": step.name,
                "cpu_hours": (step.cpu_s * hours).interval(spread),
                "gpu_hours": (step.gpu_s * hours).interval(spread),
                "read_tb": step.read_bytes.value * seconds / 1e12,
                "written_tb": step.written_bytes.value * seconds / 1e12,
                "worker_memory_gib": step.peak_memory_bytes / GIB,
                "machine": name,
                "workers_a_machine": _workers(step, cheapest),
                "bound_by": bound,
                "busy": _shares(step, cheapest),
                "machine_hours": machine_hours.interval(spread),
                "machines": count,
                "days": machine_hours.value / count / 24,
                "money": step_money.interval(spread),
            }
        )
    written = Amount(sum(step.written_bytes.value for step in sample.steps))
    stored = {"features and annotations": written} | (
        {"recordings": sample.size_bytes} if prices.storage.recordings else {}
    )
    storage = []
    for what, amount in stored.items():
        paid = amount * (seconds / 1e9 * prices.storage.price_per_gb_month * prices.storage.months)
        storage.append({"what": what, "tb": amount.value * seconds / 1e12, "money": paid.interval(spread)})
        money = money + paid
    read = sample.size_bytes  # ingest reads each recording once, to hash it
    for step in sample.steps:
        read = read + step.read_bytes
    requests = []
    for what, methods in REQUESTS.items():
        sent = seconds * sum(step.requests.get(method, 0.0) for step in sample.steps for method in methods)
        price = prices.requests.price_per_1000_put if "put" in methods else prices.requests.price_per_1000_get
        requests.append({"what": what, "count": round(sent), "money": sent / 1000 * price})
        money = money + Amount(sent / 1000 * price)
    transferred = read * (seconds / 1e9 * prices.transfer.price_per_gb_read)
    money = money + transferred
    return {
        "hours": hours,
        "confidence": confidence,
        "sample": {
            "runs": list(sample.runs),
            "recordings": sample.recordings,
            "hours": sample.hours,
            "kept": sample.kept.interval(spread),
        },
        "parts": [
            {"step": step.name, "part": part, "cpu_hours": cpu_s * hours, "gpu_hours": gpu_s * hours}
            for step in sample.steps
            for part, (cpu_s, gpu_s) in step.parts.items()
        ],
        "steps": steps,
        "storage": storage,
        "requests": requests,
        "transfer": {"tb": read.value * seconds / 1e12, "money": transferred.interval(spread)},
        "money": money.interval(spread),
        "months": prices.storage.months,
        "currency": prices.currency,
        "prices_of": prices.date,
        "example_prices": prices.example,
    }


def _workers(step: Step, machine: Machine) -> int:
    """Return the number of workers on a machine: one per core, as many as its memory allows."""
    by_memory = math.inf if not step.peak_memory_bytes else machine.memory_gib * GIB // step.peak_memory_bytes
    return int(min(machine.cores, by_memory))


def _needs(step: Step, machine: Machine) -> dict[str, Amount]:
    """Return the hours that each resource of the machine is busy per hour of sound."""
    never = Amount(math.inf)
    workers = _workers(step, machine)
    by_workers = step.cpu_s * (1 / (workers * machine.busy)) if workers else never
    needs = {"memory" if workers < machine.cores else "cpu": by_workers}
    moved = step.read_bytes + step.written_bytes
    needs["network"] = moved * (1 / (1e6 * machine.network_mb_s))
    if step.gpu_s.value:
        needs["gpu"] = step.gpu_s * (1 / (machine.gpus * machine.busy)) if machine.gpus else never
    return needs


def _bound(step: Step, machine: Machine) -> tuple[str, Amount]:
    """Return the resource that is busy longest, and for how long."""
    return max(_needs(step, machine).items(), key=lambda item: item[1].value)


def _shares(step: Step, machine: Machine) -> dict[str, float]:
    """Return how busy each resource is, as a share of the time of the busiest one."""
    _, most = _bound(step, machine)
    return {what: need.value / most.value for what, need in _needs(step, machine).items()}


def _cheapest(step: Step, machines: Mapping[str, Machine]) -> tuple[str, Machine]:
    prices = {name: _bound(step, machine)[1].value * machine.price_per_hour for name, machine in machines.items()}
    name = min(prices, key=lambda name: (prices[name], name))
    if not math.isfinite(_bound(step, machines[name])[1].value):
        lacking, _ = _bound(step, machines[name])
        what = f"{', '.join(machines)} cannot run the step {step.name}: too little {lacking}"
        raise SpeechmillError(what, "add a machine with enough of it to the price table")
    return name, machines[name]


def render(bill: Mapping[str, Any]) -> None:
    """Print the document of `cost` as text."""
    sample, currency = bill["sample"], bill["currency"]
    terminal.echo(
        f"{bill['hours']:,.0f} h like the {sample['recordings']:,} recordings ({sample['hours']:,.2f} h) of "
        f"{', '.join(sample['runs'])}; {100 * sample['kept']['value']:.1f} % of the sound is kept"
    )
    terminal.table(
        ["step", "part", "CPU hours", "GPU hours"],
        [[row["step"], row["part"], row["cpu_hours"], row["gpu_hours"]] for row in bill["parts"]],
    )
    for step in bill["steps"]:
        others = ", ".join(f"{what} {100 * share:.0f} %" for what, share in step["busy"].items())
        memory = step["worker_memory_gib"]  # 0 for the step of the commands, where it is not measured
        workers = f"{step['workers_a_machine']:,} workers a machine of {memory:.1f} GiB each; " if memory else ""
        terminal.echo(
            f"{step['step']}: {step['machines']:,} x {step['machine']} for {step['days']:,.1f} days, "
            f"{_interval(step['machine_hours'])} machine hours; bound by {step['bound_by']} ({others}); "
            f"{workers}{_interval(step['money'])} {currency}"
        )
    for row in bill["storage"]:
        terminal.echo(
            f"storage of {row['what']}: {row['tb']:,.2f} TB for {bill['months']:g} months, "
            f"{_interval(row['money'])} {currency}"
        )
    transfer = bill["transfer"]
    terminal.echo(f"transfer: {transfer['tb']:,.2f} TB read, {_interval(transfer['money'])} {currency}")
    for row in bill["requests"]:
        terminal.echo(f"requests, {row['what']}: {row['count']:,}, {terminal.number(row['money'])} {currency}")
    terminal.echo(f"in all: {_interval(bill['money'])} {currency}", bold=True)
    if bill["money"]["low"] is None:
        terminal.echo("the error is unknown: the sample has fewer than two recordings")
    else:
        terminal.echo(
            f"the intervals have {100 * bill['confidence']:g} % confidence, provided that the recordings of the sample "
            "were drawn at random from the target and the machines are like those that measured"
        )
    if bill["example_prices"]:
        terminal.echo("these prices are made-up examples: give your own with --prices")


def _interval(amount: Mapping[str, float | None]) -> str:
    """Format a value with the ends of its interval."""
    value = terminal.number(amount["value"])
    if amount["low"] is None or amount["low"] == amount["high"]:
        return value
    return f"{value} ({terminal.number(amount['low'])} to {terminal.number(amount['high'])})"

"""What milling a target of hours costs: the measurements of a run over a sample, times a table of prices.

Arithmetic over `runs/<time>/summary.json`; nothing is measured here. Amounts are a second of sound, estimated from sums
over recordings (`estimate.py`), so that each comes with how far it may be off.
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

ALIKE = ("name", "decode", "annotate", "select", "encode")
"""Tables of a recipe that runs of one sample have in common."""
REMEDY = "run a sample with `speechmill run`"
REQUESTS = {"PUT, POST and LIST": ("put", "list"), "GET and HEAD": ("get",)}
"""What is priced alike, by the kinds of requests that runs count."""
COMMAND = "command"
"""The step of all that the commands do themselves, beside their workers."""
WORKER = "decoding and the rest"
GIB = 2**30


@dataclass(frozen=True)
class Amount:
    """A number and its standard error."""

    value: float
    error: float = 0.0

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.value * factor, self.error * abs(factor))

    def __add__(self, other: Amount) -> Amount:
        """Errors add up: the same recordings are behind both, so that they may well be off in the same direction."""
        return Amount(self.value + other.value, self.error + other.error)

    def times(self, other: Amount) -> Amount:
        """The product, whose relative errors add up for the same reason."""
        return Amount(self.value * other.value, self.error * other.value + other.error * self.value)

    def told(self, spread: float) -> dict[str, float | None]:
        """The value with the ends of its interval, at so many standard errors; null where the error is unknown."""
        if not math.isfinite(self.error):
            return {"value": self.value, "low": None, "high": None}
        half = spread * self.error
        return {"value": self.value, "low": max(0.0, self.value - half), "high": self.value + half}


@dataclass(frozen=True)
class Step:
    """What a group of workers takes a second of the sound that goes in."""

    name: str
    """'annotate', 'encode', and with the names of its stages any other group."""
    cpu_s: Amount
    gpu_s: Amount
    read_bytes: Amount
    written_bytes: Amount
    peak_memory_bytes: int
    parts: Mapping[str, tuple[float, float]]
    """CPU and GPU seconds by part."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """To object stores, by kind."""


@dataclass(frozen=True)
class Sample:
    """What runs have measured over some recordings."""

    runs: Sequence[str]
    recordings: int
    hours: float
    size_bytes: Amount
    """Of recordings, a second of their sound."""
    kept: Amount
    """Seconds of windows that are encoded, a second of sound that goes in."""
    steps: Sequence[Step]


def sample_of(lake: Lake, names: Sequence[str] = ()) -> Sample:
    """What the newest run of the lake has measured, with those of the same recipe; or the runs that are named.

    Raises SpeechmillError where no run has measured both of annotating and encoding.
    """
    runs = [run for run in newest_runs(lake) if _spent(run) or run.summary.get("own")]
    if names:
        if unknown := set(names) - {run.name for run in runs}:
            raise SpeechmillError(f"no run {', '.join(sorted(unknown))} has measured what it took", REMEDY)
        runs = [run for run in runs if run.name in names]
    elif first := next(filter(_spent, runs), None):
        runs = [run for run in runs if all(run.recipe.get(key) == first.recipe.get(key) for key in ALIKE)]
    spent: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, sums in _spent(run).items():
            spent[name] = _joined(spent[name], sums) if name in spent else sums
    if "annotate" not in spent or "encode" not in spent:
        raise SpeechmillError(f"no run in {lake.storage.root} has annotated and encoded a sample", REMEDY)
    kept = _kept(lake, runs)
    annotated = spent["annotate"]
    # Only long recordings are worked on in pieces.
    shares = {name: Amount(sums["seconds"] / annotated["seconds"]) for name, sums in spent.items()} | {"encode": kept}
    shares |= {name: Amount(1.0) for name in spent if name.startswith("annotate")}
    steps = [_step(name, sums, shares[name]) for name, sums in spent.items()]
    if own := [run.summary["own"] for run in runs if run.summary.get("own")]:
        steps.append(_command(own, _all_seconds(annotated)))
    size = _amount(ratio_of(annotated, "read_bytes"))
    hours = annotated["seconds"] / 3600
    return Sample([run.name for run in runs], annotated["observations"], hours, size, kept, steps)


def _spent(run: Run) -> dict[str, dict[str, Any]]:
    """What was spent on sound in a run, by group of workers."""
    groups = (group for step in run.steps.values() for group in step.get("spent", {}).items())
    return {name: sums for name, sums in groups if sums["observations"] and sums["seconds"]}


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The sums of two runs as those of one."""
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
    """What a step takes; `of_input` is its own sound, a second of sound that goes in."""
    rates = {quantity: _amount(ratio_of(spent, quantity)) for quantity in ("cpu_s", "read_bytes", "written_bytes")}
    # What was written is known of all recordings together: it grows with their length.
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
            found = _amount(ratio_of(spent, quantity))
            cpu_s, gpu_s = parts.get(part, (0.0, 0.0))
            is_gpu = kind == "gpu_s"
            parts[part] = (cpu_s + found.value * (not is_gpu), gpu_s + found.value * is_gpu)
            gpu = gpu + found * is_gpu
    parts[WORKER] = (max(0.0, rates["cpu_s"].value - sum(cpu_s for cpu_s, _ in parts.values())), 0.0)
    scaled = {part: (cpu_s * of_input.value, gpu_s * of_input.value) for part, (cpu_s, gpu_s) in parts.items()}
    amounts = (rates["cpu_s"], gpu, rates["read_bytes"], rates["written_bytes"])
    cpu, gpu, read, written = (amount.times(of_input) for amount in amounts)
    return Step(name, cpu, gpu, read, written, spent["peak_memory_bytes"], scaled, requests)


def _all_seconds(spent: Mapping[str, Any]) -> float:
    """Seconds of sound, those of the first recording of each process included."""
    return float(spent["seconds"] + spent["first_seconds"])


def _command(own: Sequence[Mapping[str, Mapping[str, float]]], seconds: float) -> Step:
    """What ingest, select and the commands around the workers take, a second of sound.

    They take some time however short the sample is, so that a small one says too much: no error of that is known.
    """
    total: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for run in own:
        for name, took in run.items():
            total.update(took)
            parts[name] += took["cpu_s"]  # type: ignore[assignment]
    rates = {name: amount / seconds for name, amount in total.items()}
    requests = {kind: rates[name] for kind in ("put", "list", "get") if (name := f"{kind}_requests") in rates}
    nothing = Amount(0.0)
    of_parts = {name: (cpu_s / seconds, 0.0) for name, cpu_s in parts.items()}
    return Step(COMMAND, Amount(rates.get("cpu_s", 0.0)), nothing, nothing, nothing, 0, of_parts, requests)


def _kept(lake: Lake, runs: Sequence[Run]) -> Amount:
    """The share of the sound that lies in windows which the rules keep, by the selection that the runs made."""
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
    """The bill of `hours` hours of sound that are like the sample, done in `days` days, as docs/json.md describes it.

    Raises SpeechmillError for a machine that is not in the table or cannot do a step.
    """
    if machine is not None and machine not in prices.machines:
        raise SpeechmillError(f"no machine {machine!r}", f"the price table has: {', '.join(prices.machines)}")
    seconds = 3600 * hours
    spread = quantile(confidence, sample.recordings - 1) if sample.recordings > 1 else math.inf
    steps, money = [], Amount(0.0)
    for step in sample.steps:
        kinds = {machine: prices.machines[machine]} if machine else prices.machines
        name, of = _cheapest(step, kinds)
        bound, needed = _bound(step, of)
        machine_hours = needed * hours
        step_money = machine_hours * of.price_per_hour
        money = money + step_money
        count = max(1, math.ceil(machine_hours.value / (24 * days)))
        steps.append(
            {
                "step": step.name,
                "cpu_hours": (step.cpu_s * hours).told(spread),
                "gpu_hours": (step.gpu_s * hours).told(spread),
                "read_tb": step.read_bytes.value * seconds / 1e12,
                "written_tb": step.written_bytes.value * seconds / 1e12,
                "worker_memory_gib": step.peak_memory_bytes / GIB,
                "machine": name,
                "workers_a_machine": _workers(step, of),
                "bound_by": bound,
                "busy": _shares(step, of),
                "machine_hours": machine_hours.told(spread),
                "machines": count,
                "days": machine_hours.value / count / 24,
                "money": step_money.told(spread),
            }
        )
    written = Amount(sum(step.written_bytes.value for step in sample.steps))
    stored = {"features and annotations": written} | (
        {"recordings": sample.size_bytes} if prices.storage.recordings else {}
    )
    storage = []
    for what, amount in stored.items():
        paid = amount * (seconds / 1e9 * prices.storage.price_per_gb_month * prices.storage.months)
        storage.append({"what": what, "tb": amount.value * seconds / 1e12, "money": paid.told(spread)})
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
            "kept": sample.kept.told(spread),
        },
        "parts": [
            {"step": step.name, "part": part, "cpu_hours": cpu_s * hours, "gpu_hours": gpu_s * hours}
            for step in sample.steps
            for part, (cpu_s, gpu_s) in step.parts.items()
        ],
        "steps": steps,
        "storage": storage,
        "requests": requests,
        "transfer": {"tb": read.value * seconds / 1e12, "money": transferred.told(spread)},
        "money": money.told(spread),
        "months": prices.storage.months,
        "currency": prices.currency,
        "prices_of": prices.date,
        "example_prices": prices.example,
    }


def _workers(step: Step, machine: Machine) -> int:
    """Workers that a machine holds: one a core, as far as its memory goes."""
    by_memory = math.inf if not step.peak_memory_bytes else machine.memory_gib * GIB // step.peak_memory_bytes
    return int(min(machine.cores, by_memory))


def _needs(step: Step, machine: Machine) -> dict[str, Amount]:
    """Hours of the machine that each of its resources is busy for an hour of sound."""
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
    """The resource that is busy longest, and for how long."""
    return max(_needs(step, machine).items(), key=lambda item: item[1].value)


def _shares(step: Step, machine: Machine) -> dict[str, float]:
    """How busy each resource is while the one that bounds is busy all the time."""
    _, most = _bound(step, machine)
    return {what: need.value / most.value for what, need in _needs(step, machine).items()}


def _cheapest(step: Step, machines: Mapping[str, Machine]) -> tuple[str, Machine]:
    prices = {name: _bound(step, one)[1].value * one.price_per_hour for name, one in machines.items()}
    name = min(prices, key=lambda name: (prices[name], name))
    if not math.isfinite(_bound(step, machines[name])[1].value):
        lacking, _ = _bound(step, machines[name])
        what = f"{', '.join(machines)} cannot do the step {step.name}: too little {lacking}"
        raise SpeechmillError(what, "add a machine to the price table that has it")
    return name, machines[name]


def render(found: Mapping[str, Any]) -> None:
    """The bill for people."""
    sample, currency = found["sample"], found["currency"]
    terminal.echo(
        f"{found['hours']:,.0f} h like the {sample['recordings']:,} recordings ({sample['hours']:,.2f} h) of "
        f"{', '.join(sample['runs'])}; {100 * sample['kept']['value']:.1f} % of the sound is kept"
    )
    terminal.table(
        ["step", "part", "CPU hours", "GPU hours"],
        [[row["step"], row["part"], row["cpu_hours"], row["gpu_hours"]] for row in found["parts"]],
    )
    for step in found["steps"]:
        others = ", ".join(f"{what} {100 * share:.0f} %" for what, share in step["busy"].items())
        memory = step["worker_memory_gib"]  # nobody measures that of a command
        workers = f"{step['workers_a_machine']:,} workers a machine of {memory:.1f} GiB each; " if memory else ""
        terminal.echo(
            f"{step['step']}: {step['machines']:,} x {step['machine']} for {step['days']:,.1f} days, "
            f"{_interval(step['machine_hours'])} machine hours; bound by {step['bound_by']} ({others}); "
            f"{workers}{_interval(step['money'])} {currency}"
        )
    for row in found["storage"]:
        terminal.echo(
            f"storage of {row['what']}: {row['tb']:,.2f} TB for {found['months']:g} months, "
            f"{_interval(row['money'])} {currency}"
        )
    transfer = found["transfer"]
    terminal.echo(f"transfer: {transfer['tb']:,.2f} TB read, {_interval(transfer['money'])} {currency}")
    for row in found["requests"]:
        terminal.echo(f"requests, {row['what']}: {row['count']:,}, {terminal.number(row['money'])} {currency}")
    terminal.echo(f"in all: {_interval(found['money'])} {currency}", bold=True)
    if found["money"]["low"] is None:
        terminal.echo("how far this may be off is not known: the sample has fewer than two recordings")
    else:
        terminal.echo(
            f"the ends hold the truth with {100 * found['confidence']:g} % confidence, as far as the recordings of the "
            "sample were drawn at random from the target and the machines are like those that measured"
        )
    if found["example_prices"]:
        terminal.echo("the prices are examples that ship with speechmill and are nobody's: give your own with --prices")


def _interval(told: Mapping[str, float | None]) -> str:
    """A value with the ends of its interval."""
    value = terminal.number(told["value"])
    if told["low"] is None or told["low"] == told["high"]:
        return value
    return f"{value} ({terminal.number(told['low'])} to {terminal.number(told['high'])})"

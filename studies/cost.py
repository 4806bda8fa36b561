"""The cost of processing a number of hours: the resources that a run over a sample used, times a table of prices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from manifests.commands import terminal
from runtime.errors import SpeechmillError
from studies.estimate import quantile
from studies.prices import Machine, Prices
from studies.usage import Amount, Sample, Step

REQUESTS = {"PUT, POST and LIST": ("put", "list"), "GET and HEAD": ("get",)}
"""Kinds of requests with the same price, and their names in the summaries of runs."""
GIB = 2**30


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
        days: Longest time for each step, from which the number of machines follows.
        confidence: Confidence of the intervals.
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
    """Return the resource that is busy longest, and the time for which it is busy."""
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
        memory = step["worker_memory_gib"]  # 0 for the step of the commands, whose memory is not measured
        workers = f"{step['workers_a_machine']:,} workers per machine with {memory:.1f} GiB each; " if memory else ""
        terminal.echo(
            f"{step['step']}: {step['machines']:,} x {step['machine']} for {step['days']:,.1f} days, "
            f"{_interval(step['machine_hours'])} machine hours; limited by {step['bound_by']} ({others}); "
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
    terminal.echo(f"total: {_interval(bill['money'])} {currency}", bold=True)
    if bill["money"]["low"] is None:
        terminal.echo("the error is unknown: the sample has fewer than two recordings")
    else:
        terminal.echo(
            f"the intervals have {100 * bill['confidence']:g} % confidence, provided that the recordings of the sample "
            "were drawn at random from the target and the machines are like those that measured"
        )
    if bill["example_prices"]:
        terminal.echo("these prices are invented examples: give your own with --prices")


def _interval(amount: Mapping[str, float | None]) -> str:
    """Format a value with the ends of its interval."""
    value = terminal.number(amount["value"])
    if amount["low"] is None or amount["low"] == amount["high"]:
        return value
    return f"{value} ({terminal.number(amount['low'])} to {terminal.number(amount['high'])})"

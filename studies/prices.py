"""The price table of `speechmill study cost`: machines, storage, transfer and requests, from a TOML file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import SpeechmillError

REMEDY = "`speechmill study cost --show-prices` prints a table to start from"
Table = TypeVar("Table")


@dataclass(frozen=True)
class Machine:
    """A kind of machine."""

    cores: float
    memory_gib: float
    network_mb_s: float
    """Bandwidth for reading and writing together, in 10^6 bytes per second."""
    price_per_hour: float
    gpus: float = 0.0
    busy: float = 1.0
    """Share of the time in which its cores, or its GPUs, are busy."""


@dataclass(frozen=True)
class Storage:
    """Storage of what is written and, optionally, of the recordings."""

    price_per_gb_month: float
    months: float
    recordings: bool = True
    """Whether to pay for storing the recordings too."""


@dataclass(frozen=True)
class Transfer:
    """Transfer out of the object store."""

    price_per_gb_read: float = 0.0


@dataclass(frozen=True)
class Requests:
    """Requests to the object store that holds the lake and the recordings."""

    price_per_1000_put: float = 0.0
    """Price of PUT, POST, COPY and LIST requests."""
    price_per_1000_get: float = 0.0
    """Price of GET and HEAD requests."""


@dataclass(frozen=True)
class Prices:
    """A price table."""

    machines: Mapping[str, Machine]
    storage: Storage
    transfer: Transfer
    currency: str
    date: str
    example: bool
    """Whether these are the invented prices that ship with speechmill."""
    requests: Requests = Requests()


def example_table() -> str:
    """Return the text of the table of example prices."""
    return resources.files("studies").joinpath("prices.toml").read_text()


def load(path: str | None) -> Prices:
    """Read a price table, by default that of example prices. SpeechmillError if it is invalid."""
    try:
        text = example_table() if path is None else Path(path).read_text()
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpeechmillError(f"{path}: cannot be read as a price table: {error}", REMEDY) from error
    where = path or "prices.toml"
    machines = content.pop("machines", None)
    if not isinstance(machines, dict) or not machines:
        raise SpeechmillError(f"{where}: no table [machines.NAME]", REMEDY)
    tables = {name: content.pop(name, {}) for name in ("storage", "transfer", "requests")}
    example, currency, day = content.pop("example", False), content.pop("currency", None), content.pop("date", None)
    if content:
        raise SpeechmillError(f"{where}: unknown key: {', '.join(content)}", REMEDY)
    if not isinstance(example, bool) or not isinstance(currency, str) or not isinstance(day, date):
        what = "currency must be text, date a day such as 2026-11-01, and example true or false"
        raise SpeechmillError(f"{where}: {what}", REMEDY)
    by_name = {name: _parse_table(Machine, f"{where}: machines.{name}", table) for name, table in machines.items()}
    for name, machine in by_name.items():
        if not (0 < machine.busy <= 1 and machine.cores > 0 and machine.memory_gib > 0 and machine.network_mb_s > 0):
            what = "cores, memory_gib and network_mb_s must be above 0, and busy above 0 and at most 1"
            raise SpeechmillError(f"{where}: machines.{name}: {what}", REMEDY)
    storage = _parse_table(Storage, f"{where}: storage", tables["storage"])
    transfer = _parse_table(Transfer, f"{where}: transfer", tables["transfer"])
    requests = _parse_table(Requests, f"{where}: requests", tables["requests"])
    return Prices(by_name, storage, transfer, currency, str(day), example, requests)


def _parse_table(kind: type[Table], where: str, table: Any) -> Table:
    """Convert a table to a dataclass whose fields are booleans and numbers of 0 or more."""
    if not isinstance(table, dict):
        raise SpeechmillError(f"{where} must be a table", REMEDY)
    valid = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := table.keys() - valid.keys():
        raise SpeechmillError(f"{where}: unknown key: {', '.join(sorted(unknown))}", REMEDY)
    for name, field in valid.items():
        value = table.get(name, field.default)
        expected = bool if field.type == "bool" else (int, float)
        is_right = isinstance(value, expected) and (field.type == "bool" or not isinstance(value, bool))
        if value is MISSING or not is_right or not 0 <= value < math.inf:
            what = "true or false" if field.type == "bool" else "a number of 0 or more"
            raise SpeechmillError(f"{where}: {name} must be {what}", REMEDY)
    return kind(**table)

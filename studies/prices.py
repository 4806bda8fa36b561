"""The price table of `speechmill study cost`: machines, storage, transfer and requests, from a file of TOML."""

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
Made = TypeVar("Made")


@dataclass(frozen=True)
class Machine:
    """A kind of machine."""

    cores: float
    memory_gib: float
    network_mb_s: float
    """Read and written together, in 10^6 bytes a second."""
    price_per_hour: float
    gpus: float = 0.0
    busy: float = 1.0
    """Share of the time in which its cores, or its GPUs, work."""


@dataclass(frozen=True)
class Storage:
    price_per_gb_month: float
    months: float
    recordings: bool = True
    """Whether the recordings are paid for, beside what is written."""


@dataclass(frozen=True)
class Transfer:
    price_per_gb_read: float = 0.0


@dataclass(frozen=True)
class Requests:
    """To the object store that holds lake and recordings."""

    price_per_1000_put: float = 0.0
    """Of PUT, POST, COPY and LIST."""
    price_per_1000_get: float = 0.0
    """Of GET and HEAD."""


@dataclass(frozen=True)
class Prices:
    machines: Mapping[str, Machine]
    storage: Storage
    transfer: Transfer
    currency: str
    date: str
    example: bool
    """Whether these are the made-up prices that ship with speechmill."""
    requests: Requests = Requests()


def shipped() -> str:
    """The table of example prices that ships, as text."""
    return resources.files("studies").joinpath("prices.toml").read_text()


def load(path: str | None) -> Prices:
    """The table in a file, or the shipped one. Raises SpeechmillError for what is no such table."""
    try:
        text = shipped() if path is None else Path(path).read_text()
        told = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpeechmillError(f"{path}: cannot be read as a price table: {error}", REMEDY) from error
    where = path or "prices.toml"
    machines = told.pop("machines", None)
    if not isinstance(machines, dict) or not machines:
        raise SpeechmillError(f"{where}: no table [machines.NAME]", REMEDY)
    tables = {name: told.pop(name, {}) for name in ("storage", "transfer", "requests")}
    example, currency, day = told.pop("example", False), told.pop("currency", None), told.pop("date", None)
    if told or not isinstance(example, bool) or not isinstance(currency, str) or not isinstance(day, date):
        wrong = ", ".join(told) or "currency is to be a text, date a day such as 2026-11-01, example true or false"
        raise SpeechmillError(f"{where}: not understood: {wrong}", REMEDY)
    made = {name: _made(Machine, f"{where}: machines.{name}", table) for name, table in machines.items()}
    for name, machine in made.items():
        if not (0 < machine.busy <= 1 and machine.cores > 0 and machine.memory_gib > 0 and machine.network_mb_s > 0):
            raise SpeechmillError(f"{where}: machines.{name}: sizes above 0 and busy from 0 to 1", REMEDY)
    storage = _made(Storage, f"{where}: storage", tables["storage"])
    transfer = _made(Transfer, f"{where}: transfer", tables["transfer"])
    requests = _made(Requests, f"{where}: requests", tables["requests"])
    return Prices(made, storage, transfer, currency, str(day), example, requests)


def _made(kind: type[Made], where: str, table: Any) -> Made:
    """A dataclass of numbers of 0 or more, and of truth values, from a table of the same keys."""
    if not isinstance(table, dict):
        raise SpeechmillError(f"{where} is no table", REMEDY)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := table.keys() - known.keys():
        raise SpeechmillError(f"{where}: not understood: {', '.join(sorted(unknown))}", REMEDY)
    for name, field in known.items():
        value = table.get(name, field.default)
        wanted = bool if field.type == "bool" else (int, float)
        is_right = isinstance(value, wanted) and (field.type == "bool" or not isinstance(value, bool))
        if value is MISSING or not is_right or not 0 <= value < math.inf:
            what = "true or false" if field.type == "bool" else "a number of 0 or more"
            raise SpeechmillError(f"{where}: {name} is to be {what}", REMEDY)
    return kind(**table)

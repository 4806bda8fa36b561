"""`speechmill doctor`: checks the installation, the machine, the models, and whether places can be reached."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from manifests.commands.options import JSON
from manifests.install import install, requirements
from manifests.output import counted, say, to_json
from manifests.storage import StorageConfig, default_config, open_storage
from manifests.version import version
from pipelines.progress.console import public
from runtime.errors import SpeechmillError

UNLISTED = {"dev", "models", "docs"}
"""Extras that only combine others, or that are for developing speechmill."""
PROGRAMS = {"espeak-ng": "the recogniser espeak of [annotate.phonemes] reads text aloud with it"}
PATIENCE_S = 10.0
"""How long requests to a place that does not answer are retried, in seconds."""


@click.command()
@click.option("--write", is_flag=True, help="Also write, read and delete a small file in each PLACE that is a lake.")
@JSON
@click.argument("places", nargs=-1, metavar="[PLACE]...")
def doctor(places: tuple[str, ...], write: bool, as_json: bool) -> None:
    """Print what is installed here, and whether each PLACE (a folder, s3:// or https://) can be reached.

    The exit code is 3 where a required package, a model or a named place is missing or wrong. A missing extra is not a
    problem.
    """
    found = examine(places, write)
    if as_json:
        say(to_json(found, indent=1))
    else:
        for line in _lines(found):
            say(line)
    if found["problems"]:
        sys.exit(3)


def examine(places: Iterable[str], write: bool) -> dict[str, Any]:
    """The findings as JSON; `problems` are those that the user must fix."""
    needed = requirements()
    packages = list(_packages(needed.pop("")))
    found: dict[str, Any] = {
        "speechmill": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": [_extra(name, of) for name, of in sorted(needed.items()) if name not in UNLISTED],
        "programs": [{"name": name, "path": shutil.which(name), "what": what} for name, what in PROGRAMS.items()],
        "machine": _machine(),
        "models": list(_models()),
        "places": [_place(place, write) for place in places],
        "disks": list(_disks()),
    }
    wrong = [
        f"{one['name']} {one['version'] or 'is missing'}, wanted {one['wanted']}" for one in packages if not one["ok"]
    ]
    wrong += [f"{one['name']}: {one['error']}" for one in found["models"] if one["state"] == "wrong"]
    wrong += [f"{one['place']}: {one['error']}" for one in found["places"] if one["error"]]
    return found | {"problems": wrong}


def _packages(names: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Each requirement with its installed version."""
    from importlib import metadata

    for needed in names:
        try:
            installed = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            installed = None
        right = installed is not None and needed.specifier.contains(installed, prereleases=True)
        yield {"name": needed.name, "version": installed, "wanted": str(needed.specifier) or "any", "ok": right}


def _extra(name: str, names: Iterable[Any]) -> dict[str, Any]:
    packages = list(_packages(names))
    lacking = [one["name"] for one in packages if not one["ok"]]
    remedy = install([name]) if lacking else None
    return {"name": name, "packages": packages, "missing": lacking, "remedy": remedy}


def _machine() -> dict[str, Any]:
    from pipelines.units.resources import available_cores, free_memory_gib

    return {"cores": available_cores(), "free_memory_gib": round(free_memory_gib(), 2), **_gpus()}


def _gpus() -> dict[str, Any]:
    """The GPUs that torch finds; None where torch is not installed or cannot be loaded."""
    try:
        import torch
    except (ImportError, OSError):
        return {"gpus": None, "cuda": None}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = [torch.cuda.get_device_properties(n) for n in range(count)]
    gpus = [{"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1)} for one in seen]
    return {"gpus": gpus, "cuda": torch.version.cuda}


def _models() -> Iterator[dict[str, Any]]:
    """Each model of the registry with its state.

    'ok': its bytes have the pinned hash. 'later': it is assembled at its first use. 'missing': its package is not
    installed. 'wrong': its bytes have another hash.
    """
    from manifests.install import installed
    from runtime import models

    for model in models.MODELS.values():
        row = {"name": model.name, "sha256": model.sha256, "path": None, "error": None, "remedy": None}
        lacking = [one for one in {model.package, *(part[0] for part in model.parts)} if not installed(one)]
        if lacking:
            yield row | {"state": "missing", "remedy": model.pip}
        elif model.parts and not models.assembled_folder(model).is_dir():
            yield row | {"state": "later", "path": str(models.assembled_folder(model))}
        else:
            try:
                yield row | {"state": "ok", "path": str(models.verified(model.name))}
            except SpeechmillError as error:
                yield row | {"state": "wrong", "error": str(error), "remedy": error.remedy}


def _place(place: str, write: bool) -> dict[str, Any]:
    """Check that a place can be read and, with `write`, written to."""
    default = default_config()
    config = dataclasses.replace(default, retry_s=min(default.retry_s, PATIENCE_S))
    row: dict[str, Any] = {"place": public(place), "what": None, "written": None, "error": None, "remedy": None}
    try:
        row["what"] = _kind_of_place(place, config)
        if write and not place.lower().startswith(("http://", "https://")) and not Path(place).is_file():
            _write(place, config)
            row["written"] = True
    except (SpeechmillError, OSError, ValueError) as error:
        remedy = getattr(error, "remedy", "") or "check the name, and that you may read it"
        row |= {"error": public(str(error)), "remedy": public(remedy)}
    return row


def _kind_of_place(place: str, config: StorageConfig) -> str:
    """Describe a place in words. Raises where it cannot be read."""
    from pipelines.audio.files import scheme, stat_file

    if scheme(place) in ("http", "https"):
        return f"a file of {stat_file(place, config).size_bytes:,} bytes"
    if scheme(place) == "s3":
        first = next(open_storage(place, config).list(), None)
        return "nothing below it" if first is None else "a prefix with objects"
    path = Path(place)
    if path.is_dir():
        with contextlib.closing(os.scandir(path)) as inside:
            next(inside, None)
        may = "that may be written" if os.access(path, os.W_OK) else "that may only be read"
        return f"a folder {may}, {shutil.disk_usage(path).free / 1e9:,.1f} GB free"
    return f"a file of {stat_file(place, config).size_bytes:,} bytes"


def _write(place: str, config: StorageConfig) -> None:
    storage, key, data = open_storage(place, config), f"runs/doctor-{uuid.uuid4().hex}.txt", b"speechmill doctor\n"
    storage.put(key, data)
    try:
        if storage.read(key) != data:
            raise SpeechmillError(f"{key} holds other bytes than were written", "check the storage behind it")
    finally:
        storage.delete(key)


def _disks() -> Iterator[dict[str, Any]]:
    from runtime.models import cache_folder

    for use, folder in {"temporary files": Path(tempfile.gettempdir()), "assembled models": cache_folder()}.items():
        there = next(one for one in [folder, *folder.parents] if one.exists())
        yield {"use": use, "path": str(folder), "free_gb": round(shutil.disk_usage(there).free / 1e9, 2)}


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"speechmill {found['speechmill']}, Python {found['python']}, {found['platform']}"
    yield "packages: " + ", ".join(f"{one['name']} {one['version'] or 'MISSING'}" for one in found["packages"])
    yield "extras"
    for extra in found["extras"]:
        versions = ", ".join(f"{one['name']} {one['version']}" for one in extra["packages"] if one["ok"])
        state = f"lacks {', '.join(extra['missing'])}: {extra['remedy']}" if extra["missing"] else versions
        yield f"  {extra['name']:<21}{state}"
    for program in found["programs"]:
        yield f"  {program['name']:<21}{program['path'] or 'not found'}: {program['what']}"
    machine = found["machine"]
    gpus = machine["gpus"]
    devices = (
        "torch is not installed"
        if gpus is None
        else ", ".join(f"{one['name']} {one['memory_gib']} GiB" for one in gpus)
    )
    memory = f"{machine['free_memory_gib']:.1f} GiB of memory free"
    yield f"machine: {counted(machine['cores'], 'core')}, {memory}; GPUs: {devices or 'none'}"
    yield "models"
    says = {"ok": "as pinned", "later": "is assembled at its first use"}
    for model in found["models"]:
        state = says.get(model["state"]) or f"{model['error'] or 'not installed'}: {model['remedy']}"
        yield f"  {model['name']:<27}{model['sha256'][:12]}  {state}"
    for disk in found["disks"]:
        yield f"disk: {disk['free_gb']:,.1f} GB free for {disk['use']}, {disk['path']}"
    for place in found["places"]:
        written = ", written to and cleared" if place["written"] else ""
        bad = f"error: {place['error']}; remedy: {place['remedy']}"
        yield f"{place['place']}: {bad if place['error'] else place['what'] + written}"
    problems = found["problems"]
    yield (
        f"{counted(len(problems), 'problem')}: {'; '.join(problems)}"
        if problems
        else "everything that is required is installed and can be reached"
    )

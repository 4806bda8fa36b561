"""Checks before the work begins: whether the memory, the GPU and the disk are enough for it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.storage.local import private_folder
from pipelines.recipes.recipe import EncodeConfig, Recipe
from pipelines.units.engines import Engine
from runtime.errors import SpeechmillError

WORKER_GIB = 1.0
"""Memory of a worker that runs voice activity detection only, and no further model."""
STAGE_GIB = 0.5
"""Memory that each further model adds to a worker."""
ROW_BYTES_PER_S = 50.0
"""The least size of all annotations of a second of sound."""
GO_ON = "; or go on without this check: --set storage.check_room=false"


class NoRoomError(SpeechmillError):
    """The output of a step does not fit on the disk."""


def check_devices(recipe: Recipe, engine: Engine) -> None:
    """Raise SpeechmillError if a stage or an encoder wants a GPU, and the workers run here without one."""
    if not engine.runs_here():
        return
    for stage in recipe.make_stages():
        if stage.resources.gpus and not _has_gpu(stage.name):
            raise SpeechmillError(
                f'annotate.{stage.name}.device is "cuda", and no GPU can be used on this machine',
                f"set annotate.{stage.name}.device to 'cpu' or 'auto', or check the driver with `nvidia-smi`",
            )
    for config in recipe.targets.values():
        encoder = config.load()
        if encoder.device == "cuda" and not _has_gpu(encoder.name):
            raise SpeechmillError(
                f'the encoder {encoder.name} has the device "cuda", and no GPU can be used on this machine',
                "set its device to 'cpu' or 'auto', or check the driver with `nvidia-smi`",
            )


def _has_gpu(stage: str) -> bool:
    if stage == "language":
        with contextlib.suppress(ImportError):
            import ctranslate2

            return bool(ctranslate2.get_cuda_device_count())
    import torch

    return torch.cuda.is_available()


def notes(recipe: Recipe, engine: Engine, measures: bool) -> Iterator[str]:
    """Yield a note if this machine has too few cores, or too little memory, for the workers.

    Args:
        recipe: The recipe.
        engine: The engine with its workers.
        measures: Whether the workers load the models of the recipe's stages.
    """
    workers = engine.max_workers()
    if workers == 1 or not engine.runs_here():
        return
    cores = available_cores()
    if workers > cores:
        yield (
            f"{workers} workers share the {cores} cores of this machine, which takes more memory and no less time than "
            f"--workers {cores}"
        )
    needed = workers * (WORKER_GIB + STAGE_GIB * len(recipe.stages.keys() - {"vad", "fingerprint"}) * measures)
    free = free_memory_gib()
    if needed > free:
        fit = max(1, int(workers * free / needed))
        yield (
            f"{workers} workers take up to about {needed:.1f} GiB of memory, and {free:.1f} GiB are free: if workers "
            f"are killed, use --workers {fit}"
        )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_gib() -> float:
    """Return the free memory of this machine, or of its container if that has a limit."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free / 2**30
    return (min(free, int(limit) - used) if limit.isdigit() else free) / 2**30


def check_room_for_rows(lake: Lake, seconds: float) -> None:
    """Raise NoRoomError if the annotations of so many seconds of sound do not fit on the disk of the lake."""
    if "://" not in lake.storage.root:
        what = f"the annotations of {seconds / 3600:,.1f} h of sound"
        _check_room(lake, Path(lake.storage.root), seconds * ROW_BYTES_PER_S, what, "")


def check_room_for_features(
    lake: Lake, datasets: Mapping[str, EncodeConfig], shard_s: float, selection: str, workers: int
) -> None:
    """Check that the features of all kept windows fit on the disk that they are written to.

    The estimate counts one track for each recording, so it finds only what clearly does not fit.

    Args:
        lake: The lake.
        datasets: The encoder of each dataset that is made, by name.
        shard_s: Seconds of tracks in a shard.
        selection: The name of the selection.
        workers: The number of workers.

    Raises:
        NoRoomError: The features do not fit.
    """
    try:
        stored = lake.read_json(f"selections/{selection}/funnel.json", "recordings", "windows")
    except FileNotFoundError:  # the step itself reports that
        return
    _, kept_s = Funnel.from_dict(stored).part("windows", "kept")
    bytes_per_s = sum(config.bytes_per_s for config in datasets.values())
    needed, what = kept_s * bytes_per_s, f"the features of {kept_s / 3600:,.1f} h of kept windows"
    if "://" in lake.storage.root:  # shards are written to this disk, and then uploaded
        what = f"the shards that {workers} workers write at a time"
        _check_room(lake, private_folder(), min(needed, workers * shard_s * bytes_per_s), what, "")
        return
    path = Path(lake.storage.root)
    tars = (file for dataset in datasets for file in (path / f"datasets/{dataset}").rglob("*.tar"))
    there = sum(file.stat().st_size for file in tars)
    _check_room(lake, path, needed - there, what, ", or keep fewer windows")


def _check_room(lake: Lake, path: Path, needed: float, what: str, instead: str) -> None:
    if not lake.config.check_room:
        return
    free = shutil.disk_usage(path).free
    if needed > free:
        raise NoRoomError(
            f"{what} take about {needed / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free on the disk of {path}",
            f"free some space, or give the lake another place{instead}{GO_ON}",
        )

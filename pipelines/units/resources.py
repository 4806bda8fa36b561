"""What can be told before the work begins: whether workers, GPU and disk are enough for it."""

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
"""Memory of a worker with voice activity alone."""
STAGE_GIB = 0.5
"""What each other stage adds to it."""
ROW_BYTES_PER_S = 50.0
"""Annotations of a second of sound: the least that all stages come to."""
GO_ON = "; or go on without this check: --set storage.check_room=false"


class NoRoomError(SpeechmillError):
    """What a step is going to write does not fit on the disk."""


def check_devices(recipe: Recipe, engine: Engine) -> None:
    """Raise SpeechmillError where a stage wants a GPU and the workers, on this machine, have none."""
    if not engine.is_here():
        return
    for stage in recipe.make_stages():
        if stage.resources.gpus and not _sees_gpu(stage.name):
            raise SpeechmillError(
                f'annotate.{stage.name}.device is "cuda", and no GPU can be used on this machine',
                f"set annotate.{stage.name}.device to 'cpu' or 'auto', or check the driver with `nvidia-smi`",
            )
    for config in recipe.targets.values():
        encoder = config.load()
        if encoder.device == "cuda" and not _sees_gpu(encoder.name):
            raise SpeechmillError(
                f'the encoder {encoder.name} has the device "cuda", and no GPU can be used on this machine',
                "set its device to 'cpu' or 'auto', or check the driver with `nvidia-smi`",
            )


def _sees_gpu(stage: str) -> bool:
    if stage == "language":
        with contextlib.suppress(ImportError):
            import ctranslate2

            return bool(ctranslate2.get_cuda_device_count())
    import torch

    return torch.cuda.is_available()


def notes(recipe: Recipe, engine: Engine, measures: bool) -> Iterator[str]:
    """What is worth knowing of the workers that were asked for: more than this machine has cores or memory for.

    `measures` says that they will hold the models of the recipe's stages.
    """
    workers = engine.most_workers()
    if workers == 1 or not engine.is_here():
        return
    cores = cores_here()
    if workers > cores:
        yield (
            f"{workers} workers share the {cores} cores of this machine, which takes more memory and no less time than "
            f"--workers {cores}"
        )
    needed = workers * (WORKER_GIB + STAGE_GIB * len(recipe.stages.keys() - {"vad"}) * measures)
    free = free_memory_gib()
    if needed > free:
        fit = max(1, int(workers * free / needed))
        yield (
            f"{workers} workers take up to about {needed:.1f} GiB of memory, and {free:.1f} GiB are free: if workers "
            f"are killed, use --workers {fit}"
        )


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_gib() -> float:
    """Memory that is free here, within the limit of the container if there is one."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free / 2**30
    return (min(free, int(limit) - used) if limit.isdigit() else free) / 2**30


def check_room_for_rows(lake: Lake, seconds: float) -> None:
    """Raise NoRoomError where the annotations of so many seconds of sound do not fit on the lake's disk."""
    if "://" not in lake.storage.root:
        what = f"the annotations of {seconds / 3600:,.1f} h of sound"
        _check_room(lake, Path(lake.storage.root), seconds * ROW_BYTES_PER_S, what, "")


def check_room_for_features(
    lake: Lake, datasets: Mapping[str, EncodeConfig], shard_s: float, selection: str, workers: int
) -> None:
    """Raise NoRoomError where the features of what a selection keeps do not fit where they are written.

    `datasets` are those that are made, by name, in shards of `shard_s` seconds of tracks.

    Less is asked for than a recording with several tracks takes: what clearly does not fit is told, and no more.
    """
    try:
        stored = lake.read_json(f"selections/{selection}/funnel.json", "recordings", "windows")
    except FileNotFoundError:  # told by the step itself
        return
    _, kept_s = Funnel.from_dict(stored).part("windows", "kept")
    bytes_per_s = sum(config.bytes_per_s for config in datasets.values())
    needed, what = kept_s * bytes_per_s, f"the features of {kept_s / 3600:,.1f} h of kept windows"
    if "://" in lake.storage.root:  # shards are written here, and then sent
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

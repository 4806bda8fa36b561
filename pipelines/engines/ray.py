"""The Ray engine: Ray Data over units, an actor pool for each group of workers. Only units and counts are sent around.

Retries, placement on GPUs, autoscaling and bounded in-flight work are Ray's own.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.engines import Engine, Group, Worker
from pipelines.engines.local import MAX_DEATHS
from pipelines.errors import MissingExtraError, SpeechmillError
from pipelines.watch import LOG

CHUNK = 256


class _Work:
    """An actor: one worker of a group; rows of pickled units in, rows of pickled results or errors out."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"unit": [pickle.dumps(self._done(pickle.loads(unit))) for unit in batch["unit"]]}

    def _done(self, unit: Any) -> Any:
        if isinstance(unit, Exception):  # of a group before
            return unit
        try:
            return self.work(unit)
        except Exception as error:  # raised here, it would reach the driver without its cause and in words of Ray
            error.add_note(traceback.format_exc())
            return error


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Any]:
    """Results as they come. SpeechmillError where the cluster cannot hold the workers; else what a worker raised."""
    ray = _start(engine.ray_address)
    pools = _pools(groups, engine.workers, ray.nodes())
    chunks = [(ray.put(chunk), len(chunk)) for chunk in _chunks(units)]
    if not chunks:
        return
    refs, sizes = zip(*chunks, strict=True)
    count = sum(sizes)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # a unit a block: a block is what an actor takes, and what is done again
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a unit may last hours, and its worker tells where it is itself
    apart = ray.data.TaskPoolStrategy(size=1)  # tasks that ask for no CPU would all start at once, a process each
    data = ray.data.from_arrow_refs(list(refs)).map_batches(_apart, batch_size=None, num_cpus=0, compute=apart)
    for group, (least, first, most) in zip(groups, pools, strict=True):
        data = data.map_batches(
            _Work,
            fn_constructor_args=(group.make,),
            batch_size=1,
            num_cpus=group.cpus,
            num_gpus=group.gpus,
            max_task_retries=MAX_DEATHS,
            scheduling_strategy="DEFAULT",  # Ray Data's own spreads workers of CPU groups over nodes with a GPU too
            compute=ray.data.ActorPoolStrategy(
                min_size=least, initial_size=max(least, min(first, count)), max_size=max(least, min(most, count))
            ),
        )
    try:
        for row in data.iter_rows():
            done = pickle.loads(row["unit"])
            if isinstance(done, Exception):
                raise done
            yield done
    except ray.exceptions.RayError as error:
        what = f"Ray gave up: {str(error).partition(chr(10))[0]}"
        raise SpeechmillError(what, "look into /tmp/ray/session_latest/logs; the same command goes on") from error
    LOG.info("%s", data.stats())


def _start(address: str | None) -> Any:
    """Ray, connected to a cluster or started here."""
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtraError(f"the Ray engine needs Ray: {error}", "pip install 'speechmill[ray]'") from error
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are told by who meets them
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # no other way yet to name a strategy
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        # Nobody looks at the dashboard of a Ray that ends with its command, and it is half of the processes.
        dashboard = False if address == "local" else None
        ray.init(address, logging_level=logging.WARNING, log_to_driver=False, include_dashboard=dashboard)
    except (OSError, RuntimeError) as error:
        raise SpeechmillError(f"no Ray at {address}: {error}", "check --ray-address and RAY_AUTH_TOKEN") from error
    return ray


def _chunks(units: Iterable[Any]) -> Iterator[pa.Table]:
    """Pickled units, `CHUNK` a table. Kept in the object store: a lost node must not list what is pending anew."""
    source = iter(units)
    while chunk := list(itertools.islice(source, CHUNK)):
        yield pa.table({"unit": pa.array([pickle.dumps(unit) for unit in chunk], pa.binary())})


def _apart(batch: dict[str, Any]) -> dict[str, Any]:
    """A chunk as it is: Ray cuts what comes out of a task into blocks."""
    return batch


def _pools(groups: Sequence[Group], workers: tuple[int, int] | None, nodes: Any) -> list[tuple[int, int, int]]:
    """Least, first and most workers of each group. SpeechmillError if the least do not fit: Ray would wait for ever."""
    free = [[node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)] for node in nodes if node["Alive"]]
    free.sort(key=lambda node: node[1])  # CPU groups keep off nodes with a GPU while they can
    held = ", ".join(f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "") for cpus, gpus in free)
    least, most = workers or (1, 0)
    placed = dict.fromkeys(groups, 0)

    def place(group: Group) -> bool:
        for node in free:
            if node[0] >= group.cpus and node[1] >= group.gpus:
                node[0], node[1] = node[0] - group.cpus, node[1] - group.gpus
                placed[group] += 1
                return True
        return False

    for group in sorted(groups, key=lambda group: -group.gpus):
        while placed[group] < least:
            if not place(group):
                wish = f"{group.cpus:g} CPU" + (f" and {group.gpus:g} GPU" if group.gpus else "")
                raise SpeechmillError(
                    f"{least} x {wish} for {group.name} do not fit on the nodes there are: {held}",
                    "use fewer --workers (MIN..MAX lets the cluster grow from MIN), or start nodes that hold them",
                )
    for group in sorted(groups, key=lambda group: -group.gpus):
        while not workers and place(group):
            pass
    return [(least, placed[group], max(most, placed[group])) for group in groups]

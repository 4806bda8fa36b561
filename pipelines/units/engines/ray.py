"""The Ray engine: every worker is an actor, which gets the next unit as soon as it is free.

A unit is the argument of an actor call, and its result is what the call returns. Ray passes both by value while they
are small (100 kB), as ours are. So neither a unit nor the data that a worker is made from lies in the object store of a
node that may be lost. Larger results (tables of select) lie on their worker's node until the driver has fetched them,
and Ray recomputes those that are lost. The driver holds the units that are not assigned yet; Ray sends the unit of a
lost worker again. Ray itself restarts workers, places them on GPUs and starts new nodes.
"""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from manifests.install import install
from pipelines.units.engines import Engine, Group, Worker
from pipelines.units.engines.local import MAX_DEATHS
from runtime.errors import MissingExtraError, SpeechmillError

TIMEOUT_S = 10.0
"""How long a running cluster may take to answer the first request."""


class _WorkerActor:
    """An actor that holds one worker of a group. It returns errors, because Ray would wrap errors that it raises."""

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._worker: Worker | None = None

    def start(self) -> Exception | None:
        """Load models before the first unit comes."""
        try:
            self._loaded()
        except Exception as error:
            return _with_traceback(error)
        return None

    def work(self, unit: Any) -> Any:
        """Return the worker's result for a unit, or the exception that it raised."""
        try:
            return self._loaded()(unit)
        except Exception as error:
            return _with_traceback(error)

    def _loaded(self) -> Worker:
        if self._worker is None:  # Ray calls the constructor of a restarted actor again, but not `start`
            worker: Worker = pickle.loads(self._make)()
            self._worker = worker
        return self._worker


def _with_traceback(error: Exception) -> Exception:
    """Add the traceback to an error as a note, because a traceback itself cannot be sent to another process."""
    error.add_note(traceback.format_exc())
    return error


class _ActorPool:
    """The actors of a group, their running calls, and the units that wait for an actor."""

    def __init__(self, ray: Any, group: Group, spare: int) -> None:
        self.ray = ray
        # Passed by value, which is small. If constructor arguments were in an object store that is lost, Ray could not
        # restart the actor.
        self.make = pickle.dumps(group.make)
        self.kind = ray.remote(_WorkerActor).options(
            num_cpus=group.cpus, num_gpus=group.gpus, max_restarts=-1, max_task_retries=MAX_DEATHS
        )
        self.spare = spare
        """Actors to add once the first ones have started. Ray waits for room for them, or lets the cluster grow."""
        self.waiting: deque[Any] = deque()
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.working: dict[Any, Any] = {}

    def add(self, count: int) -> None:
        """Start actors."""
        for _ in range(count):
            actor = self.kind.remote(self.make)
            self.starting[actor.start.remote()] = actor

    def end(self, call: Any) -> bool:
        """Mark the actor of an ended call as idle. Return whether the call was for a unit."""
        worked = call in self.working
        self.idle.append((self.working if worked else self.starting).pop(call))
        return worked

    def assign(self) -> None:
        """Give waiting units to idle actors."""
        while self.idle and self.waiting:
            actor = self.idle.pop()
            self.working[actor.work.remote(self.waiting.popleft())] = actor

    def release(self) -> None:
        """End the actors that process no unit. Other actors may need their place, for example to restart."""
        self.spare = 0
        self.idle.clear()  # Ray ends an actor when no reference to it is left
        self._kill(self.starting)

    def stop(self) -> None:
        """End all actors, even those that process a unit."""
        self.release()
        self._kill(self.working)

    def _kill(self, calls: dict[Any, Any]) -> None:
        for actor in calls.values():
            self.ray.kill(actor)
        calls.clear()


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Any]:
    """Yield results as they come.

    Raises:
        SpeechmillError: The cluster cannot hold the workers, or Ray failed.
        Exception: Whatever a worker raised.
    """
    ray = connect(engine.ray_address)
    sizes = _pool_sizes(groups, engine.workers, ray.nodes())
    source = iter(units)
    waiting = list(islice(source, max(most for _, most in sizes)))
    if not waiting:
        return
    pools = []
    try:
        for group, (first, most) in zip(groups, sizes, strict=True):
            first, most = min(first, len(waiting)), min(most, len(waiting))
            pools.append(_ActorPool(ray, group, most - first))
            pools[-1].add(first)
        pools[0].waiting.extend(waiting)
        yield from _results(ray, pools, source)
    except ray.exceptions.RayError as error:
        what = f"Ray gave up: {str(error).partition(chr(10))[0]}"
        raise SpeechmillError(
            what, "look into /tmp/ray/session_latest/logs, then run the same command again to resume"
        ) from error
    finally:
        for pool in pools:
            pool.stop()


def _results(ray: Any, pools: Sequence[_ActorPool], source: Iterator[Any]) -> Iterator[Any]:
    """Pass units from pool to pool, and yield the results of the last pool."""
    while calls := {call: number for number, pool in enumerate(pools) for call in (*pool.starting, *pool.working)}:
        (call,), _ = ray.wait(list(calls), num_returns=1)
        number = calls[call]
        result = ray.get(call)
        if isinstance(result, Exception):
            raise result
        worked = pools[number].end(call)
        last = number + 1 == len(pools)
        if worked and not last:
            pools[number + 1].waiting.append(result)
        if not any(pool.starting for pool in pools):
            for pool in pools:
                pool.add(pool.spare)
                pool.spare = 0
        wanted = len(pools[0].idle) - len(pools[0].waiting)
        more = list(islice(source, max(wanted, 0)))
        pools[0].waiting.extend(more)
        more_come = wanted <= 0 or len(more) == wanted  # whether this pool may still get units
        for pool in pools:
            pool.assign()
            if not more_come and not pool.waiting:
                pool.release()
            more_come = more_come or bool(pool.waiting or pool.working)
        if worked and last:
            yield result


def connect(address: str | None) -> Any:
    """Connect to the Ray cluster at `address` or RAY_ADDRESS, or start Ray here. Return the module `ray`.

    Raises:
        MissingExtraError: Ray is not installed.
        SpeechmillError: Ray does not answer, does not start, or does not accept our token.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(f"the Ray engine needs Ray: {error}", install(["ray"])) from error
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        what = f"{address} is an address of Ray Client, which cannot hold a run"
        raise SpeechmillError(what, "give HOST:PORT of the head node, port 6379 by default, or use `ray job submit`")
    # This logger prints at each start that there is a token, and how to do without one.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        if address == "local":
            # Without the dashboard: it is half of the processes, and of no use for a Ray that ends with its command.
            ray.init(address, logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
        else:
            with _authentication(address):
                ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
    except SpeechmillError:
        raise
    except Exception as error:  # Ray raises just Exception if its processes do not start in time
        remedy = "give --ray-address as HOST:PORT of the head node, port 6379 by default; there, try `ray status`"
        if address == "local":
            remedy = "look into /tmp/ray/session_latest/logs; where the machine is busy or short of memory, try again"
        raise SpeechmillError(f"no Ray at {address}: {error}", remedy) from error
    return ray


@contextmanager
def _authentication(address: str) -> Iterator[None]:
    """Set Ray's authentication mode to that of the cluster at `address` while connecting to it.

    `ray start --head` requires a token from everybody if it finds one itself, but a driver sends its token only if
    RAY_AUTH_MODE says so. A driver that uses tokens while the cluster has none loses its workers. So this first asks
    the cluster without a token, and RAY_AUTH_MODE need not be set. If it is set, it must agree with the cluster.

    Raises:
        SpeechmillError: RAY_AUTH_MODE and the cluster disagree, or the cluster requires a token that is not here.
        ConnectionError: No Ray answers at the address.
    """
    from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    def switch(mode: str | None) -> None:
        if mode is None:
            os.environ.pop(AUTH_MODE_ENV_VAR, None)
        else:
            os.environ[AUTH_MODE_ENV_VAR] = mode
        Config.initialize("")  # without this call, Ray reads the environment only once

    given = os.environ.get(AUTH_MODE_ENV_VAR)
    head = canonicalize_bootstrap_address(address)
    assert head is not None  # it is None only for a cluster that would be started here
    switch("disabled")
    try:
        if _accepts(head):
            if given is not None and given.lower() == "token":
                what = f"RAY_AUTH_MODE is {given}, but the Ray cluster at {address} was started without tokens"
                raise SpeechmillError(what, "unset RAY_AUTH_MODE here, or set it on every node before `ray start`")
        else:
            if given is not None and given.lower() != "token":
                what = f"the Ray cluster at {address} asks for a token, but RAY_AUTH_MODE is {given}"
                raise SpeechmillError(what, "unset RAY_AUTH_MODE: whether a token is needed is found out")
            fetch = "store what `ray get-auth-token` prints on the head node in ~/.ray/auth_token here"
            try:
                has_token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
            except AuthenticationError as error:
                what = f"the Ray cluster at {address} asks for a token: {str(error).partition('. ')[0]}"
                raise SpeechmillError(what, fetch + ", and unset RAY_AUTH_TOKEN_PATH") from error
            if not has_token:
                places = "in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
                raise SpeechmillError(f"the Ray cluster at {address} asks for a token, and none is {places}", fetch)
            switch("token")
            if not _accepts(head):
                names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
                place = next((name for name in names if os.environ.get(name)), "~/.ray/auth_token")
                raise SpeechmillError(f"the Ray cluster at {address} refuses the token in {place}", fetch)
        yield
    except BaseException:
        switch(given)
        raise
    # Ray keeps the mode that it has read. Another cluster may need another mode.
    if given is None:
        os.environ.pop(AUTH_MODE_ENV_VAR, None)


def _accepts(head: str) -> bool:
    """Return whether the head node at HOST:PORT accepts requests in the mode that is set.

    Raises:
        ConnectionError: No Ray answers there.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # type: ignore[attr-defined]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    with init_grpc_channel(head, GLOBAL_GRPC_OPTIONS) as channel:
        try:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise ConnectionError(error.details() or error.code().name) from error
    return True


def _pool_sizes(groups: Sequence[Group], workers: tuple[int, int] | None, nodes: Any) -> list[tuple[int, int]]:
    """Return how many workers each group has at first and at most.

    Raises:
        SpeechmillError: The least number of workers does not fit on the nodes. Ray would wait for ever.
    """
    free = [[node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)] for node in nodes if node["Alive"]]
    free.sort(key=lambda node: node[1])  # so that groups without a GPU avoid nodes that have one while they can
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
                    f"{least} x {wish} for {group.name} do not fit on the available nodes: {held}",
                    "use fewer --workers (MIN..MAX lets the cluster grow from MIN), or start nodes that hold them",
                )
    for group in sorted(groups, key=lambda group: -group.gpus):
        while not workers and place(group):
            pass
    return [(placed[group], max(most, placed[group])) for group in groups]

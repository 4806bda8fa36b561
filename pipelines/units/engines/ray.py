"""The Ray engine: every worker is an actor, and each is handed the next unit as soon as it is free.

Units are arguments of calls and results are what the calls return. Ray sends both by value while they are small (100
kB), as ours are: no unit, and nothing that a worker is made from, lies in the object store of a node that may be lost.
Larger results (tables of select) lie on their worker's node until the driver has them, and Ray makes lost ones again.
What has not been handed out is with the driver; what a lost worker had in hand is sent again by Ray. Restarts of
workers, their placement on GPUs and the start of new nodes are Ray's own.
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
"""How long a running cluster may take to answer the first question."""


class _Work:
    """An actor: one worker of a group. What is raised is returned: Ray would wrap it in words of its own."""

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._worker: Worker | None = None

    def start(self) -> Exception | None:
        """Load models ahead of the first unit."""
        try:
            self._started()
        except Exception as error:
            return _told(error)
        return None

    def work(self, unit: Any) -> Any:
        """What the worker makes of a unit, or the exception that it raised."""
        try:
            return self._started()(unit)
        except Exception as error:
            return _told(error)

    def _started(self) -> Worker:
        if self._worker is None:  # Ray repeats the constructor of a worker that it restarts, not the call of `start`
            made: Worker = pickle.loads(self._make)()
            self._worker = made
        return self._worker


def _told(error: Exception) -> Exception:
    """The error with its traceback as a note: a traceback itself does not leave its process."""
    error.add_note(traceback.format_exc())
    return error


class _Pool:
    """The actors of a group, the calls under way, and the units that wait for an actor."""

    def __init__(self, ray: Any, group: Group, spare: int) -> None:
        self.ray = ray
        # By value, and small: constructor arguments in an object store would be lost with it, and no worker restarted.
        self.make = pickle.dumps(group.make)
        self.kind = ray.remote(_Work).options(
            num_cpus=group.cpus, num_gpus=group.gpus, max_restarts=-1, max_task_retries=MAX_DEATHS
        )
        self.spare = spare
        """Actors to add once the first ones have started: Ray waits for room for them, or lets the cluster grow."""
        self.waiting: deque[Any] = deque()
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.working: dict[Any, Any] = {}

    def add(self, count: int) -> None:
        for _ in range(count):
            actor = self.kind.remote(self.make)
            self.starting[actor.start.remote()] = actor

    def end(self, call: Any) -> bool:
        """Note that a call has ended: its actor is free. True if it was of a unit."""
        worked = call in self.working
        self.idle.append((self.working if worked else self.starting).pop(call))
        return worked

    def hand_out(self) -> None:
        while self.idle and self.waiting:
            actor = self.idle.pop()
            self.working[actor.work.remote(self.waiting.popleft())] = actor

    def let_go(self) -> None:
        """Part with the actors that have no unit in hand: others may need their place, to restart for example."""
        self.spare = 0
        self.idle.clear()  # an actor that nobody can call any more ends by itself
        self._kill(self.starting)

    def stop(self) -> None:
        """End all actors, whatever they are at."""
        self.let_go()
        self._kill(self.working)

    def _kill(self, calls: dict[Any, Any]) -> None:
        for actor in calls.values():
            self.ray.kill(actor)
        calls.clear()


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Any]:
    """Results as they come. SpeechmillError where the cluster cannot hold the workers; else what a worker raised."""
    ray = connected(engine.ray_address)
    sizes = _pools(groups, engine.workers, ray.nodes())
    source = iter(units)
    waiting = list(islice(source, max(most for _, most in sizes)))
    if not waiting:
        return
    pools = []
    try:
        for group, (first, most) in zip(groups, sizes, strict=True):
            first, most = min(first, len(waiting)), min(most, len(waiting))
            pools.append(_Pool(ray, group, most - first))
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


def _results(ray: Any, pools: Sequence[_Pool], source: Iterator[Any]) -> Iterator[Any]:
    """Hand units on from pool to pool, the last one's results to the caller."""
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
        coming = wanted <= 0 or len(more) == wanted  # units may still come to this pool
        for pool in pools:
            pool.hand_out()
            if not coming and not pool.waiting:
                pool.let_go()
            coming = coming or bool(pool.waiting or pool.working)
        if worked and last:
            yield result


def connected(address: str | None) -> Any:
    """Ray, connected to a cluster or started here."""
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
    # Tells at each start that there is a token, and how to do without.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        if address == "local":
            # Nobody looks at the dashboard of a Ray that ends with its command, and it is half of the processes.
            ray.init(address, logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
        else:
            with _authentication(address):
                ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
    except SpeechmillError:
        raise
    except Exception as error:  # Ray raises this very class where its processes do not start in time
        remedy = "give --ray-address as HOST:PORT of the head node, port 6379 by default; there, try `ray status`"
        if address == "local":
            remedy = "look into /tmp/ray/session_latest/logs; where the machine is busy or short of memory, try again"
        raise SpeechmillError(f"no Ray at {address}: {error}", remedy) from error
    return ray


@contextmanager
def _authentication(address: str) -> Iterator[None]:
    """Set Ray's mode of authentication to that of the running cluster at `address`, for the time of connecting to it.

    `ray start --head` asks everybody for a token as soon as it finds one itself, but a driver sends its own only if
    RAY_AUTH_MODE says so; and one that asks for tokens where the cluster has none is left by its workers. So the
    cluster is asked, without a token at first, and RAY_AUTH_MODE needs not be set; where it is set, it is obeyed.

    Raises SpeechmillError where mode and cluster disagree, or where the cluster wants a token that is not here, and
    ConnectionError where no Ray answers.
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
        Config.initialize("")  # which reads the environment once only

    given = os.environ.get(AUTH_MODE_ENV_VAR)
    head = canonicalize_bootstrap_address(address)
    assert head is not None  # None stands for a cluster that would be started here
    switch("disabled")
    try:
        if _admits(head):
            if given is not None and given.lower() == "token":
                what = f"RAY_AUTH_MODE is {given}, but the Ray cluster at {address} was started without tokens"
                raise SpeechmillError(what, "unset RAY_AUTH_MODE here, or set it on every node before `ray start`")
        else:
            if given is not None and given.lower() != "token":
                what = f"the Ray cluster at {address} asks for a token, but RAY_AUTH_MODE is {given}"
                raise SpeechmillError(what, "unset RAY_AUTH_MODE: whether a token is needed is found out")
            fetch = "store what `ray get-auth-token` prints on the head node in ~/.ray/auth_token here"
            try:
                found = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
            except AuthenticationError as error:
                what = f"the Ray cluster at {address} asks for a token: {str(error).partition('. ')[0]}"
                raise SpeechmillError(what, fetch + ", and unset RAY_AUTH_TOKEN_PATH") from error
            if not found:
                places = "in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
                raise SpeechmillError(f"the Ray cluster at {address} asks for a token, and none is {places}", fetch)
            switch("token")
            if not _admits(head):
                names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
                place = next((name for name in names if os.environ.get(name)), "~/.ray/auth_token")
                raise SpeechmillError(f"the Ray cluster at {address} refuses the token in {place}", fetch)
        yield
    except BaseException:
        switch(given)
        raise
    # Ray goes on in the mode it has read; another cluster may be asked in another.
    if given is None:
        os.environ.pop(AUTH_MODE_ENV_VAR, None)


def _admits(head: str) -> bool:
    """Whether the head node at HOST:PORT answers, in the mode that is set. ConnectionError where no Ray does."""
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


def _pools(groups: Sequence[Group], workers: tuple[int, int] | None, nodes: Any) -> list[tuple[int, int]]:
    """First and most workers of each group. SpeechmillError if the least do not fit: Ray would wait for ever."""
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
                    f"{least} x {wish} for {group.name} do not fit on the available nodes: {held}",
                    "use fewer --workers (MIN..MAX lets the cluster grow from MIN), or start nodes that hold them",
                )
    for group in sorted(groups, key=lambda group: -group.gpus):
        while not workers and place(group):
            pass
    return [(placed[group], max(most, placed[group])) for group in groups]

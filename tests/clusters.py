"""Ray for tests: its servers listen on every address, so each cluster lives in network namespaces made for it.

A cut or killed node is then every process of a namespace, and nothing is found by name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

ROOT = Path(__file__).parents[1]
QUICK = {  # a dead node is noticed in seconds, and a busy machine does not stop the workers
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",  # 15 by default, which starves workers where other work runs
}
ISOLATED = "unshare --net --pid --fork --kill-child --mount-proc"


def environment(folder: str, **more: str) -> dict[str, str]:
    """Of a driver or node: a token of its own, this checkout and the tests importable, files under a short path."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/pipelines")])
    own = {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": folder, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"RAY_USAGE_STATS_ENABLED": "0"} | QUICK | more


def need_namespaces() -> None:
    """Skip where the system lets no test make a network of its own."""
    if subprocess.run([*ISOLATED.split(), "true"], capture_output=True).returncode:
        pytest.skip("Ray listens on every address: its tests need root, or CAP_SYS_ADMIN, for a network of their own")


def alone(*words: str, timeout_s: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network and a process tree of its own: whatever it starts ends with it."""
    folder = tempfile.mkdtemp(prefix="ray")
    command = [*ISOLATED.split(), "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *words]
    env = environment(folder, RAY_AUTH_TOKEN=secrets.token_hex(16), **more)
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, timeout=timeout_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TwoNodes:
    """A Ray cluster of two `ray start` processes with a CPU each, joined by a cable that the test made."""

    def __init__(self, *gpus: int) -> None:
        self.gpus = gpus or (0, 0)
        self.folder = tempfile.mkdtemp(prefix="ray")
        self.names = [f"mill{os.getpid()}{side}" for side in "ab"]
        self.address = "10.77.0.1:6379"
        self.env = environment(self.folder, RAY_AUTH_TOKEN=secrets.token_hex(16))

    def __enter__(self) -> TwoNodes:
        first, second = self.names
        for name in self.names:
            _sh(f"ip netns add {name}")
        _sh(f"ip -n {first} link add mill type veth peer name mill netns {second}")
        for number, name in enumerate(self.names, 1):
            _sh(f"ip -n {name} addr add 10.77.0.{number}/24 dev mill")
            _sh(f"ip -n {name} link set lo up")
            _sh(f"ip -n {name} link set mill up")
            self.start(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, name in enumerate(self.names, 1):
            self.kill(number)
            _sh(f"ip netns del {name}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, number: int) -> None:
        """Start node 1, the head, or 2, and wait until the cluster counts it."""
        role = "--head --port=6379 --include-dashboard=false" if number == 1 else f"--address={self.address}"
        words = f"start {role} --node-ip-address=10.77.0.{number} --num-cpus=1 --num-gpus={self.gpus[number - 1]}"
        ray = [str(Path(sys.executable).with_name("ray")), *words.split(), "--object-store-memory=100000000"]
        done = subprocess.run(self.inside(number, *ray), env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + done.stdout

    def inside(self, number: int, *words: str) -> list[str]:
        """A command as it runs on a node."""
        return ["ip", "netns", "exec", self.names[number - 1], *words]

    def pids(self, number: int) -> list[int]:
        return [int(pid) for pid in _sh(f"ip netns pids {self.names[number - 1]}").split()]

    def kill(self, number: int) -> None:
        """kill -9 of every process of a node."""
        while pids := self.pids(number):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Processes that hold our workers, on either node."""
        found = []
        for pid in self.pids(1) + self.pids(2):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"MapWorker(MapBatches(_Work))" in line:
                found.append(pid)
        return found


def _sh(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout

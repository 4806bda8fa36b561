"""Ray clusters for tests. Ray's servers listen on every address, so each cluster has its own network namespaces.

To kill a node, a test kills every process in its namespace; no process is found by name.
"""

from __future__ import annotations

import os
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


def environment(home: str, **more: str) -> dict[str, str]:
    """Return the environment of a driver or node: Ray's default settings, and its own home for files and token.

    This checkout and the tests can be imported in it.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/pipelines")])
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cache = os.environ.get("SPEECHMILL_CACHE", str(Path.home() / ".cache/speechmill"))
    own = {"HOME": home, "RAY_TMPDIR": home, "PATH": commands, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return inherited | own | {"SPEECHMILL_CACHE": cache, "RAY_USAGE_STATS_ENABLED": "0"} | QUICK | more


def documented(word: str) -> str:
    """Return the command with these words from the block about Ray in docs/operating.md."""
    blocks = (ROOT / "docs/operating.md").read_text().split("```")[1::2]
    (block,) = (block for block in blocks if "ray start --head" in block)
    (line,) = (line.partition("#")[0].strip() for line in block.splitlines() if word in line.partition("#")[0])
    return line


def need_namespaces() -> None:
    """Skip the test if the system does not allow network namespaces."""
    if subprocess.run([*ISOLATED.split(), "true"], capture_output=True).returncode:
        pytest.skip("Ray listens on every address: its tests need root, or CAP_SYS_ADMIN, for a network of their own")


def alone(*words: str, timeout_s: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in its own network and process namespaces. Every process that it starts ends with it."""
    home = tempfile.mkdtemp(prefix="ray")
    command = [*ISOLATED.split(), "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *words]
    env = environment(home, **more)
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, timeout=timeout_s)
    finally:
        shutil.rmtree(home, ignore_errors=True)


class TwoNodes:
    """A Ray cluster of two nodes with a CPU each, in network namespaces that are connected by a virtual cable.

    The nodes are started by the commands of docs/operating.md, or by other ones. The token of the first node is copied
    to the second.
    """

    def __init__(
        self,
        *gpus: int,
        head: str = "",
        other: str = "",
        dashboard: bool = False,
        token: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        self.gpus = gpus or (0, 0)
        self.commands = (head or documented("ray start --head"), other or documented("ray start --address"))
        self.dashboard, self.token = dashboard, token
        self.folder = tempfile.mkdtemp(prefix="ray")
        self.names = [f"mill{os.getpid()}{side}" for side in "ab"]
        self.ip = "10.77.0.1"
        self.address = f"{self.ip}:6379"
        self.homes = [Path(self.folder) / side for side in "ab"]
        self.envs = [environment(str(home), **env or {}) for home in self.homes]
        self.env = self.envs[0]

    def __enter__(self) -> TwoNodes:
        first, second = self.names
        for home, name in zip(self.homes, self.names, strict=True):
            home.mkdir()
            _sh(f"ip netns add {name}")
        if self.token:
            self.bring_token()
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
        command = self.commands[number - 1].replace("HEAD", self.ip)
        given = {"--node-ip-address": f"10.77.0.{number}", "--num-cpus": "1", "--num-gpus": str(self.gpus[number - 1])}
        given["--object-store-memory"] = "100000000"
        if number == 1 and not self.dashboard:
            given["--include-dashboard"] = "false"
        command += "".join(f" {name}={value}" for name, value in given.items() if name not in command)
        self.shell(number, command)

    def bring_token(self) -> None:
        """Make a token on the first node and copy it to the second, as docs/operating.md says."""
        subprocess.run(
            documented("get-auth-token"), shell=True, env=self.env, check=True, capture_output=True, timeout=60
        )
        (self.homes[1] / ".ray").mkdir()
        shutil.copy(self.homes[0] / ".ray/auth_token", self.homes[1] / ".ray/auth_token")

    def shell(self, number: int, command: str) -> str:
        """Run a command line on a node, which must succeed. Returns its output."""
        words, env = self.inside(number, "bash", "-c", command), self.envs[number - 1]
        done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout + done.stderr

    def inside(self, number: int, *words: str) -> list[str]:
        """Return a command that runs `words` on a node."""
        return ["ip", "netns", "exec", self.names[number - 1], *words]

    def pids(self, number: int) -> list[int]:
        return [int(pid) for pid in _sh(f"ip netns pids {self.names[number - 1]}").split()]

    def kill(self, number: int) -> None:
        """Kill every process of a node with SIGKILL."""
        while pids := self.pids(number):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Return the processes of our workers on both nodes."""
        found = []
        for pid in self.pids(1) + self.pids(2):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"ray::_Work"):
                found.append(pid)
        return found


def _sh(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout

"""Run `speechmill` commands in separate processes without importing the packages each time.

A command spends its first seconds mostly on imports, and the tests run hundreds. Each pytest process therefore has a
server, which imports the packages once and forks a process for each command. Such a process behaves like
`python -c "from pipelines.commands.cli import main; main()"`, with its own memory, streams, environment and signals.

Workers that a command starts with multiprocessing's `spawn` are forked from a process that was forked before the
command began. Like spawned ones, they have none of the state of the command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "torch", "torchaudio", "scipy.signal", "pyloudnorm", "silero_vad", "lightning", "pytorch_metric_learning", "pandas",
    "onnxruntime", "pipelines.run", "pipelines.commands.cli", "pipelines.commands.dry_run",
    "pipelines.commands.next_steps", "manifests.ledger", "manifests.report.card", "manifests.views",
)  # fmt: skip
"""Not included are pyannote.audio, ctranslate2 and gRPC, which start threads that do not survive a fork."""


class Forked:
    """A running command, like `subprocess.Popen`."""

    def __init__(self, words: tuple[str, ...], environment: dict[str, str], cwd: Path, interruptible: bool) -> None:
        self.args = words
        self._folder = Path(tempfile.mkdtemp(dir=_folders()))
        request = {
            "words": words,
            "environment": environment,
            "cwd": str(cwd),
            "folder": str(self._folder),
            "interruptible": interruptible,
        }
        _send(request)
        pid = self._folder / "pid"
        while not pid.exists():
            time.sleep(0.002)
        self.pid = int(pid.read_text())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ended = self._folder / "ended"
        if self.returncode is None and ended.exists():
            self.returncode = os.waitstatus_to_exitcode(int(ended.read_text()))
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(" ".join(self.args), timeout)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the command. Returns what it has printed to stdout and stderr."""
        self.wait(timeout)
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("out", "err"))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(*words: str, cwd: Path = ROOT, interruptible: bool = False, **settings: str) -> Forked:
    """Start `speechmill` with these arguments and additional environment variables.

    An `interruptible` command has its own process group, as in a terminal, and reacts to Ctrl-C even if the parent of
    the tests ignores it.
    """
    return Forked(words, {**os.environ, **settings}, cwd, interruptible)


def speechmill(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `speechmill` with these arguments."""
    process = start(*words)
    out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.wait(), out, err)


@functools.cache
def _folders() -> str:
    """Return the folder for the output of commands. It is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="forked-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_server: subprocess.Popen[str] | None = None


def _send(request: dict[str, object]) -> None:
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, text=True)
        atexit.register(_server.kill)
    assert _server.stdin is not None
    print(json.dumps(request), file=_server.stdin, flush=True)


def serve() -> None:
    """Fork a process for each request on stdin."""
    import importlib

    sys.path[0] = str(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the waiting processes are reaped automatically
    for line in sys.stdin:
        if os.fork() == 0:
            _wait_for_command(json.loads(line))
            os._exit(0)


def _wait_for_command(request: dict[str, object]) -> None:
    """Fork the command and write its exit status to a file, because only its parent can read it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(str(request["folder"]))
    if (pid := os.fork()) == 0:
        _command(request, folder)
    _write(folder / "pid", str(pid))
    _, status = os.waitpid(pid, 0)
    _write(folder / "ended", str(status))


def _write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def _command(request: dict[str, object], folder: Path) -> None:
    """Run the command in this process."""
    import types

    words, environment = request["words"], request["environment"]
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    for number, name in enumerate((os.devnull, folder / "out", folder / "err")):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["cwd"]))
    if request["interruptible"]:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["__main__"] = types.ModuleType("__main__")  # as with -c: spawned workers then import no main file
    if "--workers" in words:
        _fork_workers()
    sys.argv = ["-c", *words]
    code = 1
    try:
        from pipelines.commands.cli import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    finally:
        _end(code)


def _fork_workers() -> None:
    """Start a process that forks the workers of this command, instead of starting an interpreter for each.

    It is multiprocessing's own fork server, but forked from this process, with all imported modules, instead of
    spawned. Like the workers that `pipelines.units.engines.local` spawns, its children have SIGINT blocked.
    """
    from multiprocessing import context, forkserver, popen_forkserver, resource_tracker, util

    def fork(path: str, arguments: list[bytes], passed: list[int]) -> int:
        if pid := os.fork():
            return pid
        try:
            util.spawnv_passfds = spawnv_passfds  # so that a worker can spawn a process in turn
            for number in map(int, os.listdir("/proc/self/fd")):
                if number > 2 and number not in passed:  # such as the pipe whose closing signals the command's end
                    with contextlib.suppress(OSError):
                        os.close(number)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            forkserver.main(*passed, [])
        finally:
            os._exit(0)

    resource_tracker.ensure_running()
    spawnv_passfds, util.spawnv_passfds = util.spawnv_passfds, fork
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = spawnv_passfds
    context.SpawnProcess._Popen = staticmethod(popen_forkserver.Popen)  # type: ignore[assignment]


def _end(code: int) -> None:
    """End as the interpreter does: join threads, run exit handlers, and flush streams."""
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()

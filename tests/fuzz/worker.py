"""A process that judges inputs and can be ended: FFmpeg cannot be interrupted, and a crash of it ends its process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from fuzz.oracle import Verdict, judge

LIMIT_S = 120.0
"""Longest time for one plan, waiting included."""
LIMIT_CPU_S = 30.0
"""Longest time that one plan may compute, in the process and its children: it means the same on a busy machine."""
LIMIT_BYTES = 1 << 30
"""Peak of resident memory while one input is judged, of the process and its children together. Imports and DuckDB alone
take about 250 MB."""

ROOM_BYTES = 1 << 30
TOO_LONG, TOO_LARGE = "it takes too long", "it takes too much memory"


class Worker:
    """Judges one input at a time, in a process that is begun anew after it had to be ended."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._process: Any = None
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        memory = Path("/dev/shm")  # thousands of small lakes, of which nothing need last
        where = memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES else None
        self._scratch = tempfile.TemporaryDirectory(prefix="speechmill-fuzz-", dir=where, ignore_cleanup_errors=True)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._scratch.name))
        self._process.start()
        theirs.close()
        self._pipe.recv()  # imported

    def judge(self, target: str, plan: Any) -> Verdict:
        _, cpu_before_s = _use(self._process.pid)
        self._pipe.send((target, plan))
        started = time.monotonic()
        while not self._pipe.poll(0.1):
            taken_s = time.monotonic() - started
            if taken_s > self.limit_s:
                return self._ended(Verdict(TOO_LONG, f"over {self.limit_s:.0f} s", taken_s))
            held, cpu_s = _use(self._process.pid)
            if cpu_s - cpu_before_s > LIMIT_CPU_S:
                return self._ended(Verdict(TOO_LONG, f"over {LIMIT_CPU_S:.0f} s of CPU", taken_s))
            if held > LIMIT_BYTES:
                return self._ended(Verdict(TOO_LARGE, f"{held} bytes", taken_s, peak_bytes=held))
        try:
            verdict: Verdict = self._pipe.recv()
        except EOFError:
            self._process.join()
            taken_s = time.monotonic() - started
            return self._ended(Verdict("the process died", f"exit code {self._process.exitcode}", taken_s))
        if verdict.problem is None and verdict.peak_bytes > LIMIT_BYTES:
            verdict.problem, verdict.detail = TOO_LARGE, f"{verdict.peak_bytes} bytes"
        return verdict

    def _ended(self, verdict: Verdict) -> Verdict:
        self.close()
        self._begin()
        return verdict

    def close(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._scratch.cleanup()


def _work(pipe: Connection, scratch: str) -> None:
    """Judge what comes, until the pipe is closed. What is judged leaves its temporary files in `scratch`."""
    tempfile.tempdir = scratch
    pipe.send("ready")
    while True:
        try:
            target, plan = pipe.recv()
        except EOFError:
            return
        gc.collect()
        before, (_, cpu_before_s) = _forget_peaks(), _use(os.getpid())
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            verdict = judge(target, plan, Path(folder))
        verdict.peak_bytes = _peak_bytes(before)
        verdict.cpu_s = _use(os.getpid())[1] - cpu_before_s
        pipe.send(verdict)


def _use(pid: int) -> tuple[int, float]:
    """Bytes that a process and its children hold at this moment, and seconds of CPU that they have used."""
    held, cpu_s = 0, 0.0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
                times = process.cpu_times()
                cpu_s += times.user + times.system
        ended = parent.cpu_times()
        cpu_s += ended.children_user + ended.children_system
    return held, cpu_s


def _family() -> list[int]:
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def _forget_peaks() -> int:
    """Begin the peaks of memory anew, which Linux alone can do. Returns the peak of children that have ended."""
    for pid in _family() if sys.platform == "linux" else ():
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak_of_ended()


def _peak_of_ended() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _peak_bytes(ended_before: int) -> int:
    """Peak of this process and its children since then, and of children that ended meanwhile."""
    ended = _peak_of_ended()
    if sys.platform != "linux":
        return ended + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = 0
    for pid in _family():
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            peak += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return peak + (ended if ended > ended_before else 0)

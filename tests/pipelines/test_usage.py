"""What work takes is measured by part, kept as sums, and merged to the same sums."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from pipelines.audio import children
from pipelines.progress import usage as spent
from pipelines.progress.usage import Meter, Usage


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has worked on a recording before."""
    monkeypatch.setattr(spent, "_begun", {"work"})


def burn(cpu_s: float) -> None:
    """Use up so much CPU time of this thread."""
    begun = time.thread_time()
    while time.thread_time() - begun < cpu_s:
        sum(range(1000))


def test_cpu_time_is_counted_by_part_and_as_a_whole() -> None:
    meter = Meter("work")
    for _ in range(3):
        with meter.part("one"):
            burn(0.05)
        with meter.part("other", gpus=0.5):
            burn(0.02)
        burn(0.03)
        meter.count("read_bytes", 1000)
        meter.observe(10.0)
    meter.count("written_bytes", 50)
    (found,) = meter.end().values()
    assert (found.observations, found.seconds, found.seconds_squared) == (3, 30.0, 300.0)
    one, other, whole = (found.of[name].total for name in ("cpu_s.one", "cpu_s.other", "cpu_s"))
    assert one >= 0.15
    assert other >= 0.06
    assert whole >= one + other + 0.09
    assert found.of["gpu_s.other"].total >= 0.5 * 0.06
    assert "gpu_s.one" not in found.of
    read, written = found.of["read_bytes"], found.of["written_bytes"]
    assert (read.total, read.squared, read.with_seconds) == (3000.0, 3e6, 30_000.0)
    assert (written.total, written.squared) == (50.0, 0.0)
    assert found.peak_memory_bytes > 1 << 20


def test_a_thread_that_works_ahead_counts_in_no_part() -> None:
    meter = Meter("work")

    def ahead() -> None:
        meter.exclude_thread()
        ready.set()
        burn(0.3)

    ready = threading.Event()
    thread = threading.Thread(target=ahead)
    thread.start()
    ready.wait()
    with meter.part("mine"):
        burn(0.05)
        thread.join(0.2)
    thread.join()
    meter.observe(1.0)
    of = meter.end()["work"].of
    assert of["cpu_s.mine"].total < 0.2
    assert of["cpu_s"].total >= 0.35


def test_processes_that_decode_and_those_that_have_ended_count(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter("work")
    subprocess.run([sys.executable, "-S", "-c", "sum(range(10**7))"], check=True)
    meter.observe(1.0)
    ended = meter.spent.of["cpu_s"].total
    assert ended > 0.05
    before = children.cpu_s()  # of those that other tests have left in this process
    monkeypatch.setattr(children, "cpu_s", lambda: before + 100.0)
    meter.observe(1.0)
    assert meter.spent.of["cpu_s"].total > 100


def test_the_first_recording_of_a_process_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spent, "_begun", set())
    meter = Meter("work")
    burn(0.05)
    meter.observe(7.0)
    meter.observe(3.0)
    again = Meter("work")
    again.observe(5.0)
    (first,), (second,) = meter.end().values(), again.end().values()
    assert (first.observations, first.seconds, first.first_seconds) == (1, 3.0, 7.0)
    assert first.first_cpu_s >= 0.05 > first.of["cpu_s"].total
    assert (second.observations, second.first_seconds) == (1, 0.0)


def test_merged_sums_are_those_of_all_observations() -> None:
    parts = [[(10.0, {"cpu_s": 1.0}), (20.0, {"cpu_s": 3.0, "read_bytes": 7.0})], [(5.0, {"cpu_s": 0.5})]]
    whole, merged = Usage(), Usage()
    for part in parts:
        one = Usage(peak_memory_bytes=len(part))
        for seconds, quantities in part:
            one.observe(seconds, quantities)
            whole.observe(seconds, quantities)
        merged.merge(one)
    whole.peak_memory_bytes = 2
    assert merged.to_json() == whole.to_json()

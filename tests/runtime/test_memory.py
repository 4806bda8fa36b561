"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

FILL = """
import resource, sys
from runtime.memory import release
def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * resource.getpagesize() >> 20
blocks = [bytearray(100_000) for _ in range(2000)]
kept = blocks[-1]  # above all others, so that the allocator cannot shrink by itself
full = resident()
blocks.clear()
before = resident()
release()
print(full, before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and trims glibc's memory")
def test_gaps_below_what_is_kept_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FILL], capture_output=True, text=True, check=True)
    full, before, after = map(int, done.stdout.split())
    assert before > full - 50
    assert after < full - 150

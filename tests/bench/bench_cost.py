"""The cost that `speechmill study cost` predicts from a short run, compared with a run ten times as long.

Both runs are whole commands in their own processes. The operating system measures what the long one takes.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
import soundfile
from sounds import telephone_conversation

from manifests.lake import Lake
from studies import cost, prices, usage

PR_SET_CHILD_SUBREAPER = 36
"""Option of prctl(2) with which this process becomes the parent of orphans, so that their CPU time is counted."""
TARGET_H = 7e6
FAST = ["--set", "annotate={vad={}}", "--set", "select.recordings={}", "--set", "select.windows={}"]


def conversations(folder: Path, minutes: float, seed: int) -> float:
    """Write FLAC files of 20 s to 5 minutes of real conversation. Returns their hours."""
    speech, rate = telephone_conversation()
    rng = np.random.default_rng(seed)
    folder.mkdir()
    seconds, number = 0.0, 0
    while seconds < 60 * minutes:
        length = float(np.clip(rng.lognormal(4.2, 0.7), 20, 300))
        piece = np.resize(np.roll(speech, -int(rng.integers(len(speech)))), int(length * rate))
        soundfile.write(folder / f"{seed}-{number:05d}.flac", piece, rate)
        seconds, number = seconds + length, number + 1
    return seconds / 3600


def mill(folder: Path, lake: Path, overrides: list[str]) -> float:
    """Run the demo recipe over a folder. Returns the CPU seconds of the command and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["run", "demo", "--in", str(folder), "--lake", str(lake), "--quiet", *overrides]
    subprocess.run([sys.executable, "-m", "pipelines.commands", *words], check=True, cwd=Path(__file__).parents[2])
    with contextlib.suppress(ChildProcessError):
        while True:  # decoder processes end shortly after the command, and are then children of this process
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def written_bytes(lake: Path) -> int:
    folders = ("annotations", "datasets")
    shards = [path for folder in folders for path in (lake / folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in shards)


@click.command()
@click.option("--minutes", default=20.0, show_default=True, help="Length of the sample.")
@click.option("--times", default=10.0, show_default=True, help="Length of the target, in lengths of the sample.")
@click.option("--every-stage", is_flag=True, help="Also run diarization, language and quality; about 20 times as slow.")
def main(minutes: float, times: float, every_stage: bool) -> None:
    overrides = [] if every_stage else FAST
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    python, load = platform.python_version(), os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {python}, load {load:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conversations(folder / "sample", minutes, 1)
        hours = conversations(folder / "target", times * minutes, 2)
        mill(folder / "sample", folder / "short", overrides)
        sample = usage.sample_of(Lake.at(str(folder / "short")))
        bill = cost.cost(sample, prices.load(None), hours)
        taken_s = mill(folder / "target", folder / "long", overrides)
        idle_s = mill(folder / "target", folder / "long", overrides)  # nothing is left to do
        measured = usage.sample_of(Lake.at(str(folder / "long")))
        written = written_bytes(folder / "long")
    again = cost.cost(measured, prices.load(None), hours)
    sizes = {key: [row[key] for row in (bill["sample"], again["sample"])] for key in ("recordings", "hours")}
    print(json.dumps(sizes))
    print(f"{'':<28}{'predicted':>12}{'low':>10}{'high':>10}{'measured':>10}{'ratio':>8}")

    def line(what: str, predicted: dict[str, float], taken: float) -> None:
        ends = [f"{predicted[end]:>10.2f}" if predicted.get(end) is not None else " " * 10 for end in ("low", "high")]
        print(f"{what:<28}{predicted['value']:>12.2f}{''.join(ends)}{taken:>10.2f}{predicted['value'] / taken:>8.2f}")

    def seconds(hours: dict[str, float]) -> dict[str, float]:
        return {end: 3600 * value for end, value in hours.items() if value is not None}

    for step, other in zip(bill["steps"], again["steps"], strict=True):
        line(f"{step['step']}, CPU s", seconds(step["cpu_hours"]), 3600 * other["cpu_hours"]["value"])
    total = sum(3600 * step["cpu_hours"]["value"] for step in bill["steps"])
    line("all, CPU s by the system", {"value": total}, max(1e-9, taken_s - idle_s))
    line("written, MB", {"value": 1e6 * sum(step["written_tb"] for step in bill["steps"])}, written / 1e6)
    money = [cost.cost(one, prices.load(None), TARGET_H)["steps"] for one in (sample, measured)]
    short, long = (sum(step["money"]["value"] for step in steps) for steps in money)
    line(f"machines for {TARGET_H:,.0f} h", {"value": short}, long)


if __name__ == "__main__":
    main()

"""Time of a whole run on the local engine, Ray and Beam with two workers each, with the start-up time subtracted.

The engines take turns within a round. Compare only the ratios of one round, because the load of the machine changes.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "pipelines")]

from ray_clusters import alone
from small_runs import RECIPE, conversation, digests, run_command

ENGINES = {
    "local": ["--workers", "2"],
    "ray": ["--engine", "ray", "--workers", "2"],
    "beam": ["--engine", "beam", "--workers", "2"],
}


def make(folder: Path, hours: float, stages: list[str], minutes: int = 10) -> None:
    """Write FLAC files of `minutes` to `folder`/in, `hours` of the packaged conversation in all, and a recipe.

    Each file starts at another position of the conversation, so that no two are equal.
    """
    speech, rate = conversation()
    long = np.tile(speech, minutes * 2)
    (folder / "in").mkdir(parents=True)
    for n in range(max(2, round(hours * 60 / minutes))):
        soundfile.write(folder / f"in/{n:03d}.flac", np.roll(long, n * rate), rate)
    # One recording per batch and per shard, so that even the short run keeps both workers busy.
    recipe = RECIPE.replace("= 0.008", f"= {minutes / 50}").replace("= 0.3", f"= {float(minutes)}")
    (folder / "recipe.toml").write_text(recipe + "".join(f"[annotate.{name}]\n" for name in stages if name != "vad"))


def timed(folder: Path, engine: str) -> tuple[float, dict[str, float], Path]:
    """Run an engine. Returns the wall seconds of the command and of its steps, and the lake."""
    lake = folder / f"lake-{engine}"
    shutil.rmtree(lake, ignore_errors=True)
    begun = time.monotonic()
    done = alone(*run_command(folder, lake, *ENGINES[engine]), timeout_s=3600)
    assert done.returncode == 0, done.stderr
    wall_s = time.monotonic() - begun
    (summary,) = lake.glob("runs/*/summary.json")
    steps = {name: step["wall_s"] for name, step in json.loads(summary.read_text())["steps"].items()}
    return wall_s, steps, lake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the sound")
    parser.add_argument("--minutes", type=int, default=10, help="length of each recording")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stages", default="vad", help="stages to run, vad among them, separated by commas")
    given = parser.parse_args()
    hours, stages = given.hours, given.stages.split(",")
    root = Path(tempfile.mkdtemp(prefix="engines"))
    try:
        make(root / "short", 0.0, stages, 1)
        make(root / "long", hours, stages, given.minutes)
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {hours:g} h, 2 workers")
        for number in range(given.rounds):
            # A run over a minute for each worker measures the start-up: the work itself takes about a second.
            startup = {engine: timed(root / "short", engine)[0] for engine in ENGINES}
            found = {engine: timed(root / "long", engine) for engine in ENGINES}
            assert len({tuple(digests(each[2]).items()) for each in found.values()}) == 1
            for engine, (wall_s, steps, _) in found.items():
                work_s, base_s = wall_s - startup[engine], found["local"][0] - startup["local"]
                each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in steps.items())
                print(
                    f"{number + 1} {engine:<6}{wall_s:>7.1f} s = {startup[engine]:.1f} start + {work_s:.1f} ({each}); "
                    f"{work_s / base_s:.2f} of local; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()

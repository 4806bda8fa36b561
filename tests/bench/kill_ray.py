"""Kill a worker, a node and the driver of runs on two Ray nodes at random moments, and print what was repeated.

`python tests/bench/kill_ray.py [RUNS] [SEED]`. Every lake must be equal, by sha256, to that of an undisturbed run.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "pipelines")]

from ray_clusters import ROOT, TwoNodes
from small_runs import digests, make_input, run_command


@dataclass
class Killed:
    """One disturbed run."""

    what: str
    after_s: float = 0.0
    files: int = 0
    """Number of files in the lake at the kill, without those under runs/."""
    during: str = ""
    redone: list[str] = field(default_factory=list)
    """Units that were started again."""
    exits: list[int] = field(default_factory=list)
    """Exit codes of the command, which is repeated if it was killed itself."""
    seconds: float = 0.0
    equal: bool = False


def disturbed(
    cluster: TwoNodes,
    what: str,
    folder: Path,
    lake: Path,
    expected: dict[str, str],
    chance: random.Random,
    within_s: float,
) -> Killed:
    """Run over the input in `folder`, kill `what` once, and repeat the command if that ended it.

    The moment is random within `within_s` after the lake's first file, or later if there is nothing to kill yet.
    """
    killed = Killed(what)
    begun = time.monotonic()
    words = cluster.inside(1, *run_command(folder, lake, "--engine", "ray", "--ray-address", cluster.address))

    def start() -> subprocess.Popen[bytes]:
        found, log = lake.with_suffix(".out").open("ab"), lake.with_suffix(".log").open("ab")
        return subprocess.Popen(words, cwd=ROOT, env=cluster.env, stdout=found, stderr=log)

    wait_s = chance.uniform(0, within_s)
    driver = start()
    again: set[str] = set()
    first = None
    while driver.poll() is None:
        if first is None and (lake / "recordings").exists():
            first = time.monotonic()
        if first and not killed.after_s and time.monotonic() >= first + wait_s:
            victims = {"worker": cluster.workers(), "node": cluster.pids(2), "driver": [driver.pid]}[what]
            if victims:
                killed.after_s, killed.files = time.monotonic() - first, len(digests(lake))
                killed.during = "encode" if (lake / "selections").exists() else "annotate"
                if what == "node":
                    cluster.kill(2)
                else:
                    os.kill(chance.choice(victims), signal.SIGKILL)
        again |= _begun_again(lake)
        time.sleep(0.005)
    killed.exits.append(driver.wait())
    if driver.returncode:
        again |= {mark.stem for mark in lake.glob("runs/attempts/*.json")}
        killed.exits.append(start().wait())
    if what == "node" and not cluster.pids(2):
        cluster.start(2)
    killed.redone, killed.equal = sorted(again), digests(lake) == expected
    killed.seconds = time.monotonic() - begun
    return killed


def undisturbed(cluster: TwoNodes, folder: Path, lake: Path) -> float:
    """Return the seconds of an undisturbed run, from the lake's first file on."""
    words = cluster.inside(1, *run_command(folder, lake, "--engine", "ray", "--ray-address", cluster.address))
    first = None
    with subprocess.Popen(words, cwd=ROOT, env=cluster.env, stdout=subprocess.DEVNULL) as driver:
        while driver.poll() is None:
            if first is None and (lake / "recordings").exists():
                first = time.monotonic()
            time.sleep(0.005)
    assert driver.returncode == 0
    assert first is not None
    return time.monotonic() - first


def _begun_again(lake: Path) -> set[str]:
    found = set()
    for mark in lake.glob("runs/attempts/*.json"):
        try:
            if json.loads(mark.read_text())["at"] != "":  # a first attempt names no recording
                found.add(mark.stem)
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    folder = Path(tempfile.mkdtemp(prefix="kill"))
    try:
        make_input(folder, 12, 10)
        subprocess.run(run_command(folder, folder / "whole"), cwd=ROOT, check=True, capture_output=True)
        expected = digests(folder / "whole")
        print(f"12 recordings of 5 minutes, {len(expected)} files; 2 Ray nodes of 1 CPU each", flush=True)
        counts: Counter[tuple[str, bool]] = Counter()
        with TwoNodes() as cluster:
            within_s = undisturbed(cluster, folder, folder / "lake")
            print(f"undisturbed: {within_s:.0f} s, equal: {digests(folder / 'lake') == expected}", flush=True)
            shutil.rmtree(folder / "lake")
            print("run  killed  during    after s  files then  exits   total s  equal  units begun again", flush=True)
            for number in range(runs):
                what = ("worker", "node", "driver")[number % 3]
                killed = disturbed(cluster, what, folder, folder / "lake", expected, chance, within_s)
                counts[killed.what, killed.equal] += bool(killed.after_s)
                exits = ",".join(map(str, killed.exits))
                print(
                    f"{number + 1:>3}  {killed.what:<6}  {killed.during:<8}{killed.after_s:>9.1f}{killed.files:>12}  "
                    f"{exits:<6}{killed.seconds:>9.1f}  {killed.equal!s:<5}  {' '.join(killed.redone) or '-'}",
                    flush=True,
                )
                if not killed.equal or killed.exits[-1]:
                    print((folder / "lake.log").read_text()[-4000:])
                (folder / "lake.log").unlink()
                (folder / "lake.out").unlink()
                shutil.rmtree(folder / "lake")
        print({f"{what} {'equal' if equal else 'DIFFERENT'}": count for (what, equal), count in counts.items()})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

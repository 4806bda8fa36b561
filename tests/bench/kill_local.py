"""Kill a local run with SIGKILL at random moments: a worker, a decoder, the driver alone, or all of them at once.

`python tests/bench/kill_local.py [KILLS] [SEED]`. The run over each lake is killed three times. Then the command is
repeated until it ends by itself. Every lake must be equal, by sha256, to that of an undisturbed run, and `tokens
verify` must succeed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "pipelines")]

from small_runs import digests, make_input, run_command

ROOT = Path(__file__).parents[2]
KILLS_A_LAKE = 3
TARGETS = ("worker", "decoder", "driver", "group")


def start(folder: Path, lake: Path) -> subprocess.Popen[bytes]:
    log = lake.with_suffix(".log").open("ab")
    words = run_command(folder, lake, "--workers", "2")
    return subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def victims(target: str, driver: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes that can be killed. Children of the driver are workers, and their children are decoders."""
    if target in ("driver", "group"):
        return [driver.pid]
    try:
        children = psutil.Process(driver.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if target == "worker":
            return [worker.pid for worker in workers]
        return [child.pid for worker in workers for child in worker.children()]
    except psutil.NoSuchProcess:
        return []


def kill(target: str, driver: subprocess.Popen[bytes], chance: random.Random) -> bool:
    found = victims(target, driver)
    if not found or driver.poll() is not None:
        return False
    try:
        if target == "group":
            tree = psutil.Process(driver.pid).children(recursive=True)
            os.killpg(driver.pid, signal.SIGKILL)
            for process in tree:
                if process.is_running():
                    process.kill()
        else:
            os.kill(chance.choice(found), signal.SIGKILL)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return True


def disturbed(folder: Path, lake: Path, target: str, chance: random.Random, lasts_s: float) -> tuple[int, list[int]]:
    """Run with `KILLS_A_LAKE` kills, then to the end. Returns the number of processes killed, and every exit code."""
    hits, exits = 0, []
    driver = start(folder, lake)
    while hits < KILLS_A_LAKE:
        moment = time.monotonic() + chance.uniform(0.2, lasts_s)
        while time.monotonic() < moment and driver.poll() is None:
            time.sleep(0.01)
        hits += kill(target, driver, chance)
        time.sleep(0.05)
        if driver.poll() is not None:
            exits.append(driver.returncode)
            if driver.returncode == 0:
                return hits, exits
            driver = start(folder, lake)
    exits.append(driver.wait())
    for _ in range(3):
        if exits[-1] == 0:
            break
        exits.append(start(folder, lake).wait())
    return hits, exits


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    folder = Path(tempfile.mkdtemp(prefix="kill"))
    try:
        make_input(folder, 12, 2)
        begun = time.monotonic()
        subprocess.run(
            run_command(folder, folder / "whole", "--workers", "2"), cwd=ROOT, check=True, capture_output=True
        )
        lasts_s = time.monotonic() - begun
        expected = digests(folder / "whole")
        print(f"12 recordings of a minute, {len(expected)} files; undisturbed {lasts_s:.1f} s, 2 workers", flush=True)
        print("lake  killed   kills  exits                equal  verified", flush=True)
        done: Counter[str] = Counter()
        lakes = equals = 0
        while sum(done.values()) < kills:
            target, lake = TARGETS[lakes % len(TARGETS)], folder / "lake"
            hits, exits = disturbed(folder, lake, target, chance, lasts_s)
            done[target] += hits
            same = digests(lake) == expected
            verify = [sys.executable, "-m", "pipelines.commands", "tokens", "verify", str(folder / "recipe.toml")]
            verified = subprocess.run([*verify, "--lake", str(lake)], cwd=ROOT, capture_output=True).returncode == 0
            lakes, equals = lakes + 1, equals + (same and verified)
            shown = ",".join(map(str, exits))
            print(f"{lakes:>4}  {target:<8}{hits:>6}  {shown:<20} {same!s:<6} {verified}", flush=True)
            if not (same and verified):
                print(lake.with_suffix(".log").read_text()[-4000:])
            lake.with_suffix(".log").unlink()
            shutil.rmtree(lake)
        print(f"{sum(done.values())} kills ({dict(done)}), {lakes} lakes, {equals} of them equal and verified")
        if equals < lakes:
            sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

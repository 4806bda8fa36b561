"""`make fuzz`: hostile inputs for as long as it is told, and one of them again.

python -m fuzz --seconds 600 [--target names] [--seed 7] [--finds FOLDER]
python -m fuzz --plans 30 --seed 7
python -m fuzz --repeat FOLDER/plan.txt
"""

from __future__ import annotations

import argparse
import ast
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

from fuzz.hunt import Hunt, keep, write_plan
from fuzz.plans import PLANS
from fuzz.worker import Worker

ROUND = 100
"""Plans for one seed of Hypothesis; after a find the next round goes on."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="time for all targets together")
    parser.add_argument("--plans", type=int, help="so many plans for each target instead, however long they take")
    parser.add_argument("--target", action="append", choices=sorted(PLANS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="draws the same plans again")
    parser.add_argument("--finds", type=Path, help="folder for what breaks a rule; a new temporary one if not given")
    parser.add_argument("--repeat", type=Path, help="the plan.txt of a find, to judge it again and nothing else")
    options = parser.parse_args()
    worker = Worker()
    try:
        return _repeat(options.repeat, worker) if options.repeat else _hunt(options, worker)
    finally:
        worker.close()


def _repeat(path: Path, worker: Worker) -> int:
    target, plan = ast.literal_eval(path.read_text())
    hunt = Hunt(target, worker)
    verdict = hunt.judge(plan)
    print(hunt.report())
    print(f"\n{verdict.problem}\n{verdict.detail}" if verdict.problem else "every rule holds")
    return 1 if verdict.problem else 0


def _hunt(options: argparse.Namespace, worker: Worker) -> int:
    targets = options.target or list(PLANS)
    folder = options.finds or Path(tempfile.mkdtemp(prefix="speechmill-finds-"))
    each_s = float("inf") if options.plans else options.seconds / len(targets)
    print(f"seed {options.seed}: {', '.join(targets)}", flush=True)
    found = 0
    for target in targets:
        hunt = Hunt(target, worker)
        until = time.monotonic() + each_s
        for number in itertools.count():
            before = set(hunt.finds)
            hunt.run(options.plans or ROUND, options.seed + number, until)
            for problem in set(hunt.finds) - before:
                plan, verdict = hunt.finds[problem]
                made = keep(target, plan, verdict, folder)
                print(f"FOUND {target}: {problem}\n  {verdict.detail.strip()[-500:]}")
                print(f"  repeat: make fuzz REPEAT={made}/plan.txt", flush=True)
            if options.plans or time.monotonic() > until:
                break
        print(hunt.report(), flush=True)
        write_plan(target, hunt.slowest[1], folder / f"{target}-slowest.txt")
        write_plan(target, hunt.busiest[1], folder / f"{target}-busiest.txt")
        write_plan(target, hunt.largest[1], folder / f"{target}-largest.txt")
        found += len(hunt.finds)
    print(f"{found} finds; the slowest and the largest inputs, and what was found, are in {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

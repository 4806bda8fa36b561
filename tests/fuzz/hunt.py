"""Through many plans in search of one that breaks a rule; Hypothesis then makes it as small as it can in a minute."""

from __future__ import annotations

import pprint
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from fuzz.oracle import Verdict
from fuzz.plans import PLANS
from fuzz.scenes import Plan, inputs_of, laid_out
from fuzz.worker import TOO_LARGE, TOO_LONG, Worker

SHRINK_S = 60.0
"""Time for making one find smaller."""


class FoundError(Exception):
    """A plan that breaks a rule which no plan before it broke in the same way."""


@dataclass
class Hunt:
    """What was seen of one target."""

    target: str
    worker: Worker
    plans: int = 0
    inputs: int = 0
    ok: int = 0
    failed: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, Plan] = field(default_factory=lambda: (0.0, {}))
    busiest: tuple[float, Plan] = field(default_factory=lambda: (0.0, {}))
    largest: tuple[int, Plan] = field(default_factory=lambda: (0, {}))
    finds: dict[str, tuple[Plan, Verdict]] = field(default_factory=dict)
    """By problem, its smallest plan."""

    def run(self, examples: int, seed: int, until: float = float("inf")) -> None:
        """Judge so many plans, or as many as fit before `until` (monotonic seconds). A seed draws the same plans again.

        Finds are kept; after one the others of this call are not tried, and plans with its problem pass from then on.
        """
        chased: str | None = None
        stop_shrinking = float("inf")
        verdicts: dict[str, Verdict] = {}

        def judge(plan: Plan) -> None:
            nonlocal chased, stop_shrinking
            key = repr(sorted(plan.items()))
            if key not in verdicts and time.monotonic() > min(stop_shrinking, until):
                return
            verdict = verdicts.get(key) or self._judge(plan)
            problem = verdict.problem
            if problem is None or (chased is None and problem in self.finds) or chased not in (None, problem):
                return
            if chased is None:
                chased, stop_shrinking = problem, time.monotonic() + SHRINK_S
                if problem in (TOO_LONG, TOO_LARGE):  # as each try to make it smaller would be
                    stop_shrinking = 0.0
            verdicts[key] = verdict
            self.finds[problem] = (plan, verdict)
            raise FoundError(problem)

        configured = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        with suppress(FoundError):  # it is among the finds
            hypothesis.seed(seed)(configured(hypothesis.given(PLANS[self.target])(judge)))()

    def judge(self, plan: Plan) -> Verdict:
        """Judge one plan that is given."""
        verdict = self._judge(plan)
        if verdict.problem:
            self.finds[verdict.problem] = (plan, verdict)
        return verdict

    def _judge(self, plan: Plan) -> Verdict:
        verdict = self.worker.judge(self.target, plan)
        self.plans += 1
        self.inputs += inputs_of(plan)
        self.ok += verdict.ok
        self.failed += verdict.failed
        self.seconds += verdict.seconds
        self.errors.update(verdict.errors)
        if verdict.seconds > self.slowest[0]:
            self.slowest = (verdict.seconds, plan)
        if verdict.cpu_s > self.busiest[0]:
            self.busiest = (verdict.cpu_s, plan)
        if verdict.peak_bytes > self.largest[0]:
            self.largest = (verdict.peak_bytes, plan)
        return verdict

    def report(self) -> str:
        return (
            f"{self.target}: {self.inputs} inputs in {self.plans} plans, {len(self.finds)} finds; "
            f"{self.ok} rows ok, {self.failed} failed\n"
            f"  slowest {self.slowest[0]:.2f} s: {shown(self.slowest[1])}\n"
            f"  busiest {self.busiest[0]:.2f} s of CPU: {shown(self.busiest[1])}\n"
            f"  largest {self.largest[0] / 1e6:.0f} MB: {shown(self.largest[1])}\n"
            f"  failures: {', '.join(f'{name} {count}' for name, count in self.errors.most_common())}"
        )


def shown(plan: Plan) -> str:
    text = repr(plan)
    return text if len(text) < 300 else f"{text[:300]}... ({len(text)} characters)"


def keep(target: str, plan: Plan, verdict: Verdict, folder: Path) -> Path:
    """Write a find where it can be looked at and repeated from: its plan, its files and what it did."""
    made = folder / f"{target}-{time.strftime('%Y%m%d-%H%M%S')}-{abs(hash(verdict.problem)) % 10**6:06d}"
    (made / "files").mkdir(parents=True)
    write_plan(target, plan, made / "plan.txt")
    with laid_out(target, plan, made / "files"):
        pass
    (made / "told.txt").write_text(f"{verdict.problem}\n\n{verdict.detail}\n")
    return made


def write_plan(target: str, plan: Plan, path: Path) -> None:
    """Write it as a Python literal, from which it is judged again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pprint.pformat((target, plan), width=120))

"""Tables of runs for tests of scaling laws: sampled from a law, or published ones next to the test recordings."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sounds import RECORDINGS

from studies.laws.estimate import Points
from studies.laws.law import Law
from studies.laws.runs import Runs

PAPER = Law(0.0055, 0.0638, 29.7667, 0.3995, 0.5644, 0.7051)
"""A published law of continuous diffusion models of speech, with a gamma other than 1."""
CHINCHILLA = Law(1.8172, 477.8, 2143, 0.3473, 0.3672)


def sampled(
    law: Law,
    noise: float = 0.0,
    seed: int = 0,
    budgets: int = 10,
    sizes: int = 9,
    span: float = 8.0,
    centre: float = 1.0,
    budget_noise: float = 0.0,
) -> Points:
    """Sample runs at budgets from 1e18 to 1e21 FLOP, with sizes from 1 / span to span times `centre` times the
    optimum."""
    rng = np.random.default_rng(seed)
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    flops = flops * np.exp(budget_noise * rng.standard_normal(len(flops)))
    params = law.optimal_params(flops) * np.tile(centre * np.geomspace(1 / span, span, sizes), budgets)
    tokens = flops / 6 / params
    return Points(params, tokens, law.loss(params, tokens) * np.exp(noise * rng.standard_normal(len(params))))


def runs_of(points: Points) -> Runs:
    """Return runs as if read from a table with one evaluation each."""
    count = len(points)
    return Runs(points, tuple(range(2, count + 2)), np.ones(count, dtype=np.int64), None, None, {})


def write_table(path: Path, points: Points, names: tuple[str, str, str] = ("params", "tokens", "loss")) -> Path:
    """Write runs to a CSV file with these columns."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        rows = zip(points.params, points.tokens, points.loss, strict=True)
        writer.writerows([float(value) for value in row] for row in rows)
    return path


def real_table(name: str) -> Path:
    """Return the path of a published table next to the test recordings. Skips the test if it is missing."""
    path = RECORDINGS.parent / "studies" / name
    if not path.is_file():
        pytest.skip(f"no table at {path}")
    return path

"""Check that a table identifies a law, and compute the conditioning of the search."""

from __future__ import annotations

import numpy as np

from manifests.output import counted
from runtime.errors import SpeechmillError
from studies.laws.estimate import Model, Points, Projected
from studies.laws.isoflop import DIFFERENT, WIDTH, count_different
from studies.laws.law import Law

LEAST_RUNS = 8
LEAST_DIFFERENT = 3
"""Fewest distinct model sizes, numbers of tokens and compute budgets of a table. With fewer there is no curvature."""
LEAST_SPREAD = 0.1
"""Smallest standard deviation of ln D about its regression on ln N, and of ln N on ln D."""


def check(points: Points, what: str = "the table") -> None:
    """Raise SpeechmillError if these runs cannot identify all of E, A, B, alpha and beta."""
    if len(points) < LEAST_RUNS:
        raise SpeechmillError(
            f"{what}: {len(points)} usable runs are too few: a law of five constants is fitted to {LEAST_RUNS} or more",
            "add runs, or check which rows were left out and why",
        )
    sizes = count_different(np.log(points.params), DIFFERENT)
    lengths = count_different(np.log(points.tokens), DIFFERENT)
    budgets = count_different(np.log(points.flops), WIDTH)
    if sizes < LEAST_DIFFERENT:
        raise SpeechmillError(
            f"{what}: {counted(sizes, 'model size')}: A and alpha do not follow from fewer than {LEAST_DIFFERENT}",
            "train models of more sizes",
        )
    if lengths < LEAST_DIFFERENT:
        raise SpeechmillError(
            f"{what}: {counted(lengths, 'token count')}: B and beta do not follow from fewer than {LEAST_DIFFERENT}",
            "train on more numbers of tokens",
        )
    if budgets < LEAST_DIFFERENT:
        raise SpeechmillError(
            f"{what}: {counted(budgets, 'compute budget')}: an exponent of compute does not follow from fewer than "
            f"{LEAST_DIFFERENT}; budgets count as different where ln C differs by {WIDTH:g}",
            "train at more compute budgets, each at least 1.35 times the one before",
        )
    spread = least_spread(points)
    if spread < LEAST_SPREAD:
        raise SpeechmillError(
            f"{what}: N and D are collinear: given one of them, the logarithm of the other one varies by {spread:.3g} "
            f"only (at least {LEAST_SPREAD:g} is needed), so their effects cannot be separated",
            "add runs with other numbers of tokens per parameter",
        )


def least_spread(points: Points) -> float:
    """Return the smaller of the standard deviations of ln N about its regression on ln D, and of ln D on ln N."""
    logs = np.stack([np.log(points.params), np.log(points.tokens)])
    covariance = np.cov(logs, ddof=0)
    determinant = max(0.0, float(np.linalg.det(covariance)))
    return float(np.sqrt(determinant / covariance.diagonal().max()))


def conditions(points: Points, law: Law, free_gamma: bool) -> dict[str, float]:
    """Return condition numbers of the normal equations at the optimum.

    `full` is that of the usual search over (ln E, ln A, ln B, alpha, beta[, gamma]). `projected`, for gamma = 1, is
    that of variable projection over the exponents alone, which is better conditioned.
    """
    model = Model(points)
    theta = model.theta(law)
    slopes = model.residuals(theta[None])[1][0]
    gamma = law.gamma
    raw = np.stack(
        [
            slopes[:, 0],
            slopes[:, 1] * gamma,
            slopes[:, 2] * gamma,
            -slopes[:, 1] * gamma * model.log_params,
            -slopes[:, 2] * gamma * model.log_tokens,
            slopes[:, 5],
        ],
        axis=1,
    )
    used = raw if free_gamma else raw[:, :5]
    found = {"full": float(np.linalg.cond(used) ** 2)}
    if gamma == 1:
        outer = Projected(points).three(theta[None, 3:5])[1][0]
        found["projected"] = float(np.linalg.cond(outer) ** 2)
    return found

"""A scaling law L(N, D) = E + (A / N^alpha + B / D^beta)^gamma, and its optimum at a compute budget.

Compute is C = 6 N D everywhere, with N in parameters, D in tokens and C in FLOP (Kaplan et al. 2020).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
FLOP_PER_PARAM_TOKEN = 6.0


@dataclass(frozen=True)
class Law:
    """The six constants of the law. With gamma = 1 it is that of Hoffmann et al. 2022."""

    E: float
    """Irreducible loss, in the unit of the loss."""
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def loss(self, params: Array, tokens: Array) -> Array:
        """Return the predicted loss of models with `params` parameters trained on `tokens` tokens. Shapes broadcast."""
        return self.E + self.inner(params, tokens) ** self.gamma

    def inner(self, params: Array, tokens: Array) -> Array:
        """Return A / N^alpha + B / D^beta. The position of its minimum at a budget does not depend on gamma."""
        return np.exp(np.log(self.A) - self.alpha * np.log(params)) + np.exp(
            np.log(self.B) - self.beta * np.log(tokens)
        )

    @property
    def tokens_exponent(self) -> float:
        """Exponent of C in D* ~ C^(alpha / (alpha + beta)). That of N* is 1 minus this."""
        return self.alpha / (self.alpha + self.beta)

    def optimal_params(self, flops: Array) -> Array:
        """Return N* at each compute budget, the size with the lowest loss along N D = C / 6."""
        total = self.alpha + self.beta
        scale = np.log(self.alpha * self.A / (self.beta * self.B)) / total
        exponent = self.beta / total
        return np.exp(scale + exponent * np.log(np.asarray(flops, np.float64) / FLOP_PER_PARAM_TOKEN))

    def optimal_tokens(self, flops: Array) -> Array:
        """Return D* at each compute budget."""
        return np.asarray(flops, np.float64) / FLOP_PER_PARAM_TOKEN / self.optimal_params(flops)

    def curvature(self, flops: Array) -> Array:
        """Return d2L/dD2 along N D = C / 6 at the optimum, in loss per token squared.

        At the optimum the inner sum u has u' = 0 and u'' = (alpha + beta) beta B D^(-beta - 2). Therefore
        L'' = gamma u^(gamma - 1) u''.
        """
        tokens = self.optimal_tokens(flops)
        least = self.inner(self.optimal_params(flops), tokens)
        second = (self.alpha + self.beta) * self.beta * self.B * tokens ** (-self.beta - 2)
        return self.gamma * least ** (self.gamma - 1) * second

    def tokens_range(self, flops: Array, epsilon: float) -> tuple[Array, Array]:
        """Return the fewest and most tokens whose loss at a budget is at most 1 + epsilon times the lowest.

        At constant compute the inner sum is convex in ln D, so there is one crossing on each side of the optimum, which
        bisection finds. A law with a small loss may allow any factor; it is limited to e^60.
        """
        flops = np.asarray(flops, np.float64)
        best = np.log(self.optimal_tokens(flops))
        lowest = self.loss(self.optimal_params(flops), np.exp(best))
        allowed = ((1 + epsilon) * lowest - self.E) ** (1 / self.gamma)
        ends = []
        for side in (-1.0, 1.0):
            near, far = np.zeros_like(best), np.full_like(best, 60.0)
            for _ in range(60):
                middle = (near + far) / 2
                tokens = best + side * middle
                params = np.log(flops / FLOP_PER_PARAM_TOKEN) - tokens
                inside = self.inner(np.exp(params), np.exp(tokens)) <= allowed
                near, far = np.where(inside, middle, near), np.where(inside, far, middle)
            ends.append(np.exp(best + side * near))
        return ends[0], ends[1]

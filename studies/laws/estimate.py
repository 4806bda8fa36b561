"""Estimates of a law's constants: Huber's loss of the errors of ln L, and variable projection of relative errors.

Both start from the same quasi-random points. Internally, ln N and ln D are relative to their means in the table, and
(A/N^alpha + B/D^beta)^gamma is written as a smooth maximum of two power laws, which keeps the problem well conditioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.laws import solve
from studies.laws.law import Array, Law

HUBER_DELTA = 1e-3
"""In ln L, as Hoffmann et al. 2022 chose it."""
STARTS = 128
SAME = 1e-6
"""Two starts reached the same optimum if their sums differ by less than this share."""
EXPONENTS = (0.005, 2.0)
"""Bounds of gamma alpha and gamma beta, the exponents of each term of the loss where it dominates."""
GAMMAS = (0.1, 10.0)
TERMS = (-25.0, 5.0)
"""Bounds of each term at the mean ln N and ln D, as ln of its ratio to the smallest loss. They keep A and B within the
range of a double."""
FLOOR = 1e-11
"""Lower bound of E, as a share of the smallest loss. An E at this bound is not distinguishable from 0."""


@dataclass(frozen=True)
class Points:
    """The data that a law is fitted to: parameters, tokens and loss of each run, (n,) each."""

    params: Array
    tokens: Array
    loss: Array

    def __len__(self) -> int:
        return len(self.params)

    def take(self, which: npt.NDArray[Any]) -> Points:
        """Select runs by index or mask."""
        return Points(self.params[which], self.tokens[which], self.loss[which])

    @property
    def flops(self) -> Array:
        return 6.0 * self.params * self.tokens


@dataclass(frozen=True)
class Fit:
    """A fitted law, and how the search ended."""

    law: Law
    value: float
    """The objective at the optimum."""
    starts: int
    reached: int
    """Number of starts that ended at this optimum."""
    at_bound: tuple[str, ...] = ()
    """Constants that ended at a bound of the search, which the table does not identify."""


class Model:
    """The law over a table, in the parameters of the search: (e, a, b, p, q, gamma), shape (S, 6).

    e = ln E, p = gamma alpha and q = gamma beta. a and b are the logarithms of the loss that each term alone would
    contribute at the mean ln N and ln D of the table: a = gamma (ln A - alpha mean(ln N)).
    """

    names = ("E", "A", "B", "alpha", "beta", "gamma")

    def __init__(self, points: Points) -> None:
        self.points = points
        self.log_params, self.log_tokens = np.log(points.params), np.log(points.tokens)
        self.mean_params, self.mean_tokens = self.log_params.mean(), self.log_tokens.mean()
        self.n, self.d = self.log_params - self.mean_params, self.log_tokens - self.mean_tokens
        self.log_loss = np.log(points.loss)

    def bounds(self, gamma: float | None) -> tuple[Array, Array]:
        least = self.log_loss.min()
        gammas = GAMMAS if gamma is None else (gamma, gamma)
        terms = least + TERMS[0], least + TERMS[1]
        lower = np.array([least + np.log(FLOOR), terms[0], terms[0], EXPONENTS[0], EXPONENTS[0], gammas[0]])
        upper = np.array([least + 1, terms[1], terms[1], EXPONENTS[1], EXPONENTS[1], gammas[1]])
        return lower, upper

    def starts(self, gamma: float | None, count: int) -> Array:
        """Return fixed Sobol points in E, both exponents, the shares of both terms, and gamma."""
        from scipy.stats import qmc

        unit = qmc.Sobol(6, rng=np.random.default_rng(0)).random(1 << (count - 1).bit_length())[:count]
        irreducible = 0.02 + 0.96 * unit[:, 0]
        e = self.log_loss.min() + np.log(irreducible)
        rest = np.log(np.exp(np.median(self.log_loss)) - np.exp(e))
        exponents = 0.05 * 30 ** unit[:, 1:3]
        share = 0.05 + 0.9 * unit[:, 3]
        gammas = 0.3 * 10 ** unit[:, 5] if gamma is None else np.full(count, gamma)
        return np.stack(
            [e, rest + np.log(share), rest + np.log1p(-share), exponents[:, 0], exponents[:, 1], gammas], axis=1
        )

    def law(self, theta: Array) -> Law:
        e, a, b, p, q, gamma = (float(value) for value in theta)
        log_a = a / gamma + p / gamma * self.mean_params
        log_b = b / gamma + q / gamma * self.mean_tokens
        irreducible = 0.0 if e <= self.log_loss.min() + np.log(FLOOR) + 1e-6 else float(np.exp(e))
        with np.errstate(over="ignore"):
            return Law(irreducible, float(np.exp(log_a)), float(np.exp(log_b)), p / gamma, q / gamma, gamma)

    def theta(self, law: Law) -> Array:
        e = np.log(max(law.E, float(np.exp(self.log_loss.min())) * FLOOR))
        a = law.gamma * (np.log(law.A) - law.alpha * self.mean_params)
        b = law.gamma * (np.log(law.B) - law.beta * self.mean_tokens)
        return np.array([e, a, b, law.gamma * law.alpha, law.gamma * law.beta, law.gamma])

    def at_bound(self, law: Law) -> tuple[str, ...]:
        found = ["E"] if law.E == 0 else []
        for name, exponent in (("alpha", law.alpha), ("beta", law.beta)):
            if not EXPONENTS[0] * 1.01 < law.gamma * exponent < EXPONENTS[1] * 0.99:
                found.append(name)
        least, theta = self.log_loss.min(), self.theta(law)
        found += [name for name, term in (("A", theta[1]), ("B", theta[2])) if term <= least + TERMS[0] * 0.99]
        if law.gamma != 1 and not GAMMAS[0] * 1.01 < law.gamma < GAMMAS[1] * 0.99:
            found.append("gamma")
        return tuple(found)

    def residuals(self, theta: Array) -> tuple[Array, Array]:
        """Return ln of the predicted over the measured loss, (S, n), and its derivatives, (S, n, 6)."""
        e, a, b, p, q, gamma = (theta[:, i, None] for i in range(6))
        reducible, share, mixed = self._reducible(a, b, p, q, gamma)
        predicted = np.logaddexp(e, reducible)
        part = np.exp(reducible - predicted)
        slopes = np.empty((*predicted.shape, 6))
        slopes[..., 0] = 1 - part
        slopes[..., 1] = part * share
        slopes[..., 2] = part * (1 - share)
        slopes[..., 3] = -slopes[..., 1] * self.n
        slopes[..., 4] = -slopes[..., 2] * self.d
        slopes[..., 5] = part * mixed
        return predicted - self.log_loss, slopes

    def _reducible(self, a: Array, b: Array, p: Array, q: Array, gamma: Array) -> tuple[Array, Array, Array]:
        """Return ln of the reducible loss, the share of the N term in the inner sum, and d ln / d gamma, (S, n)
        each."""
        by_params, by_tokens = a - p * self.n, b - q * self.d
        difference = np.clip((by_params - by_tokens) / gamma, -700, 700)
        share = 1 / (1 + np.exp(-difference))
        reducible = gamma * np.logaddexp(by_params / gamma, by_tokens / gamma)
        return reducible, share, (reducible - share * by_params - (1 - share) * by_tokens) / gamma


def fit_huber(points: Points, gamma: float | None = 1.0, starts: int = STARTS, delta: float = HUBER_DELTA) -> Fit:
    """Fit a law by minimising Huber's loss of the errors of ln L (Hoffmann et al. 2022, approach 3).

    If `gamma` is None, it is fitted too.
    """
    model = Model(points)
    solved = solve.minimise(model.residuals, model.starts(gamma, starts), model.bounds(gamma), delta)
    return _best(model, solved, [model.law(theta) for theta in solved.theta])


def fit_projected(points: Points, gamma: float | None = 1.0, starts: int = STARTS) -> Fit:
    """Fit a law by least squares of relative errors, by variable projection (Golub and Pereyra 1973)."""
    projected = Projected(points)
    model = projected.model
    begun = model.starts(gamma, starts)
    lower, upper = model.bounds(gamma)
    if gamma == 1.0:
        outer, bounds = begun[:, 3:5], (lower[3:5], upper[3:5])
        solved = solve.minimise(projected.three, outer, bounds)
    else:
        outer = np.concatenate([begun[:, 3:], (begun[:, 2] - begun[:, 1])[:, None]], axis=1)
        bounds = np.append(lower[3:], -40.0), np.append(upper[3:], 40.0)
        solved = solve.minimise(projected.two, outer, bounds)
    return _best(model, solved, [projected.law(theta) for theta in solved.theta])


def _best(model: Model, solved: solve.Solved, laws: Sequence[Law]) -> Fit:
    best = int(np.argmin(solved.value))
    least = solved.value[best]
    reached = int((solved.value <= least * (1 + SAME) + 1e-18).sum())
    return Fit(laws[best], float(least), len(laws), reached, model.at_bound(laws[best]))


def robust_sd(errors: Array, constants: int) -> float:
    """Return 1.4826 times the median absolute error, without the `constants` smallest errors.

    A fit by absolute errors passes through as many points as it has constants. These say nothing about the noise
    (McKean and Schrader 1987).
    """
    return 1.4826 * float(np.median(np.sort(np.abs(errors))[constants:]))


class Projected:
    """The search over exponents alone. For given exponents, the linear constants are a non-negative least-squares
    problem.

    With gamma = 1 the linear constants are (E, A, B) for given (alpha, beta). Otherwise they are (E, K) for given
    (p, q, gamma, b - a), where L = E + K (...)^gamma. Derivatives are those of Kaufman (1975): -P (d basis / d theta)
    c, where P projects onto the complement of the columns with non-zero constants.
    """

    def __init__(self, points: Points) -> None:
        self.model = Model(points)
        self.relative = 1 / points.loss

    def three(self, theta: Array) -> tuple[Array, Array]:
        """Return residuals and derivatives by (alpha, beta)."""
        basis = self._three(theta)
        slopes = np.zeros((2, *basis.shape))
        slopes[0, ..., 1] = -self.model.n * basis[..., 1]
        slopes[1, ..., 2] = -self.model.d * basis[..., 2]
        return self._projected(basis, slopes)

    def two(self, theta: Array) -> tuple[Array, Array]:
        """Return residuals and derivatives by (p, q, gamma, b - a)."""
        basis, share, mixed = self._two(theta)
        slopes = np.zeros((4, *basis.shape))
        slopes[0, ..., 1] = -share * self.model.n * basis[..., 1]
        slopes[1, ..., 1] = -(1 - share) * self.model.d * basis[..., 1]
        slopes[2, ..., 1] = mixed * basis[..., 1]
        slopes[3, ..., 1] = (1 - share) * basis[..., 1]
        return self._projected(basis, slopes)

    def law(self, theta: Array) -> Law:
        """Return the law at the outer parameters of either search."""
        if len(theta) == 2:
            irreducible, a, b = nonnegative(self._three(theta[None]))[0]
            p, q, gamma = theta[0], theta[1], 1.0
        else:
            irreducible, scale = nonnegative(self._two(theta[None])[0])[0]
            p, q, gamma, ratio = theta
            a, b = scale, scale * np.exp(ratio)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log([irreducible, a, b]), self.model.bounds(None)[0][:3])
        return self.model.law(np.array([*logs, p, q, gamma]))

    def _three(self, theta: Array) -> Array:
        model = self.model
        columns = [np.ones((len(theta), len(model.n))), np.exp(-theta[:, 0, None] * model.n)]
        return np.stack([*columns, np.exp(-theta[:, 1, None] * model.d)], axis=-1) * self.relative[:, None]

    def _two(self, theta: Array) -> tuple[Array, Array, Array]:
        p, q, gamma, ratio = (theta[:, i, None] for i in range(4))
        reducible, share, mixed = self.model._reducible(np.zeros_like(p), ratio, p, q, gamma)
        basis = np.stack([np.ones_like(reducible), np.exp(reducible)], axis=-1) * self.relative[:, None]
        return basis, share, mixed

    def _projected(self, basis: Array, slopes: Array) -> tuple[Array, Array]:
        constants = nonnegative(basis)
        errors = np.einsum("snk,sk->sn", basis, constants) - 1
        directions = np.einsum("jsnk,sk->snj", slopes, constants)
        used = basis * (constants > 0)[:, None, :]
        scaled = used / np.maximum(np.linalg.norm(used, axis=1, keepdims=True), 1e-300)
        gram = scaled.transpose(0, 2, 1) @ scaled + 1e-13 * np.eye(scaled.shape[2])
        directions -= scaled @ np.linalg.solve(gram, scaled.transpose(0, 2, 1) @ directions)
        return errors, directions


def nonnegative(basis: Array) -> Array:
    """Solve many non-negative least-squares problems of 1 on few columns at once: (S, n, k) to (S, k).

    Every subset of the columns is solved, and the best feasible solution is kept. For two or three columns this is
    exact and fast.
    """
    norms = np.maximum(np.linalg.norm(basis, axis=1), 1e-300)
    scaled = basis / norms[:, None, :]
    gram = scaled.transpose(0, 2, 1) @ scaled
    right = scaled.sum(axis=1)
    count, size = right.shape
    best, constants = np.zeros(count), np.zeros((count, size))
    for subset in range(1, 1 << size):
        chosen = [i for i in range(size) if subset >> i & 1]
        system = gram[:, chosen][:, :, chosen] + 1e-14 * np.eye(len(chosen))
        subset_solution = np.linalg.solve(system, right[:, chosen][..., None])[..., 0]
        explained = np.einsum("sk,sk->s", subset_solution, right[:, chosen])
        better = (subset_solution > 0).all(axis=1) & (explained > best)
        best = np.where(better, explained, best)
        solution = np.zeros((count, size))
        solution[:, chosen] = subset_solution
        constants = np.where(better[:, None], solution, constants)
    return constants / norms

"""Estimates of a law's constants: Huber's function of errors of ln L, and variable projection of relative errors.

Both start from the same quasi-random points, all at once. Inside, lengths are measured from the table's mean ln N and
ln D, and (A/N^alpha + B/D^beta)^gamma is a smooth maximum of two power laws, which keeps the problem well conditioned.
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
"""Two starts reached the same optimum where their sums differ by less than this share."""
EXPONENTS = (0.005, 2.0)
"""Bounds of gamma alpha and of gamma beta, the exponents that each term of the loss has far from the other one."""
GAMMAS = (0.1, 10.0)
TERMS = (-25.0, 5.0)
"""Bounds of what either term contributes at the mean ln N and ln D, as ln of its ratio to the least loss. With these
bounds, A and B are numbers that a double can hold."""
FLOOR = 1e-11
"""Least E, as a share of the least loss: an E that ends there cannot be told from 0."""


@dataclass(frozen=True)
class Points:
    """What a law is fitted to: a row for each run."""

    params: Array
    tokens: Array
    loss: Array

    def __len__(self) -> int:
        return len(self.params)

    def take(self, which: npt.NDArray[Any]) -> Points:
        """Some of the runs, by index or mask."""
        return Points(self.params[which], self.tokens[which], self.loss[which])

    @property
    def flops(self) -> Array:
        return 6.0 * self.params * self.tokens


@dataclass(frozen=True)
class Fit:
    """A law with how it was found."""

    law: Law
    value: float
    """The objective at the optimum."""
    starts: int
    reached: int
    """How many starts ended at this optimum."""
    at_bound: tuple[str, ...] = ()
    """Constants that ended at a bound of the search: the table does not identify them."""


class Model:
    """The law over a table in the parameters of the search: (e, a, b, p, q, gamma), shape (S, 6).

    e = ln E; p = gamma alpha and q = gamma beta; a and b are the logarithms of what the two terms alone would
    contribute to the loss at the mean ln N and ln D of the table: a = gamma (ln A - alpha mean(ln N)).
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
        """Sobol points in E, both exponents, the shares of both terms, and gamma; the same ones every time."""
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
        """ln of predicted over measured loss (S, n), and its derivatives (S, n, 6)."""
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
        """ln of the reducible loss, the share of the term of N in the inner sum, and d ln / d gamma; (S, n) each."""
        by_params, by_tokens = a - p * self.n, b - q * self.d
        difference = np.clip((by_params - by_tokens) / gamma, -700, 700)
        share = 1 / (1 + np.exp(-difference))
        reducible = gamma * np.logaddexp(by_params / gamma, by_tokens / gamma)
        return reducible, share, (reducible - share * by_params - (1 - share) * by_tokens) / gamma


def fit_huber(points: Points, gamma: float | None = 1.0, starts: int = STARTS, delta: float = HUBER_DELTA) -> Fit:
    """The law whose errors of ln L have the least sum of Huber's function (Hoffmann et al. 2022, approach 3).

    With `gamma` None, gamma is fitted too.
    """
    model = Model(points)
    begun = model.starts(gamma, starts)
    solved = solve.minimise(model.residuals, begun, model.bounds(gamma), delta)
    return _best(model, solved, [model.law(theta) for theta in solved.theta])


def fit_projected(points: Points, gamma: float | None = 1.0, starts: int = STARTS) -> Fit:
    """The law whose relative errors have the least sum of squares, by variable projection (Golub and Pereyra 1973)."""
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
    """1.4826 times the median absolute error, without the smallest ones.

    A fit by absolute errors passes through as many points as it has constants, which say nothing about the noise
    (McKean and Schrader 1987).
    """
    return 1.4826 * float(np.median(np.sort(np.abs(errors))[constants:]))


class Projected:
    """The search over exponents alone: for given ones, what enters linearly is a non-negative least-squares problem.

    With gamma = 1 that is (E, A, B) for given (alpha, beta); else (E, K) for given (p, q, gamma, b - a), where
    L = E + K (...)^gamma. Derivatives are Kaufman's (1975): -P (d basis / d theta) c, with P the projection away from
    the columns that are not zero.
    """

    def __init__(self, points: Points) -> None:
        self.model = Model(points)
        self.relative = 1 / points.loss

    def three(self, theta: Array) -> tuple[Array, Array]:
        """Residuals and derivatives by (alpha, beta)."""
        basis = self._three(theta)
        slopes = np.zeros((2, *basis.shape))
        slopes[0, ..., 1] = -self.model.n * basis[..., 1]
        slopes[1, ..., 2] = -self.model.d * basis[..., 2]
        return self._projected(basis, slopes)

    def two(self, theta: Array) -> tuple[Array, Array]:
        """Residuals and derivatives by (p, q, gamma, b - a)."""
        basis, share, mixed = self._two(theta)
        slopes = np.zeros((4, *basis.shape))
        slopes[0, ..., 1] = -share * self.model.n * basis[..., 1]
        slopes[1, ..., 1] = -(1 - share) * self.model.d * basis[..., 1]
        slopes[2, ..., 1] = mixed * basis[..., 1]
        slopes[3, ..., 1] = (1 - share) * basis[..., 1]
        return self._projected(basis, slopes)

    def law(self, theta: Array) -> Law:
        """The law at outer parameters of either search."""
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
    """Non-negative least squares of 1 on few columns, many problems at once: (S, n, k) to (S, k).

    Every set of columns is solved and the best feasible one kept, which for two or three columns is exact and quick.
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
        found = np.linalg.solve(system, right[:, chosen][..., None])[..., 0]
        explained = np.einsum("sk,sk->s", found, right[:, chosen])
        better = (found > 0).all(axis=1) & (explained > best)
        best = np.where(better, explained, best)
        solution = np.zeros((count, size))
        solution[:, chosen] = found
        constants = np.where(better[:, None], solution, constants)
    return constants / norms

"""Statistics of features from exact sums, which merge to the same numbers in any order of shards.

A stored value is an integer multiple of 2^-24, and a product of two is one of 2^-48. Sums are integers in these units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import safetensors.numpy

from manifests.products import MOST_DIM, Products
from manifests.stored import Stored

BLOCK = 2048
"""Frames whose products are summed by one call of BLAS."""
BITS = 21
"""Bits to which values are rounded for that: BLOCK * (2^BITS)^2 is 2^53, so float64 holds each sum exactly."""


@dataclass
class Statistics:
    """Exact sums over frames of each value and of the products of each pair of values, and the extrema."""

    count: int = 0
    """The number of frames, over all tracks."""
    total: list[int] = field(default_factory=list)
    """The sum of each value, in units of 2^-24."""
    square: list[int] = field(default_factory=list)
    """The sum of the square of each value, in units of 2^-48."""
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    products: Products | None = None
    """None without any frame, and for encoders with more than MOST_DIM values per frame."""
    error_square: list[int] = field(default_factory=list)
    """The sum of the squared errors of each value that int8 has made, in units of 2^-48; empty for float16."""
    error_high: list[float] = field(default_factory=list)
    """The largest of these errors of each value."""

    def without_products(self) -> dict[str, Any]:
        """All fields except the products, as JSON stores them. The errors of int8 are left out if there are none."""
        stored = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "products"}
        return {name: value for name, value in stored.items() if value or not name.startswith("error_")}

    def merge(self, other: Statistics) -> None:
        """Add the sums over other frames."""
        if not other.count:
            return
        if not self.count:
            self.total, self.square = list(other.total), list(other.square)
            self.low, self.high = list(other.low), list(other.high)
            self.products = other.products and other.products.copy()
            self.error_square, self.error_high = list(other.error_square), list(other.error_high)
        else:
            self.total = [a + b for a, b in zip(self.total, other.total, strict=True)]
            self.square = [a + b for a, b in zip(self.square, other.square, strict=True)]
            self.low = list(map(min, self.low, other.low))
            self.high = list(map(max, self.high, other.high))
            self.error_square = [a + b for a, b in zip(self.error_square, other.error_square, strict=True)]
            self.error_high = list(map(max, self.error_high, other.error_high))
            if self.products and other.products:
                self.products.merge(other.products)
            else:
                self.products = None
        self.count += other.count

    def arrays(self) -> dict[str, np.ndarray]:
        """Compute the arrays of `stats.safetensors`.

        They are mean, variance (population), min and max, float64 (dim,), and count, int64 (1,). With products they
        are also covariance (population), float64 (dim, dim), its eigenvalues, float64 (dim,) in descending order, and
        its eigenvectors, the columns of a float64 (dim, dim). `(x - mean) @ eigenvectors / sqrt(eigenvalues)` is white.
        If int8 is stored, int8_rms and int8_max, float64 (dim,), are the root mean square and the maximum of its error.
        """
        count = max(1, self.count)
        mean = [value / (count << 24) for value in self.total]
        variance = [(s * count - t * t) / (count * count << 48) for s, t in zip(self.square, self.total, strict=True)]
        named = {"mean": mean, "variance": variance, "min": self.low, "max": self.high}
        if self.error_square:
            named["int8_rms"] = [math.sqrt(value / (count << 48)) for value in self.error_square]
            named["int8_max"] = self.error_high
        arrays = {name: np.array(values, np.float64) for name, values in named.items()}
        arrays["count"] = np.array([self.count], np.int64)
        if self.products:
            covariance = self.products.covariance(count, self.total)
            eigenvalues, eigenvectors = spectrum(covariance)
            arrays |= {"covariance": covariance, "eigenvalues": eigenvalues, "eigenvectors": eigenvectors}
        return arrays


def spectrum(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of a covariance, float64 (dim, dim), in descending order, and its eigenvectors as columns.

    No eigenvalue is below 0, and the largest entry of each eigenvector is positive. One thread computes them, because
    the last bits would depend on the number of threads. They may still differ between kinds of processors.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)
    return values, np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))


class Summing:
    """Collects frames and sums them in blocks, which is much cheaper than window by window."""

    def __init__(self) -> None:
        self._sums = Statistics()
        self._waiting: list[np.ndarray] = []
        self._frames = 0
        self._error_square: list[int] = []
        self._error_high: list[float] = []

    def add(self, stored: Stored) -> None:
        """Add the frames of a window, whose array the caller must not change afterwards."""
        if stored.int8 is not None:
            self._add_errors(stored.squared_errors(), stored.largest_errors())
        values = stored.values()
        self._wait(values.reshape(-1, values.shape[-1]))

    def take(self, other: Summing) -> None:
        """Add everything that was added to another Summing, which must not be used any more."""
        self._sums.merge(other._sums)
        self._add_errors(other._error_square, other._error_high)
        for rows in other._waiting:
            self._wait(rows)

    def statistics(self) -> Statistics:
        """The statistics of everything that was added so far."""
        self._sum(0)
        return replace(self._sums, error_square=self._error_square, error_high=self._error_high)

    def _add_errors(self, square: list[int], high: list[float]) -> None:
        if self._error_square and square:
            square = [a + b for a, b in zip(self._error_square, square, strict=True)]
            high = list(map(max, self._error_high, high))
        self._error_square, self._error_high = square or self._error_square, high or self._error_high

    def _wait(self, rows: np.ndarray) -> None:
        self._waiting.append(rows)
        self._frames += len(rows)
        if self._frames >= BLOCK:
            self._sum(self._frames % BLOCK)

    def _sum(self, left: int) -> None:
        """Sum the waiting frames, except the last `left` ones."""
        if self._frames > left:
            rows = np.concatenate(self._waiting)
            end = len(rows) - left
            for first in range(0, end, BLOCK):
                self._sums.merge(_sum_block(rows[first : min(end, first + BLOCK)]))
            self._waiting, self._frames = [rows[end:].copy()], left


def _sum_block(rows: np.ndarray) -> Statistics:
    """The sums over up to BLOCK frames, float16 or float32 (frames, dim).

    Each value is split into a coarse part, rounded to BITS bits below the largest value, and a remainder, which is
    mostly zero. BLAS sums the products of these parts in any order without rounding.
    """
    assert len(rows) <= BLOCK
    values = rows.astype(np.float64)
    low, high = values.min(0), values.max(0)
    # Every value is below 2^(exponent + BITS) units, and the remainder is at most half of 2^exponent. The exponent is
    # at most 20, since values end at 2^17.
    _, bits = np.frexp(max(high.max(), -low.min()))
    exponent = max(0, int(bits) + 24 - BITS)
    magic = 1.5 * 2.0 ** (52 + exponent - 24)  # adding it rounds to multiples of 2^exponent units
    coarse = (values + magic) - magic
    values -= coarse
    uneven = values.any(axis=1)  # frames with a remainder
    fine, rest = values[uneven] * 2.0**24, coarse[uneven] * 2.0 ** (24 - exponent)
    coarse *= 2.0 ** (24 - exponent)
    total = [(one << exponent) + other for one, other in zip(_whole(coarse.sum(0)), _whole(fine.sum(0)), strict=True)]
    if rows.shape[1] > MOST_DIM:
        parts = [np.einsum("ij,ij->j", a, b) for a, b in ((coarse, coarse), (rest, fine), (fine, fine))]
        square = [(a << 2 * exponent) + (b << exponent + 1) + c for a, b, c in zip(*map(_whole, parts), strict=True)]
        return Statistics(len(rows), total, square, low.tolist(), high.tolist())
    products = Products.zero(rows.shape[1])
    products.add((coarse.T @ coarse).astype(np.int64), 2 * exponent)
    if len(fine):
        cross = rest.T @ fine
        products.add((cross + cross.T).astype(np.int64), exponent)
        products.add((fine.T @ fine).astype(np.int64), 0)
    return Statistics(len(rows), total, products.diagonal(), low.tolist(), high.tolist(), products)


def _whole(values: np.ndarray) -> list[int]:
    return [int(value) for value in values.tolist()]


def statistics_file(statistics: Mapping[str, Statistics]) -> bytes:
    """The bytes of `stats.safetensors`: the arrays of `Statistics.arrays` of each split, such as `train.mean`.

    The arrays of the default split are also there without a prefix, for trainers to normalise with. It is `train`, so
    that no test data enters the normalisation; without `train` it is the split with the most frames.
    """
    by_split = {split: sums.arrays() for split, sums in statistics.items()}
    arrays = {f"{split}.{name}": array for split, named in by_split.items() for name, array in named.items()}
    if statistics:
        default = max(statistics, key=lambda split: (split == "train", statistics[split].count, split))
        return safetensors.numpy.save(arrays | by_split[default], {"default_split": default})
    return safetensors.numpy.save(arrays)


def different(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield the names of the arrays in which two `stats.safetensors` differ.

    Eigenvalues may differ by rounding. Eigenvectors of close eigenvalues are not unique; therefore the check is that
    they are orthonormal and reproduce the covariance.
    """
    for name in sorted(found.keys() | expected.keys()):
        prefix, eigen, part = name.rpartition("eigen")
        if name not in found or name not in expected or found[name].shape != expected[name].shape:
            yield name
        elif eigen:
            values, given = expected[f"{prefix}eigenvalues"], found[name]
            near = 1e-12 * max(10, len(values))
            pairs = [(given, values, values.max())]
            if part == "vectors":
                identity, covariance = np.eye(len(values)), expected[f"{prefix}covariance"]
                pairs = [(given.T @ given, identity, 1.0), (given * values @ given.T, covariance, values.max())]
            if not all(np.allclose(one, other, rtol=0, atol=near * scale) for one, other, scale in pairs):
                yield name
        elif not np.array_equal(found[name], expected[name]):
            yield name

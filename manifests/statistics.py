"""Statistics of features: exact sums, so that shards are merged in any order to the same numbers, and what they give.

A float16 is a whole multiple of 2^-24 and a product of two of 2^-48: sums are kept as whole numbers of those units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import safetensors.numpy

from manifests.products import MOST_DIM, Products

BLOCK = 2048
"""Frames whose products are summed at once,"""
BITS = 21
"""of values that were rounded to so many bits: BLOCK * (2^BITS)^2 is 2^53, so float64 holds each sum exactly."""


@dataclass
class Statistics:
    """Exact sums over frames, of each value and of the products of each two, and the extrema."""

    count: int = 0
    """Frames, over all tracks."""
    total: list[int] = field(default_factory=list)
    """Sum of each value, in units of 2^-24,"""
    square: list[int] = field(default_factory=list)
    """and of its square, in units of 2^-48."""
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    products: Products | None = None
    """None without a frame, and for encoders of more than MOST_DIM values."""

    def told(self) -> dict[str, Any]:
        """All but the products, for JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "products"}

    def merge(self, other: Statistics) -> None:
        """Add the sums over other frames."""
        if not other.count:
            return
        if not self.count:
            self.total, self.square = list(other.total), list(other.square)
            self.low, self.high = list(other.low), list(other.high)
            self.products = other.products and other.products.copy()
        else:
            self.total = [a + b for a, b in zip(self.total, other.total, strict=True)]
            self.square = [a + b for a, b in zip(self.square, other.square, strict=True)]
            self.low = list(map(min, self.low, other.low))
            self.high = list(map(max, self.high, other.high))
            if self.products and other.products:
                self.products.merge(other.products)
            else:
                self.products = None
        self.count += other.count

    def arrays(self) -> dict[str, np.ndarray]:
        """What the sums give.

        mean, variance (population), min and max, float64 (dim,); count, int64 (1,). Where products were kept:
        covariance (population), float64 (dim, dim), its eigenvalues, float64 (dim,) from the largest on, and its
        eigenvectors, the columns of a float64 (dim, dim). `(x - mean) @ eigenvectors / sqrt(eigenvalues)` is white.
        """
        count = max(1, self.count)
        mean = [value / (count << 24) for value in self.total]
        variance = [(s * count - t * t) / (count * count << 48) for s, t in zip(self.square, self.total, strict=True)]
        named = {"mean": mean, "variance": variance, "min": self.low, "max": self.high}
        arrays = {name: np.array(values, np.float64) for name, values in named.items()}
        arrays["count"] = np.array([self.count], np.int64)
        if self.products:
            covariance = self.products.covariance(count, self.total)
            eigenvalues, eigenvectors = spectrum(covariance)
            arrays |= {"covariance": covariance, "eigenvalues": eigenvalues, "eigenvectors": eigenvectors}
        return arrays


def spectrum(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues from the largest on, none below 0, and eigenvectors as columns, of a covariance, float64 (dim, dim).

    Each eigenvector's largest entry is positive. Computed by one thread: with several the last bits would depend on
    how many there are. On processors of another kind they may still differ.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)
    return values, np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))


class Summing:
    """Gathers frames and sums them in blocks, which costs much less than window by window."""

    def __init__(self) -> None:
        self._sums = Statistics()
        self._waiting: list[np.ndarray] = []
        self._frames = 0

    def add(self, features: np.ndarray) -> None:
        """float16 (..., dim), finite; not to be changed afterwards."""
        self._wait(features.reshape(-1, features.shape[-1]))

    def take(self, other: Summing) -> None:
        """Add all that another one was given; that one is not to be used any more."""
        self._sums.merge(other._sums)
        for rows in other._waiting:
            self._wait(rows)

    def statistics(self) -> Statistics:
        """Of all that was added so far."""
        self._sum(0)
        return self._sums

    def _wait(self, rows: np.ndarray) -> None:
        self._waiting.append(rows)
        self._frames += len(rows)
        if self._frames >= BLOCK:
            self._sum(self._frames % BLOCK)

    def _sum(self, left: int) -> None:
        """Sum what waits, but for so many frames that wait on."""
        if self._frames > left:
            rows = np.concatenate(self._waiting)
            end = len(rows) - left
            for first in range(0, end, BLOCK):
                self._sums.merge(_of_block(rows[first : min(end, first + BLOCK)]))
            self._waiting, self._frames = [rows[end:].copy()], left


def _of_block(rows: np.ndarray) -> Statistics:
    """The sums over up to BLOCK frames, float16 (frames, dim).

    Each value is taken apart into one that was rounded to BITS bits of the largest one, and a rest that is mostly zero.
    Products of these are summed by BLAS, without any rounding, in whichever order.
    """
    assert len(rows) <= BLOCK
    values = rows.astype(np.float64)
    low, high = values.min(0), values.max(0)
    # Every value is below 2^(exponent + BITS) units, and the rest at most half of 2^exponent: float16 ends at 2^16, so
    # exponent is 19 at most.
    _, bits = np.frexp(max(high.max(), -low.min()))
    exponent = max(0, int(bits) + 24 - BITS)
    magic = 1.5 * 2.0 ** (52 + exponent - 24)  # adding it rounds to multiples of 2^exponent units
    coarse = (values + magic) - magic
    values -= coarse
    some = values.any(axis=1)
    fine, beside = values[some] * 2.0**24, coarse[some] * 2.0 ** (24 - exponent)
    coarse *= 2.0 ** (24 - exponent)
    total = [(one << exponent) + other for one, other in zip(_whole(coarse.sum(0)), _whole(fine.sum(0)), strict=True)]
    if rows.shape[1] > MOST_DIM:
        parts = [np.einsum("ij,ij->j", a, b) for a, b in ((coarse, coarse), (beside, fine), (fine, fine))]
        square = [(a << 2 * exponent) + (b << exponent + 1) + c for a, b, c in zip(*map(_whole, parts), strict=True)]
        return Statistics(len(rows), total, square, low.tolist(), high.tolist())
    products = Products.zero(rows.shape[1])
    products.add((coarse.T @ coarse).astype(np.int64), 2 * exponent)
    if len(fine):
        cross = beside.T @ fine
        products.add((cross + cross.T).astype(np.int64), exponent)
        products.add((fine.T @ fine).astype(np.int64), 0)
    return Statistics(len(rows), total, products.diagonal(), low.tolist(), high.tolist(), products)


def _whole(values: np.ndarray) -> list[int]:
    return [int(value) for value in values.tolist()]


def statistics_file(statistics: Mapping[str, Statistics]) -> bytes:
    """`stats.safetensors`: of each split `<split>.mean` and so on, the arrays of `Statistics.arrays`; and without a
    prefix those of the split by which trainers normalise.

    That is `train`, so that nothing of what a model is tested on enters its normalisation; without such a split it is
    the one with the most frames.
    """
    of_splits = {split: of_split.arrays() for split, of_split in statistics.items()}
    arrays = {f"{split}.{name}": array for split, found in of_splits.items() for name, array in found.items()}
    if statistics:
        default = max(statistics, key=lambda split: (split == "train", statistics[split].count, split))
        return safetensors.numpy.save(arrays | of_splits[default], {"default_split": default})
    return safetensors.numpy.save(arrays)


def different(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Iterator[str]:
    """The names under which one `stats.safetensors` holds something else than another one.

    Eigenvalues may be apart by rounding. Where two of them are near to each other their eigenvectors are free to turn,
    so that of these is compared whether they are orthonormal and give the covariance.
    """
    for name in sorted(found.keys() | expected.keys()):
        of, eigen, part = name.rpartition("eigen")
        if name not in found or name not in expected or found[name].shape != expected[name].shape:
            yield name
        elif eigen:
            values, given = expected[f"{of}eigenvalues"], found[name]
            near = 1e-12 * max(10, len(values))
            pairs = [(given, values, values.max())]
            if part == "vectors":
                identity, covariance = np.eye(len(values)), expected[f"{of}covariance"]
                pairs = [(given.T @ given, identity, 1.0), (given * values @ given.T, covariance, values.max())]
            if not all(np.allclose(one, other, rtol=0, atol=near * scale) for one, other, scale in pairs):
                yield name
        elif not np.array_equal(found[name], expected[name]):
            yield name

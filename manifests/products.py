"""Exact sums of products of feature values, from which covariances follow; the order of addition does not matter.

The product of two float16 values is an integer multiple of 2^-48, so a sum is stored as an integer in two int64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from manifests import schemas

MOST_DIM = 1024
"""Largest number of values per frame for which products are kept; more would be larger than many shards."""
DIGIT = 60
"""A sum is high * 2^DIGIT + low, with low from 0 to 2^DIGIT - 1; this is enough for 2^43 frames."""


@dataclass(eq=False)
class Products:
    """Sums over frames of the products of each pair of values, in units of 2^-48: a symmetric matrix."""

    high: np.ndarray
    """int64 (dim, dim); see DIGIT."""
    low: np.ndarray
    """int64 (dim, dim); see DIGIT."""

    @classmethod
    def zero(cls, dim: int) -> Products:
        """The sums over no frames."""
        return cls(np.zeros((dim, dim), np.int64), np.zeros((dim, dim), np.int64))

    @property
    def dim(self) -> int:
        """The number of values per frame."""
        return len(self.high)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Products):
            return NotImplemented
        return np.array_equal(self.high, other.high) and np.array_equal(self.low, other.low)

    def add(self, whole: np.ndarray, shift: int) -> None:
        """Add whole * 2^shift; `whole` is int64 (dim, dim), `shift` from 0 to 48."""
        kept = DIGIT - shift
        self._carry(whole >> kept, (whole & ((1 << kept) - 1)) << shift)

    def merge(self, other: Products) -> None:
        """Add the sums over other frames."""
        self._carry(other.high, other.low)

    def _carry(self, high: np.ndarray, low: np.ndarray) -> None:
        self.high += high
        self.low += low
        self.high += self.low >> DIGIT
        self.low &= (1 << DIGIT) - 1

    def copy(self) -> Products:
        """An independent copy."""
        return Products(self.high.copy(), self.low.copy())

    def diagonal(self) -> list[int]:
        """The sum of the squares of each value."""
        return _integers(np.diagonal(self.high), np.diagonal(self.low))

    def covariance(self, count: int, total: list[int]) -> np.ndarray:
        """The population covariance, float64 (dim, dim); each entry is the float64 nearest to the exact value.

        Args:
            count: The number of frames.
            total: The sum of each value over the frames, in units of 2^-24.
        """
        rows, columns = np.triu_indices(self.dim)
        sums = _integers(self.high[rows, columns], self.low[rows, columns])
        scale = count * count << 48
        covariance = np.empty((self.dim, self.dim))
        covariance[rows, columns] = [
            (value * count - total[i] * total[j]) / scale
            for value, i, j in zip(sums, rows.tolist(), columns.tolist(), strict=True)
        ]
        covariance[columns, rows] = covariance[rows, columns]
        return covariance

    def table(self) -> pa.Table:
        """The upper triangle, row by row, as a table (PRODUCTS schema)."""
        upper = np.triu_indices(self.dim)
        return pa.table([self.high[upper], self.low[upper]], schema=schemas.PRODUCTS)

    @classmethod
    def of_table(cls, table: pa.Table) -> Products | None:
        """The sums in a table that `table` made; None if it has no rows. Raises ValueError if it is no triangle."""
        if not len(table):
            return None
        dim = (math.isqrt(8 * len(table) + 1) - 1) // 2
        if dim * (dim + 1) // 2 != len(table) or dim > MOST_DIM:
            raise ValueError(f"{len(table):,} rows are no triangle of up to {MOST_DIM:,} values per frame")
        low = table["low"].to_numpy()
        if low.min() < 0 or low.max() >> DIGIT:
            raise ValueError(f"low must be from 0 to 2^{DIGIT} - 1")
        products = cls.zero(dim)
        upper = np.triu_indices(dim)
        for matrix, column in ((products.high, table["high"].to_numpy()), (products.low, low)):
            matrix[upper] = column
            matrix.T[upper] = column
        return products


def _integers(high: np.ndarray, low: np.ndarray) -> list[int]:
    return [(one << DIGIT) + other for one, other in zip(high.tolist(), low.tolist(), strict=True)]

"""Estimates from a sample of recordings, and how far they may be off: the ratio estimator of survey sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """An amount a second of sound, from sums over `count` recordings that were drawn at random.

    The sum of the amounts over the sum of the seconds. Recordings, not seconds, are what was drawn: what varies is how
    far each recording's amount is from the ratio times its own length (W. G. Cochran, Sampling Techniques, chapter 6).
    """

    count: int
    seconds: float
    seconds_squared: float
    total: float
    squared: float
    """Sum of the squares of the amounts, and"""
    with_seconds: float
    """of their products with the seconds."""

    @property
    def value(self) -> float:
        return self.total / self.seconds if self.seconds else 0.0

    @property
    def deviation_s(self) -> float:
        """Standard deviation of a recording's amount about the ratio times its length; infinite for under two."""
        if self.count < 2:
            return math.inf
        ratio = self.value
        squares = self.squared - 2 * ratio * self.with_seconds + ratio * ratio * self.seconds_squared
        return math.sqrt(max(0.0, squares) / (self.count - 1))

    def standard_error(self, population: float = math.inf) -> float:
        """Of the value, where the recordings were drawn from `population` recordings without being put back."""
        if not self.seconds:
            return math.inf
        left = max(0.0, 1 - self.count / population)
        return self.deviation_s * math.sqrt(left * self.count) / self.seconds

    def half_width(self, confidence: float, population: float = math.inf) -> float:
        """Half of the interval that holds the truth with this confidence, by Student's t."""
        error = self.standard_error(population)
        return error * quantile(confidence, self.count - 1) if self.count > 1 else math.inf


def ratio_of(spent: Mapping[str, Any], name: str) -> Ratio:
    """The ratio of a quantity to the seconds, from the sums that a run's summary keeps under `spent`."""
    sums = spent["of"].get(name, {"total": 0.0, "squared": 0.0, "with_seconds": 0.0})
    known = (spent["observations"], spent["seconds"], spent["seconds_squared"])
    return Ratio(*known, sums["total"], sums["squared"], sums["with_seconds"])


def quantile(confidence: float, degrees: float = math.inf) -> float:
    """How many standard errors to each side hold the truth with this confidence: Student's t, or the normal one.

    >>> round(quantile(0.95), 2), round(quantile(0.95, 9), 2)
    (1.96, 2.26)
    """
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))

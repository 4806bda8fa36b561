"""The ratio estimator of survey sampling: estimates from a sample of recordings, with their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """An amount per second of sound, from sums over `count` recordings that were drawn at random.

    It is the sum of the amounts over the sum of the seconds. The sampling unit is the recording, not the second, so the
    error comes from the deviation of each recording's amount from the ratio times its length (W. G. Cochran, Sampling
    Techniques, chapter 6).
    """

    count: int
    seconds: float
    seconds_squared: float
    total: float
    squared: float
    """Sum of the squares of the amounts."""
    with_seconds: float
    """Sum of the products of amounts and seconds."""

    @property
    def value(self) -> float:
        return self.total / self.seconds if self.seconds else 0.0

    @property
    def deviation_s(self) -> float:
        """Standard deviation of a recording's amount around the ratio times its length; infinite below two
        recordings."""
        if self.count < 2:
            return math.inf
        ratio = self.value
        squares = self.squared - 2 * ratio * self.with_seconds + ratio * ratio * self.seconds_squared
        return math.sqrt(max(0.0, squares) / (self.count - 1))

    def standard_error(self, population: float = math.inf) -> float:
        """Return the standard error of the value, for a sample without replacement from `population` recordings."""
        if not self.seconds:
            return math.inf
        left = max(0.0, 1 - self.count / population)
        return self.deviation_s * math.sqrt(left * self.count) / self.seconds

    def half_width(self, confidence: float, population: float = math.inf) -> float:
        """Return half the width of the confidence interval, by Student's t."""
        error = self.standard_error(population)
        return error * quantile(confidence, self.count - 1) if self.count > 1 else math.inf


def ratio_of(spent: Mapping[str, Any], name: str) -> Ratio:
    """Return the ratio of a quantity to the seconds, from the sums under `spent` in the summary of a run."""
    sums = spent["of"].get(name, {"total": 0.0, "squared": 0.0, "with_seconds": 0.0})
    of_seconds = (spent["observations"], spent["seconds"], spent["seconds_squared"])
    return Ratio(*of_seconds, sums["total"], sums["squared"], sums["with_seconds"])


def quantile(confidence: float, degrees: float = math.inf) -> float:
    """Return the half width of a confidence interval in standard errors, by Student's t or the normal distribution.

    >>> round(quantile(0.95), 2), round(quantile(0.95, 9), 2)
    (1.96, 2.26)
    """
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))

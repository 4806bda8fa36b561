"""How sure the built-in diarization is of the number of speakers: a probability, calibrated on simulated conversations.

See `tests/bench/accuracy_diarize.py` for how it was fitted and docs/diarization.md for how well it holds.
"""

from __future__ import annotations

import numpy as np

from pipelines.stages.clustering import log_odds

WEIGHTS = (-1.47, 2.35, -0.1, -1.24)
"""Of a logistic regression: constant; mean confidence of the turns; log odds that the two most alike speakers are one;
logarithm of the number of speakers."""
LEAST_ODDS, MOST_ODDS = -10.0, 5.0
"""Bounds of the log odds; a single speaker counts as the least."""


def of_count(turn_confidence: float, centroids: np.ndarray, heard_s: np.ndarray) -> float:
    """Probability that the number of speakers is right.

    `turn_confidence` is the mean over the time of all turns, `centroids` are unit vectors (speakers, dimension) and
    `heard_s` the seconds of speech behind each (speakers,).
    """
    count = len(centroids)
    odds = log_odds(centroids @ centroids.T, heard_s[:, None], heard_s[None, :])
    alike = float(odds[np.triu_indices(count, 1)].max(initial=LEAST_ODDS))
    measured = (1.0, turn_confidence, min(alike, MOST_ODDS), float(np.log(count)))
    return float(1 / (1 + np.exp(-np.dot(WEIGHTS, measured))))

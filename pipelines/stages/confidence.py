"""The probability that the built-in diarization found the right number of speakers.

It was fitted to simulated conversations by `tests/bench/fit_confidence.py`; docs/diarization.md shows its calibration.
"""

from __future__ import annotations

import numpy as np

from pipelines.stages.clustering import log_odds

WEIGHTS = (0.27, 0.05, -0.12, -0.68)
"""Weights of a logistic regression: constant; mean confidence of the turns; log odds that the two most similar speakers
are one; logarithm of the number of speakers."""
SIDE_WEIGHTS = (4.14, 2.09, 0.48, -0.99)
"""The same for the number of speakers on one side of a conversation."""
LEAST_ODDS, MOST_ODDS = -10.0, 5.0
"""Bounds of the log odds; the lower one also stands for a recording with one speaker."""


def of_count(turn_confidence: float, centroids: np.ndarray, speech_s: np.ndarray, of_side: bool = False) -> float:
    """Probability that the number of speakers is right, of a recording or of one side of a conversation.

    `turn_confidence` is the mean over the time of all turns. `centroids` are unit vectors (speakers, dimension), and
    `speech_s` the seconds of speech of each (speakers,).
    """
    return float(
        1
        / (1 + np.exp(-np.dot(SIDE_WEIGHTS if of_side else WEIGHTS, predictors(turn_confidence, centroids, speech_s))))
    )


def predictors(turn_confidence: float, centroids: np.ndarray, speech_s: np.ndarray) -> tuple[float, ...]:
    """What the weights are applied to."""
    count = len(centroids)
    odds = log_odds(centroids @ centroids.T, speech_s[:, None], speech_s[None, :])
    most_similar = float(odds[np.triu_indices(count, 1)].max(initial=LEAST_ODDS))
    return 1.0, turn_confidence, min(most_similar, MOST_ODDS), float(np.log(count))

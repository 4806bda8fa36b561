"""Leakage between tracks that each have a speaker of their own: where a track has only the speech of the others.

Pure functions of the levels of frames of 32 ms, averaged over 0.1 s.
"""

from __future__ import annotations

import numpy as np

FLOOR = 1e-8
"""Power that is added to each frame, -80 dB, so that digital silence has a level."""
ACTIVE_DB = 20.0
"""A track is active while its level is within this distance of its 95th percentile."""
DOMINANT_DB = 6.0
"""Leakage is measured where the loudest of the other tracks is louder than the track by at least this much."""
SPREAD_DB = 6.0
"""Levels that are higher than the leakage by more than this are the track's own speech."""
LEAST_FRAMES = 16
"""Fewer frames (0.5 s) do not tell how strong the leakage is."""
MARGIN_DB = 6.0
"""A frame is leakage up to this much above the measured leakage, whose level varies with room and sound. Between 3 and
8 dB the errors change little (docs/diarization.md)."""
HIGHEST_DB = -3.0
"""A track less than this below the others is never taken for leakage."""


def leaked(powers: np.ndarray) -> np.ndarray:
    """Whether the sound of each track is no louder than what leaks into it from the others: bool (tracks, frames).

    `powers` (tracks, frames) are mean squares of frames of 32 ms. The level of the leakage is measured in the recording
    itself and for each track, since the path into one track is not the path out of it. Where that is not possible,
    nothing is taken for leakage.
    """
    levels = _levels(powers)
    found = np.zeros(levels.shape, bool)
    for track in range(len(levels)):
        others = np.delete(levels, track, axis=0)
        if not others.size:
            continue
        loudest = others.max(axis=0)
        active = (others > np.percentile(others, 95, axis=1, keepdims=True) - ACTIVE_DB).any(axis=0)
        relative = levels[track] - loudest
        leakage_db = leakage(relative[active & (relative < -DOMINANT_DB)])
        if leakage_db is not None:
            found[track] = relative < min(leakage_db + MARGIN_DB, HIGHEST_DB)
    return found


def leakage(relative: np.ndarray) -> float | None:
    """The leakage in dB from levels (frames,) of a track relative to the others, while these are active; None if there
    are too few.

    Speech of the track at the same time raises its level. So the median starts at a low quantile, and frames more than
    `SPREAD_DB` above it are left out.
    """
    if relative.size < LEAST_FRAMES:
        return None
    estimate = float(np.percentile(relative, 25))
    for _ in range(10):  # it converges in a few iterations
        estimate = float(np.median(relative[relative < estimate + SPREAD_DB]))
    return estimate


def _levels(powers: np.ndarray) -> np.ndarray:
    """Levels in dB of powers, each averaged with its two neighbours."""
    if not powers.size:
        return powers
    padded = np.pad(powers, ((0, 0), (1, 1)), mode="edge")
    levels: np.ndarray = 10 * np.log10((padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3 + FLOOR)
    return levels

"""Objective distances between a reference and a reconstructed sound: log-mel distance, PESQ and STOI."""

from __future__ import annotations

import numpy as np
import soxr

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig

# The floor is just below speech. With a lower one, inaudible differences would dominate the distance.
FEATURES = LogMel(LogMelConfig(floor=1e-5))
PACKAGES = {"pesq": "pesq", "stoi": "hearing"}
"""The extra that installs the package of each measure that is not our own."""


def distances(reference: np.ndarray, sound: np.ndarray, sample_rate: int) -> dict[str, float | None]:
    """Measure the distances between two sounds, float32 (samples,) of equal length:

    - `log_mel`: mean absolute difference of log-mel features (80 bins, 80 to 7,600 Hz, floor 1e-5), in nepers of
      8.7 dB each; 0 for equal sounds.
    - `pesq`: wideband PESQ (ITU-T P.862.2, package pesq), from 1.0 (bad) to 4.6 (same as the reference).
    - `stoi`: intelligibility (package pystoi), from 0 to 1.

    PESQ and STOI compare waveforms sample by sample, so they judge a vocoder that estimates the phase too harshly. Each
    is None if its package is not installed or if it finds no speech.
    """
    measured: dict[str, float | None] = {"log_mel": log_mel_distance(reference, sound, sample_rate)}
    if not reference.any():  # PESQ and STOI would divide by its level
        return measured | {"pesq": None, "stoi": None}
    at_16_khz = [soxr.resample(samples, sample_rate, 16_000) for samples in (reference, sound)]
    return measured | {"pesq": _pesq(*at_16_khz), "stoi": _stoi(*at_16_khz)}


def log_mel_distance(reference: np.ndarray, sound: np.ndarray, sample_rate: int) -> float:
    """Return the distance `log_mel` of `distances`."""
    one, other = (
        FEATURES.encode([FEATURES.cut(samples[None], 0, FEATURES.frames(len(samples)))])[0]
        for samples in (soxr.resample(samples, sample_rate, FEATURES.sample_rate) for samples in (reference, sound))
    )
    return float(np.abs(one - other).mean())


def _pesq(reference: np.ndarray, sound: np.ndarray) -> float | None:
    try:
        from pesq import PesqError, pesq
    except ImportError:
        return None
    score = pesq(16_000, reference, sound, "wb", on_error=PesqError.RETURN_VALUES)
    return None if score < 0 or np.isnan(score) else float(score)


def _stoi(reference: np.ndarray, sound: np.ndarray) -> float | None:
    import warnings

    try:
        from pystoi import stoi
    except ImportError:
        return None
    with warnings.catch_warnings(record=True) as caught:  # with too little speech, stoi warns and returns 1e-5
        warnings.simplefilter("always")
        score = stoi(reference, sound, 16_000)
    return None if any("Not enough STFT frames" in str(warning.message) for warning in caught) else float(score)

"""How far a sound is from the one that it was made of: log-mel features, PESQ and STOI."""

from __future__ import annotations

import numpy as np
import soxr

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig

# A floor that speech lies above: below it, sound that nobody hears would decide.
FEATURES = LogMel(LogMelConfig(floor=1e-5))
PACKAGES = {"pesq": "pesq", "stoi": "hearing"}
"""The extra that brings each measure that is not our own."""


def distances(reference: np.ndarray, sound: np.ndarray, sample_rate: int) -> dict[str, float | None]:
    """Distances between two sounds, float32 (samples,) of equal length:

    - `log_mel`: mean absolute difference of log-mel features (80 bins, 80 to 7,600 Hz, floor 1e-5), in nepers, which
      are 8.7 dB each; 0 for equal sounds.
    - `pesq`: wideband PESQ (ITU-T P.862.2, package pesq), 1.0 (bad) to 4.6 (as the reference).
    - `stoi`: intelligibility (package pystoi), 0 to 1.

    The last two compare waveforms in step, and judge a vocoder that estimates the phase too harshly. Each is None where
    its package is not installed or where it finds no speech to judge.
    """
    found: dict[str, float | None] = {"log_mel": log_mel_distance(reference, sound, sample_rate)}
    if not reference.any():  # both would divide by its level
        return found | {"pesq": None, "stoi": None}
    wide = [soxr.resample(samples, sample_rate, 16_000) for samples in (reference, sound)]
    return found | {"pesq": _pesq(*wide), "stoi": _stoi(*wide)}


def log_mel_distance(reference: np.ndarray, sound: np.ndarray, sample_rate: int) -> float:
    """The distance `log_mel` of `distances`."""
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
    found = pesq(16_000, reference, sound, "wb", on_error=PesqError.RETURN_VALUES)
    return None if found < 0 or np.isnan(found) else float(found)


def _stoi(reference: np.ndarray, sound: np.ndarray) -> float | None:
    import warnings

    try:
        from pystoi import stoi
    except ImportError:
        return None
    with warnings.catch_warnings(record=True) as caught:  # it warns, and returns 1e-5, where there is too little speech
        warnings.simplefilter("always")
        found = stoi(reference, sound, 16_000)
    return None if any("Not enough STFT frames" in str(warning.message) for warning in caught) else float(found)

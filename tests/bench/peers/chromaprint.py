"""Chromaprint's fingerprints, taken by its program fpcalc, and their comparison by the share of bits that differ."""

from __future__ import annotations

import subprocess
import tempfile
import wave
from collections.abc import Sequence

import numpy as np

ITEMS = 24
"""Length of what is compared: 24 items of 32 bits, one each 0.124 s, so 3 s."""


def version() -> str:
    return subprocess.run(["fpcalc", "-version"], capture_output=True, text=True, check=True).stdout.strip()


def fingerprint(samples: np.ndarray, rate: int = 16000) -> np.ndarray:
    """The items of a mono sound, uint32 (n,)."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        with wave.open(file.name, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        told = subprocess.run(
            ["fpcalc", "-raw", "-length", "0", file.name], capture_output=True, text=True, check=False
        )  # a sound that is too short for an item is an error for it
    line = next((line for line in told.stdout.splitlines() if line.startswith("FINGERPRINT=")), "FINGERPRINT=")
    return np.array([int(item) for item in line.partition("=")[2].split(",") if item], np.uint32)


def bit_errors(items: np.ndarray, known: Sequence[np.ndarray]) -> np.ndarray:
    """Bit error rate to each known fingerprint, (len(known),): the least over all offsets and places of 3 s.

    It is 0.5, the rate of different sound, for fingerprints that are shorter than 3 s.
    """
    best = np.full(len(known), 0.5)
    if len(items) < ITEMS:
        return best
    for number, other in enumerate(known):
        if len(other) < ITEMS:
            continue
        sums = np.bitwise_count(items[:, None] ^ other[None]).astype(np.uint16)
        by_length = {1: sums}
        for length in (1, 2, 4, 8):  # sums along the diagonals, of twice the length each time
            half = by_length[length]
            by_length[2 * length] = half[:-length, :-length] + half[length:, length:]
        whole = by_length[16][:-8, :-8] + by_length[8][16:, 16:]
        best[number] = whole.min() / (32 * ITEMS)
    return best

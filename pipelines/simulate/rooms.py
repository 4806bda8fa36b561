"""Impulse responses of rooms, one for each position of a speaker. The reverberation is exponentially decaying noise.

The model is Polack's (La transmission de l'énergie sonore dans les salles, 1988; Kuttruff, Room Acoustics).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]
KINDS: dict[str, tuple[Range, Range]] = {
    "small": ((20, 60), (0.15, 0.4)),
    "medium": ((60, 200), (0.3, 0.8)),
    "large": ((200, 2000), (0.6, 1.5)),
}
"""The ranges of volume in cubic metres and of reverberation time in seconds of each kind of room."""
DISTANCES_M: Range = (0.3, 4.0)
"""Range of the distance from a speaker to the microphone in metres."""
ONSET_S: Range = (0.002, 0.008)
"""Time in seconds from the direct sound to the beginning of the reverberation."""
DECAY_DB = 60.0


@dataclass(frozen=True)
class Room:
    """The kind, volume and reverberation time of a room."""

    kind: str
    volume_m3: float
    rt60_s: float

    def direct_to_reverberant_db(self, distance_m: float) -> float:
        """Level of the direct sound relative to the reverberation, by the critical distance 0.057 * sqrt(V / RT60) of a
        diffuse field (Kuttruff)."""
        critical_m = 0.057 * math.sqrt(self.volume_m3 / self.rt60_s)
        return 20 * math.log10(critical_m / distance_m)

    def response(self, distance_m: float, rate: int, rng: np.random.Generator) -> np.ndarray:
        """The impulse response to a speaker at a distance, float32 (samples,), until it has decayed by 60 dB.

        The direct sound is the first sample, without a delay to the microphone, so that the times of dry speech are
        valid in the room. The energy is 1, so that a room hardly changes the level of speech.
        """
        onset = round(rng.uniform(*ONSET_S) * rate)
        count = round(self.rt60_s * rate)
        tail = rng.normal(size=count) * 10 ** (-DECAY_DB / 20 * np.arange(count) / count)
        energy = 10 ** (-self.direct_to_reverberant_db(distance_m) / 10)
        tail *= math.sqrt(energy / float(np.sum(tail**2)))
        response = np.concatenate([[1.0], np.zeros(onset), tail]) / math.sqrt(1 + energy)
        return response.astype(np.float32)


def drawn_room(kinds: Sequence[str], rng: np.random.Generator) -> Room | None:
    """Draw a room of one of the kinds, its volume on a logarithmic scale; None for 'dry'."""
    kind = str(rng.choice(kinds))
    if kind == "dry":
        return None
    volumes, times = KINDS[kind]
    volume = math.exp(rng.uniform(*np.log(volumes)))
    return Room(kind, round(volume, 1), round(float(rng.uniform(*times)), 3))

"""Sounds for tests: arrays and whole files at 16 kHz, behind the Sound contract of the stages."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled

RECORDINGS = Path(os.environ.get("SPEECHMILL_TEST_AUDIO", Path(__file__).resolve().parents[2] / "shared" / "audio"))
"""Folder of the real test recordings; it may be missing."""


def packaged_conversation() -> Path:
    """30 s of two speakers that ship inside pyannote.audio; found by path, since importing it decodes it."""
    spec = importlib.util.find_spec("pyannote.audio")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "sample" / "sample.wav"


class ArraySound:
    """An array, float32 (tracks, samples) at 16 kHz, as a Sound."""

    sample_rate = 16000

    def __init__(self, samples: np.ndarray, recording_id: str = "test") -> None:
        self.samples = np.atleast_2d(samples).astype(np.float32)
        self.recording_id = recording_id
        self.tracks, self.num_samples = self.samples.shape

    @classmethod
    def from_file(cls, path: Path) -> ArraySound:
        """All channels of a file as tracks."""
        decoder = Decoder(str(path))
        return cls(np.concatenate(list(resampled(decoder, decoder.sample_rate, 16000)), axis=1), path.stem)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.samples[:, start:stop]

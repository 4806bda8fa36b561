"""Speaker embeddings: a unit vector for a few seconds of one voice, similar for one speaker over channels and rooms.

The network is CAM++ (Wang et al., 2023, "CAM++: A fast and efficient network for speaker verification using
context-aware masking"), whose definition and weights ship inside one package. Imported by the diarize stage only:
everything here needs the `diarize` extra.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from pipelines.stages.clustering import unit
from runtime import models
from runtime.batches import batch_calls

SAMPLE_RATE = 16000
DIMENSION = 192
MELS = 80
HOP_SAMPLES = 160
WIDTH_SAMPLES = 400
LENGTHS = (50, 75, 100, 150, 200, 250, 300, 350, 400)
"""Numbers of frames of 10 ms that the network is given. Features are repeated from their beginning up to the next of
these, so that sounds of equal length share a batch; of more than the last number, the middle is taken."""
MIN_FRAMES = 12
"""Sounds with fewer frames have no embedding."""
CHANNELS = Path(__file__).parent / "channels.npz"
"""The directions in which channels move embeddings, see `Compensation`. Made by `tests/bench/fit_channels.py`."""


class Compensation:
    """Removes the effect of the channel from embeddings, so that one threshold serves telephones and studios.

    A telephone band, a codec or a room moves the embeddings of all voices in the same few directions, so that two
    voices on a telephone are as similar as one voice in two rooms. The mean over voices, and the part that lies in
    those directions, are subtracted from each embedding (nuisance attribute projection: Solomonoff et al., 2005,
    "Advances in channel compensation for SVM speaker recognition").
    """

    def __init__(self, mean: np.ndarray, directions: np.ndarray) -> None:
        """`mean` is (dimension,), `directions` are orthonormal (count, dimension)."""
        self.mean, self.directions = mean, directions

    @classmethod
    def packaged(cls) -> Compensation:
        """The compensation for CAM++, fitted on voices that were passed through codecs, rooms and noise."""
        with np.load(CHANNELS, allow_pickle=False) as saved:
            return cls(saved["mean"], saved["directions"])

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Compensated unit vectors of unit vectors (count, dimension)."""
        centred = vectors - self.mean
        return unit(centred - centred @ self.directions.T @ self.directions)


class SpeakerEmbedding:
    """The network on a device, called in batches of equal lengths."""

    def __init__(self, device: str, batch_size: int, threads: int) -> None:
        self.device = device
        self.model = load_embedding().to(device)
        self.compensate = Compensation.packaged()
        batch_calls(self.model, "diarize, embedding", batch_size, threads=threads)

    def __call__(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        """Compensated embeddings, float64 (count, DIMENSION), of features (frames, MELS) as `features` gives them.

        Rows with fewer than `MIN_FRAMES` frames are NaN.
        """
        vectors = np.full((len(sounds), DIMENSION), np.nan)
        of_length: dict[int, list[int]] = defaultdict(list)
        cut = {number: centre(sound) for number, sound in enumerate(sounds) if len(sound) >= MIN_FRAMES}
        for number, frames in cut.items():
            of_length[len(frames)].append(number)
        for _, numbers in sorted(of_length.items()):
            batch = torch.from_numpy(np.stack([cut[number] for number in numbers])).to(self.device)
            vectors[numbers] = self.compensate(unit(self.model(batch).cpu().numpy().astype(np.float64)))
        return vectors


def features(samples: np.ndarray) -> np.ndarray:
    """Log-mel powers (frames, MELS) every 10 ms of float32 (samples,) at 16 kHz, by Kaldi's definition, undithered."""
    if len(samples) < WIDTH_SAMPLES:
        return np.zeros((0, MELS), np.float32)
    scaled = torch.from_numpy(samples * np.float32(32768))[None]  # a copy: samples may be read-only
    powers: np.ndarray = torchaudio.compliance.kaldi.fbank(
        scaled, num_mel_bins=MELS, sample_frequency=SAMPLE_RATE, dither=0.0
    ).numpy()
    return powers


def centre(frames: np.ndarray) -> np.ndarray:
    """The input of the network: the middle of the frames less its mean, repeated up to one of `LENGTHS`."""
    first = max(0, (len(frames) - LENGTHS[-1]) // 2)
    middle = frames[first : first + LENGTHS[-1]]
    length = min(length for length in LENGTHS if length >= len(middle))
    repeated: np.ndarray = np.resize(middle - middle.mean(axis=0), (length, middle.shape[1]))
    return repeated


def load_embedding() -> torch.nn.Module:
    """Load CAM++ with its published weights."""
    folder = models.verified("campplus")
    # The package itself cannot be imported, because it imports clustering libraries that are not installed.
    spec = importlib.util.spec_from_file_location("speechmill_campplus", folder / "camplusplus.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.CAMPPlus(feat_dim=MELS, embedding_size=DIMENSION)
    state = torch.load(folder / "campplus_cn_en_common.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.eval()

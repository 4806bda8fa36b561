"""The encoder of a small causal variational autoencoder (VAE) over log-mel features.

`speechmill encoder train` trains one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from encoders.base import Encoder, WindowSound
from encoders.logmel import LogMel
from encoders.vae_network import CONFIG, WEIGHTS, VaeShape, make
from runtime import typed
from runtime.batches import DEVICES, reproducible, resolve_device
from runtime.models import resolve, sha256_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VaeConfig:
    """Settings of `Vae`."""

    model: str = ""
    """Folder that `speechmill encoder train` wrote, or the hub id of such a folder."""
    device: str = "cpu"
    """'cpu', 'cuda', or 'auto' for a GPU if there is one."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("vae: set model to a folder that `speechmill encoder train` wrote")
        typed.check_fields(self, one_of={"device": DEVICES})


class Vae(Encoder):
    """Means of the latents, never samples.

    Frame t covers the samples from t * hop to (t + 1) * hop. It depends on these and on earlier samples only.
    `decode` turns latents into log-mel features, and these into sound with a vocoder.
    """

    name: ClassVar[str] = "vae"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = VaeConfig
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    tolerance: float = 1e-4
    vocoder: str | None = "auto"

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.device = resolve_device(config.device)
        self._folder = Path(config.model).expanduser()
        self._identity: str | None = None
        if not self._folder.is_dir():
            self._folder, self._identity = resolve(config.model)
        self.shape = shape = VaeShape.read(self._folder)
        self.logmel = LogMel(shape.logmel)
        self.sample_rate, self.dim = shape.logmel.sample_rate, shape.dim
        self.hop_samples = shape.stride * shape.logmel.hop_samples
        self.look_ahead_samples = 0
        # The log-mel frames on which a latent depends and half the analysis window of the first of them, in whole hops:
        # a window then begins on the grid of the latents, even if the recording has less sound before it.
        lead = shape.reach_frames + shape.shift_frames + math.ceil(shape.logmel.n_fft / 2 / shape.logmel.hop_samples)
        self.look_back_samples = math.ceil(lead / shape.stride) * self.hop_samples
        self._network: torch.nn.Module | None = None

    def model_hashes(self) -> dict[str, str]:
        """Return the hashes of the two files that are the model. Other files of the training are ignored."""
        if self._identity is not None:
            return {"vae": self._identity}
        return {f"vae/{name}": sha256_of(self._folder / name) for name in (CONFIG, WEIGHTS)}

    def setup(self) -> None:
        """Load the weights."""
        from safetensors.torch import load_file

        self._network = make(self.shape)
        self._network.load_state_dict(load_file(self._folder / WEIGHTS))
        self._network.eval().to(self.device)

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        shape, hop = self.shape, self.shape.logmel.hop_samples
        latents = window.before // self.hop_samples + window.frames
        mel_frames = max(0, latents * shape.stride - shape.shift_frames)
        sound = window.sound[:, : latents * self.hop_samples]
        assert sound.shape[1] >= mel_frames * hop
        (mel,) = self.logmel.encode([WindowSound(sound, 0, mel_frames)])
        if not window.frames:
            return np.zeros((len(mel), 0, self.dim), np.float32)
        import torch

        with torch.inference_mode(), reproducible(1, self.device):
            inputs = torch.from_numpy(np.ascontiguousarray(mel.transpose(0, 2, 1))).to(self.device)
            mean, _ = self._loaded.encode(inputs, shape.shift_frames)  # type: ignore[operator]
            latent_means: np.ndarray = mean[:, :, -window.frames :].transpose(1, 2).cpu().numpy()
        return np.ascontiguousarray(latent_means)

    def decode_logmel(self, features: np.ndarray) -> np.ndarray:
        """Turn latents, (tracks, frames, dim), into log-mel features, float32 (tracks, frames * stride, num_mels).

        The first log-mel frame is at the first sample of the window.
        """
        import torch

        with torch.inference_mode(), reproducible(1, self.device):
            latents = torch.from_numpy(np.ascontiguousarray(features.transpose(0, 2, 1))).to(self.device)
            mel: np.ndarray = self._loaded.decode(latents).transpose(1, 2).cpu().numpy()  # type: ignore[operator]
        shift = self.shape.shift_frames
        mel = np.concatenate([mel[:, shift:], np.repeat(mel[:, -1:], shift, axis=1)], axis=1)
        return np.maximum(mel, np.float32(np.log(self.shape.logmel.floor)))

    def decode(self, features: np.ndarray) -> np.ndarray:
        from encoders.vocoders import synthesise

        assert self.vocoder is not None
        mel = self.decode_logmel(features)
        return np.stack([synthesise(track, self.shape.logmel, self.vocoder, self.device) for track in mel])

    @property
    def _loaded(self) -> torch.nn.Module:
        if self._network is None:
            self.setup()
        assert self._network is not None
        return self._network

"""The audio tokenizer of Pocket TTS: Mimi's architecture with a bottleneck of a variational autoencoder (32 values at
12.5 Hz, arXiv 2509.06926) in place of the quantiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from encoders.mimi import mimi_layers
from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.reach import Reach, reach

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PocketConfig(NeuralConfig):
    """Settings of `Pocket`."""

    max_chunk_s: float = 15.0
    """Longer windows are cut into pieces of this many seconds: attention at 200 Hz grows with the square of it."""


class Pocket(NeuralEncoder):
    """Latents of `PocketTTSAudioTokenizerModel.encode`, the mean of its posterior. Causal, reach exact."""

    name: ClassVar[str] = "pocket"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = PocketConfig
    model_type = "pocket_tts_audio_tokenizer"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, Reach]:
        from transformers import PocketTTSAudioTokenizerConfig

        config: Any = PocketTTSAudioTokenizerConfig.from_pretrained(self.folder)
        return config.sampling_rate, config.latent_dim, reach(mimi_layers(config))

    def _load(self) -> torch.nn.Module:
        from transformers import PocketTTSAudioTokenizerConfig, PocketTTSAudioTokenizerModel

        config = PocketTTSAudioTokenizerConfig.from_pretrained(self.folder)
        if config.decoder_config is not None:
            config.decoder_config = None
        module: torch.nn.Module = PocketTTSAudioTokenizerModel.from_pretrained(self.folder, config=config)
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.module.encode(sounds, padding_mask=None).latents
        return latents

    def _load_decoder(self) -> torch.nn.Module:
        from transformers import PocketTTSAudioTokenizerModel

        module: Any = PocketTTSAudioTokenizerModel.from_pretrained(self.folder)
        if module.decoder is None:
            raise NotImplementedError(f"{self.folder} holds no decoder")
        del module.encoder
        loaded: torch.nn.Module = module
        return loaded

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder.decode(features).audio_values
        return sound

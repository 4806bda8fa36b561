"""The audio tokenizer of Pocket TTS (arXiv 2509.06926): Mimi's architecture with the bottleneck of a variational
autoencoder, 32 values at 12.5 Hz, in place of the quantiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from encoders.mimi import mimi_layers
from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.receptive_field import ReceptiveField, receptive_field

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PocketConfig(NeuralConfig):
    """Settings of `Pocket`."""

    max_chunk_s: float = 15.0
    """Longer windows are cut into pieces of this many seconds: attention at 200 Hz costs the square of the length."""


class Pocket(NeuralEncoder):
    """Latents of `PocketTTSAudioTokenizerModel.encode`, the posterior mean. Causal, with its exact look-back."""

    name: ClassVar[str] = "pocket"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = PocketConfig
    model_type = "pocket_tts_audio_tokenizer"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import PocketTTSAudioTokenizerConfig

        config: Any = PocketTTSAudioTokenizerConfig.from_pretrained(self.folder)
        return config.sampling_rate, config.latent_dim, receptive_field(mimi_layers(config))

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

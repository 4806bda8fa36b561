"""The acoustic tokenizer of VibeVoice (arXiv 2508.19205): 64 values at 7.5 Hz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from encoders.neural import NeuralEncoder
from encoders.receptive_field import ReceptiveField, causal, receptive_field

if TYPE_CHECKING:
    import torch


class VibeVoice(NeuralEncoder):
    """Latents of `VibeVoiceAcousticTokenizerModel`, without the noise that its `encode` adds by default. Causal, with
    its exact look-back.

    VibeVoice's language model takes (latents + bias) * scale. These constants belong to the language model, not to the
    tokenizer, and are not applied here.
    """

    name: ClassVar[str] = "vibevoice"
    version: ClassVar[int] = 1
    model_type = "vibevoice_acoustic_tokenizer"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import VibeVoiceAcousticTokenizerConfig

        config: Any = VibeVoiceAcousticTokenizerConfig.from_pretrained(self.folder)
        kernel, depths = config.kernel_size, config.depths
        layers = [causal(kernel)] * (1 + depths[0])
        for ratio, depth in zip(config.downsampling_ratios, depths[1:], strict=True):
            layers += [causal(2 * ratio, ratio), *[causal(kernel)] * depth]
        return SAMPLE_RATE, config.hidden_size, receptive_field([*layers, causal(kernel)])

    def _whole(self) -> torch.nn.Module:
        from transformers import VibeVoiceAcousticTokenizerModel

        module: torch.nn.Module = VibeVoiceAcousticTokenizerModel.from_pretrained(self.folder)
        return module

    def _load(self) -> torch.nn.Module:
        module = self._whole()
        del module.decoder
        return module

    def _load_decoder(self) -> torch.nn.Module:
        module = self._whole()
        del module.encoder
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.module.encode(sounds, sample=False).latents
        return latents

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder.decode(features).audio
        return sound


SAMPLE_RATE = 24_000
"""Hz. It is in the configuration of the feature extractor, not in that of the model."""

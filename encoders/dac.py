"""The Descript Audio Codec (DAC, arXiv 2306.06546), before its quantiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from encoders.neural import NeuralEncoder
from encoders.receptive_field import ReceptiveField, receptive_field, snake_stack

if TYPE_CHECKING:
    import torch


class Dac(NeuralEncoder):
    """The input of DAC's quantiser: the output of `DacModel.encoder`, not its projections into the codebooks."""

    name: ClassVar[str] = "dac"
    version: ClassVar[int] = 1
    model_type = "dac"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import DacConfig

        config: Any = DacConfig.from_pretrained(self.folder)
        return config.sampling_rate, config.hidden_size, receptive_field(snake_stack(config.downsampling_ratios))

    def _load(self) -> torch.nn.Module:
        from transformers import DacModel

        module: torch.nn.Module = DacModel.from_pretrained(self.folder).encoder
        return module

    def _load_decoder(self) -> torch.nn.Module:
        from transformers import DacModel

        module: torch.nn.Module = DacModel.from_pretrained(self.folder).decoder
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.module(sounds)
        return features.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder(features.transpose(1, 2))
        return sound

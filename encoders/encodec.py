"""EnCodec before its quantiser (arXiv 2210.13438): 128 values at 75 Hz (24 kHz) or 150 Hz (48 kHz, stereo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.receptive_field import ReceptiveField, receptive_field, seanet
from runtime import typed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncodecConfig(NeuralConfig):
    """Settings of `Encodec`."""

    look_back_s: float = 4.0
    """Sound before a window on which its frames may depend, seconds, for the causal model. Its LSTM depends on all
    earlier sound, with an influence that decays. The receptive field of the convolutions is always covered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"look_back_s": 0})


class Encodec(NeuralEncoder):
    """The input of EnCodec's quantiser: the output of `EncodecModel.encoder`.

    The model at 24 kHz is causal; `EncodecConfig.look_back_s` limits its look-back.

    The model at 48 kHz normalises over time within chunks of `chunk_length_s` (1 s), and divides each by its level
    (`normalize`). Here the chunks follow each other from the beginning of the window. They do not have the overlap of
    1 % that the codec cross-fades after decoding, so there is one frame for each time, and `local` is False. The track
    is copied to both channels. The level of a chunk, which the codec stores with its codes, is not in the features.
    """

    name: ClassVar[str] = "encodec"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = EncodecConfig
    model_type = "encodec"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import EncodecConfig

        config: Any = EncodecConfig.from_pretrained(self.folder)
        self.channels, self.chunk_s, self.normalize = config.audio_channels, config.chunk_length_s, config.normalize
        dilations = [config.dilation_growth_rate**number for number in range(config.num_residual_layers)]
        ratios = list(reversed(config.upsampling_ratios))
        exact = receptive_field(
            seanet(ratios, config.kernel_size, config.residual_kernel_size, config.last_kernel_size, dilations)
        )
        if self.chunk_s is not None:
            return config.sampling_rate, config.hidden_size, exact._replace(back=0)
        if not config.use_causal_conv or self.normalize or config.norm_type != "weight_norm":
            raise ValueError(
                f"encodec: {self.folder} is not causal and has no chunk_length_s, which such a model needs"
            )
        back = max(exact.back, round(self.config.look_back_s * config.sampling_rate))
        return config.sampling_rate, config.hidden_size, exact._replace(back=back)

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__(config)
        if self.chunk_s is not None:
            self.local, self.max_chunk_s = False, self.chunk_s

    @property
    def causal(self) -> bool:
        """Whether the model is the causal one."""
        return self.local

    @property
    def has_decoder(self) -> bool:
        """Whether it is the causal model. At 48 kHz, decoding needs the level of each chunk, which features lack."""
        return self.local

    def _load(self) -> torch.nn.Module:
        from transformers import EncodecModel

        module: torch.nn.Module = EncodecModel.from_pretrained(self.folder).encoder
        return module

    def _load_decoder(self) -> torch.nn.Module:
        from transformers import EncodecModel

        module: torch.nn.Module = EncodecModel.from_pretrained(self.folder).decoder
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        if self.normalize:  # as EncodecModel.encode does
            level = sounds.mean(dim=1, keepdim=True).pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-8
            sounds = sounds / level
        features: torch.Tensor = self.module(sounds)
        return features.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder(features.transpose(1, 2))
        return sound

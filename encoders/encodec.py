"""EnCodec before its quantiser (arXiv 2210.13438): 128 values at 75 Hz (24 kHz) or 150 Hz (48 kHz, stereo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.reach import Reach, reach, seanet
from runtime import typed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncodecConfig(NeuralConfig):
    """Settings of `Encodec`."""

    look_back_s: float = 4.0
    """Sound before a window that its frames may see, seconds, with the causal model. An LSTM forgets, and has no last
    step that reaches a frame; that of its convolutions is always covered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"look_back_s": 0})


class Encodec(NeuralEncoder):
    """What EnCodec's quantiser is given: the output of `EncodecModel.encoder`.

    The model at 24 kHz is causal, with a look-back that is chosen. The model at 48 kHz normalises over time, within
    chunks of `chunk_length_s` (1 s), and takes the level out of each (`normalize`). Here the chunks follow each other
    from the beginning of the window, without the overlap of 1 % that the codec cross-fades after decoding, so that
    there is one frame for each time; `local` is False. A track is given to both of its channels. The level of a chunk,
    which the codec stores beside its codes, is not among the features.
    """

    name: ClassVar[str] = "encodec"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = EncodecConfig
    model_type = "encodec"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, Reach]:
        from transformers import EncodecConfig

        config: Any = EncodecConfig.from_pretrained(self.folder)
        self.channels, self.chunk_s, self.normalize = config.audio_channels, config.chunk_length_s, config.normalize
        dilations = [config.dilation_growth_rate**number for number in range(config.num_residual_layers)]
        ratios = list(reversed(config.upsampling_ratios))
        exact = reach(
            seanet(ratios, config.kernel_size, config.residual_kernel_size, config.last_kernel_size, dilations)
        )
        if self.chunk_s is not None:
            return config.sampling_rate, config.hidden_size, exact._replace(back=0)
        if not config.use_causal_conv or self.normalize or config.norm_type != "weight_norm":
            raise ValueError(
                f"encodec: {self.folder} has no chunk_length_s, which a model that is not causal must have"
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
        """At 48 kHz the level of each chunk is not among the features, without which its sound cannot be made."""
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

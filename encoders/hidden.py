"""Hidden layers of self-supervised speech models: wav2vec 2.0, HuBERT, WavLM and w2v-BERT 2.0, 50 frames a second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.receptive_field import ReceptiveField
from runtime import typed

if TYPE_CHECKING:
    import torch

FILTERBANK = (400, 160)
"""Length and hop of a frame of w2v-BERT's mel filter bank, in samples at 16 kHz."""


@dataclass(frozen=True)
class HiddenConfig(NeuralConfig):
    """Settings of `Hidden`."""

    layer: int = -1
    """Which hidden layer: 0 is the input of the first transformer layer, 1 its output, and -1 the last layer."""
    context_s: float = 2.0
    """Sound on each side of a window, or of a piece of a window, that the model is given with it, seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"context_s": 0})


class Hidden(NeuralEncoder):
    """The output of one transformer layer: `hidden_states[layer]` of the model in the transformers library.

    Every frame attends to all frames, and the model's feature extractor normalises over its whole input. Here the input
    is one piece: a window of up to `max_chunk_s` with `context_s` of sound on each side. Features therefore depend on
    the window in which they are computed (`local` is False), and the same window always gives the same features.

    Frame t begins at sample t * 320, and the convolutions see 80 samples past its end. If the recording ends within
    these, zeros are appended. The layers above the requested one are not computed, except for the next one.
    """

    name: ClassVar[str] = "hidden"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = HiddenConfig
    model_type = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert")
    local = False
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import AutoConfig, AutoFeatureExtractor

        config: Any = AutoConfig.from_pretrained(self.folder)
        self._extractor: Any = AutoFeatureExtractor.from_pretrained(self.folder)
        layers = config.num_hidden_layers
        if not -layers - 1 <= self.config.layer <= layers:
            raise ValueError(f"hidden: layer {self.config.layer} of a model with layers 0 to {layers}")
        self._layer = self.config.layer % (layers + 1)
        # The filter bank of w2v-BERT would pad an incomplete frame with zeros and mask it.
        self._whole_frames = config.model_type == "wav2vec2-bert"
        if self._whole_frames:
            frame, step = FILTERBANK
            hop = step * self._extractor.stride
            self._kernel = frame + step * (self._extractor.stride - 1)
        else:
            hop, self._kernel = math.prod(config.conv_stride), 1
            for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
                self._kernel = (self._kernel - 1) * stride + kernel
        rate = int(self._extractor.sampling_rate)
        context = round(self.config.context_s * rate)
        return rate, config.hidden_size, ReceptiveField(hop, context, max(context, self._kernel - hop))

    def _length(self, samples: int, frames: int) -> int:
        whole = samples - (samples - self._kernel) % self.hop_samples if self._whole_frames else samples
        return max(whole, (frames - 1) * self.hop_samples + self._kernel)

    def _load(self) -> torch.nn.Module:
        from transformers import AutoModel

        module: Any = AutoModel.from_pretrained(self.folder)
        # One layer more than requested: some models normalise after their last layer, which must not be the requested
        # one unless it really is the last.
        module.encoder.layers = module.encoder.layers[: self._layer + 1]
        loaded: torch.nn.Module = module
        return loaded

    def _prepare(self, sounds: np.ndarray) -> np.ndarray:
        # A list of arrays, because the extractor then normalises each of them by itself.
        inputs = self._extractor(list(sounds), sampling_rate=self.sample_rate, return_tensors="np")
        prepared: np.ndarray = inputs[self._extractor.model_input_names[0]]
        return prepared

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.module(sounds, output_hidden_states=True).hidden_states[self._layer]
        return states

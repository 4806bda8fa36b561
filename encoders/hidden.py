"""Hidden layers of self-supervised speech models: wav2vec 2.0, HuBERT, WavLM and w2v-BERT 2.0, 50 frames a second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.reach import Reach
from runtime import typed

if TYPE_CHECKING:
    import torch

FILTERBANK = (400, 160)
"""Samples of a frame of w2v-BERT's mel filter bank, and from one to the next, at 16 kHz."""


@dataclass(frozen=True)
class HiddenConfig(NeuralConfig):
    """Settings of `Hidden`."""

    layer: int = -1
    """Which hidden layer: 0 is what the first transformer layer is given, 1 what that gives, -1 the last one."""
    context_s: float = 2.0
    """Sound on each side of a window, or of a piece of one, that the model hears with it, seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"context_s": 0})


class Hidden(NeuralEncoder):
    """What one layer of the transformer gives, as `hidden_states[layer]` of the model in transformers.

    Every frame attends to all frames, and the model's feature extractor normalises over all that it is given. Both
    happen here within each piece: a window of up to `max_chunk_s` with `context_s` of sound on each side. Features
    therefore depend on the window that they are computed in (`local` is False); the same window gives the same ones.
    Frame t begins at sample t * 320, and the convolutions see 80 samples past its end: where the recording ends within
    them, zeros are appended. No layer above the one that is asked for is computed, but one.
    """

    name: ClassVar[str] = "hidden"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = HiddenConfig
    model_type = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert")
    local = False
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, Reach]:
        from transformers import AutoConfig, AutoFeatureExtractor

        config: Any = AutoConfig.from_pretrained(self.folder)
        self._extractor: Any = AutoFeatureExtractor.from_pretrained(self.folder)
        layers = config.num_hidden_layers
        if not -layers - 1 <= self.config.layer <= layers:
            raise ValueError(f"hidden: layer {self.config.layer} of a model with layers 0 to {layers}")
        self._layer = self.config.layer % (layers + 1)
        # The filter bank of w2v-BERT would fill up half a frame with zeros and mask it.
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
        return rate, config.hidden_size, Reach(hop, context, max(context, self._kernel - hop))

    def _length(self, samples: int, frames: int) -> int:
        whole = samples - (samples - self._kernel) % self.hop_samples if self._whole_frames else samples
        return max(whole, (frames - 1) * self.hop_samples + self._kernel)

    def _load(self) -> torch.nn.Module:
        from transformers import AutoModel

        module: Any = AutoModel.from_pretrained(self.folder)
        # One more than asked for: after the last layer some models normalise, and a layer within must stay as it is.
        module.encoder.layers = module.encoder.layers[: self._layer + 1]
        loaded: torch.nn.Module = module
        return loaded

    def _prepare(self, sounds: np.ndarray) -> np.ndarray:
        # The extractor is given numpy arrays one by one: it normalises each over itself.
        given = self._extractor(list(sounds), sampling_rate=self.sample_rate, return_tensors="np")
        prepared: np.ndarray = given[self._extractor.model_input_names[0]]
        return prepared

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.module(sounds, output_hidden_states=True).hidden_states[self._layer]
        return states

"""The voice activity network of Silero with upstream's weights, computed as matrix products over many frames in a call.

Upstream's own graphs process each frame of 32 ms alone, in convolutions over four columns, which leaves most of a core
idle.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

FRAME = 512
"""Samples of a frame, 32 ms at 16 kHz."""
CONTEXT = 64
"""Samples before a frame that are given to the network with it."""
State = tuple[torch.Tensor, torch.Tensor]


class Silero:
    """The 16 kHz network of silero-vad 6 (github.com/snakers4/silero-vad, MIT), from its JIT file; float32."""

    def __init__(self, path: Path) -> None:
        weights = torch.jit.load(str(path), map_location="cpu").state_dict()
        weights = {name.removeprefix("_model."): value for name, value in weights.items()}
        # Upstream multiplies by a matrix of windowed cosines and sines; its row for frequency 0 is the window itself.
        self.window = weights["stft.forward_basis_buffer"][0, 0]
        self.layers = [
            (
                weights[f"encoder.{number}.reparam_conv.weight"].transpose(1, 2).flatten(1),
                weights[f"encoder.{number}.reparam_conv.bias"],
                stride,
            )
            for number, stride in enumerate((1, 2, 2, 1))
        ]
        self.lstm = torch.nn.LSTM(128, 128)
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.lstm.load_state_dict({f"{part}_l0": weights[f"decoder.rnn.{part}"] for part in parts})
        self.out = weights["decoder.decoder.2.weight"][:, :, 0], weights["decoder.decoder.2.bias"]

    def __call__(self, samples: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Probabilities of speech (tracks, frames) in `samples` (tracks, CONTEXT + frames * FRAME), and the new state.

        Without a state, the samples are taken for the beginning of a recording.
        """
        frames = samples.unfold(1, CONTEXT + FRAME, FRAME)
        columns = functional.pad(frames, (0, 64), "reflect").flatten(0, 1).unfold(1, 256, 128)
        spectra = torch.fft.rfft(columns * self.window)
        # torch's own `abs` of complex numbers takes twice as long.
        x = spectra.real.square().add_(spectra.imag.square()).sqrt_().view(-1, 4, 129)
        for weight, bias, stride in self.layers:
            x = _convolved(x, weight, bias, stride)
        hidden, state = self.lstm(x.view(len(samples), -1, 128).transpose(0, 1), state)
        return functional.linear(hidden.relu(), *self.out).sigmoid()[..., 0].T, state


def _convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int) -> torch.Tensor:
    """ReLU of a convolution of width 3 over x (batch, columns, channels), with a column of zeros on both sides.

    Each output column is one matrix product for the whole batch. Neighbouring columns lie side by side in memory, so
    that nothing is copied, and the columns of zeros are left out of the product.
    """
    batch, columns, channels = x.shape
    centres = range(0, columns, stride)
    result = torch.empty(batch, len(centres), len(bias))
    for place, centre in enumerate(centres):
        first, last = max(0, centre - 1), min(columns, centre + 2)
        of_near = weight[:, (first - centre + 1) * channels : (last - centre + 1) * channels]
        torch.addmm(bias, x[:, first:last].flatten(1), of_near.T, out=result[:, place])
    return result.relu_()

"""The receptive field of a frame, computed from the kernels, strides and attention windows of an encoder's layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Layer(NamedTuple):
    """Output step t of a layer depends on its input steps t * stride - back to t * stride + ahead, and no others."""

    stride: int
    back: int
    ahead: int


class ReceptiveField(NamedTuple):
    """The samples that a frame of a stack of layers depends on. There is a frame every `hop` samples."""

    hop: int
    back: int
    """Samples before the frame's hop."""
    ahead: int
    """Samples after the end of the frame's hop."""


def causal(kernel: int, stride: int = 1, dilation: int = 1) -> Layer:
    """Describe a convolution that is padded on the left only, so that it sees no input after its own stride."""
    return Layer(stride, (kernel - 1) * dilation + 1 - stride, stride - 1)


def padded(kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> Layer:
    """Describe a convolution with `padding` zeros on both sides."""
    return Layer(stride, padding, (kernel - 1) * dilation - padding)


def attention(back: int, ahead: int = 0) -> Layer:
    """Describe attention from each step to `back` steps before it and `ahead` steps after it."""
    return Layer(1, back, ahead)


def snake_stack(ratios: Iterable[int]) -> list[Layer]:
    """Return the layers of the encoder of the Descript Audio Codec, whose layout Oobleck and LongCat share."""
    layers = [padded(7, padding=3)]
    for ratio in ratios:
        layers += [padded(7, dilation=dilation, padding=3 * dilation) for dilation in (1, 3, 9)]
        layers.append(padded(2 * ratio, ratio, padding=-(-ratio // 2)))
    return [*layers, padded(3, padding=1)]


def seanet(
    ratios: Iterable[int], kernel: int, residual_kernel: int, last_kernel: int, dilations: Sequence[int]
) -> list[Layer]:
    """Return the layers of the causal SEANet encoder of EnCodec and Mimi. `ratios` are in the order of downsampling."""
    layers = [causal(kernel)]
    for ratio in ratios:
        layers += [causal(residual_kernel, dilation=dilation) for dilation in dilations]
        layers.append(causal(2 * ratio, ratio))
    return [*layers, causal(last_kernel)]


def receptive_field(layers: Sequence[Layer]) -> ReceptiveField:
    """Compute the receptive field of a stack of layers, the first of which sees the samples.

    >>> receptive_field([causal(7), causal(4, stride=2)])
    ReceptiveField(hop=2, back=8, ahead=0)
    """
    hop, back, ahead = 1, 0, 0
    for layer in reversed(layers):
        hop, back, ahead = hop * layer.stride, back * layer.stride + layer.back, ahead * layer.stride + layer.ahead
    return ReceptiveField(hop, max(0, back), max(0, ahead - (hop - 1)))

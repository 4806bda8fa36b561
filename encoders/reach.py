"""How far a frame reaches: the look-back and look-ahead of an encoder, from the kernels, strides and attention windows
of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Layer(NamedTuple):
    """Output step t of a layer depends on its input steps t * stride - back to t * stride + ahead, and no others."""

    stride: int
    back: int
    ahead: int


class Reach(NamedTuple):
    """What a stack of layers gives: a frame every `hop` samples, and what reaches it, in samples."""

    hop: int
    back: int
    """Samples before the frame's hop."""
    ahead: int
    """Samples past the end of the frame's hop."""


def causal(kernel: int, stride: int = 1, dilation: int = 1) -> Layer:
    """A convolution that is padded on the left alone, so that output t ends with the input of its own stride."""
    return Layer(stride, (kernel - 1) * dilation + 1 - stride, stride - 1)


def padded(kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> Layer:
    """A convolution with `padding` zeros on both sides."""
    return Layer(stride, padding, (kernel - 1) * dilation - padding)


def attention(back: int, ahead: int = 0) -> Layer:
    """Attention from each step to `back` steps before it and `ahead` after it."""
    return Layer(1, back, ahead)


def snake_stack(ratios: Iterable[int]) -> list[Layer]:
    """The encoder of the Descript audio codec, and of the autoencoders with its layout (Oobleck, LongCat)."""
    layers = [padded(7, padding=3)]
    for ratio in ratios:
        layers += [padded(7, dilation=dilation, padding=3 * dilation) for dilation in (1, 3, 9)]
        layers.append(padded(2 * ratio, ratio, padding=-(-ratio // 2)))
    return [*layers, padded(3, padding=1)]


def seanet(
    ratios: Iterable[int], kernel: int, residual_kernel: int, last_kernel: int, dilations: Sequence[int]
) -> list[Layer]:
    """The causal SEANet encoder of EnCodec and Mimi; `ratios` in the order in which the encoder downsamples."""
    layers = [causal(kernel)]
    for ratio in ratios:
        layers += [causal(residual_kernel, dilation=dilation) for dilation in dilations]
        layers.append(causal(2 * ratio, ratio))
    return [*layers, causal(last_kernel)]


def reach(layers: Sequence[Layer]) -> Reach:
    """The reach of layers that follow each other.

    >>> reach([causal(7), causal(4, stride=2)])
    Reach(hop=2, back=8, ahead=0)
    """
    hop, back, ahead = 1, 0, 0
    for layer in reversed(layers):
        hop, back, ahead = hop * layer.stride, back * layer.stride + layer.back, ahead * layer.stride + layer.ahead
    return Reach(hop, max(0, back), max(0, ahead - (hop - 1)))

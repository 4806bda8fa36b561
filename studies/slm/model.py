"""The networks: an MM-DiT of two streams, and a causal transformer of one, whose blocks have exactly N parameters.

A token passes through the matrices of its own stream; keys and values of all streams meet in one attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

BASE_WIDTH, BASE_DEPTH = 64, 2
"""The shape at which the learning rate was chosen; muP and its rule for depth carry it to all others."""
FREQUENCIES = 32
"""Cosines and sines of the noise level that the network is told."""


def rounded(width: float) -> int:
    """The nearest width that is allowed."""
    step = 8 if width >= 31 else 2
    return max(4, step * round(width / step))


@dataclass(frozen=True)
class Shape:
    """The size of a network."""

    width: int
    """Values of a token inside; even, and from 32 on a multiple of 8."""
    depth: int
    """Blocks."""
    streams: int = 2
    """2 for the diffusion model, context and continuation; 1 for the discrete one."""

    def __post_init__(self) -> None:
        if self.width < 4 or self.width != rounded(self.width) or self.depth < 1:
            told = f"not {self.width} and {self.depth}"
            raise ValueError(f"width must be even, from 32 on a multiple of 8, and depth at least 1, {told}")

    @property
    def params(self) -> int:
        """N: the parameters of the blocks, 36 width^2 depth with two streams, whose AdaLN counts, 12 with one."""
        return (36 if self.streams == 2 else 12) * self.width**2 * self.depth

    @property
    def head(self) -> int:
        """Values of an attention head."""
        return math.gcd(self.width, 64 if self.width >= 256 else 8)

    @classmethod
    def of(cls, params: float, depth: int, streams: int = 2) -> Shape:
        """The shape of this depth whose blocks have about as many parameters."""
        each = 36 if streams == 2 else 12
        return cls(rounded(math.sqrt(params / each / depth)), depth, streams)


def rotation(head: int, positions: Tensor) -> Tensor:
    """Cosines and sines of rotary position embedding (Su et al. 2021) at positions (tokens,): (2, tokens, head / 2)."""
    half = head // 2
    speeds = 1e4 ** -(torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.to(torch.float32)[:, None] * speeds
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys (..., tokens, head), rotated."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def matrix(inputs: int, outputs: int, zero: bool = False) -> nn.Linear:
    """A linear map without a bias, drawn with a variance of one over its inputs, or zero."""
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(made.weight) if zero else nn.init.normal_(made.weight, std=inputs**-0.5)
    return made


class Stream(nn.Module):
    """What one stream has of its own in a block: projections, MLP and, if it is modulated, AdaLN-zero."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.qkv, self.out = matrix(width, 3 * width), matrix(width, width, zero=shape.streams == 1)
        self.up, self.down = matrix(width, 4 * width), matrix(4 * width, width, zero=shape.streams == 1)
        self.modulation = matrix(width, 6 * width, zero=True) if shape.streams == 2 else None

    def modulated(self, level: Tensor | None) -> Sequence[Tensor | float]:
        """Shift, scale and gate of the attention, and of the MLP."""
        if self.modulation is None or level is None:
            return 0.0, 0.0, 1.0, 0.0, 0.0, 1.0
        parts: Sequence[Tensor] = self.modulation(level)[:, None].chunk(6, dim=-1)
        return parts


class Block(nn.Module):
    """Joint attention over all streams with QK-norm, then an MLP for each stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.streams = nn.ModuleList(Stream(shape) for _ in range(shape.streams))
        self.branch = math.sqrt(BASE_DEPTH / shape.depth)  # what each block adds, so that depth changes no variance

    def forward(self, xs: list[Tensor], rotation: Tensor, level: Tensor | None, causal: bool) -> list[Tensor]:
        width, head = self.shape.width, self.shape.head
        streams = cast("list[Stream]", self.streams)
        modulations = [stream.modulated(level) for stream in streams]
        parts = []
        for stream, x, (shift, scale, *_) in zip(streams, xs, modulations, strict=True):
            qkv = stream.qkv(F.layer_norm(x, (width,)) * (1 + scale) + shift)
            parts.append(qkv.unflatten(-1, (3, width // head, head)).permute(2, 0, 3, 1, 4))
        qkv = torch.cat(parts, dim=3) if len(parts) > 1 else parts[0]
        q, k = rotated(F.layer_norm(qkv[:2], (head,)), rotation)
        attended = F.scaled_dot_product_attention(q, k, qkv[2], is_causal=causal, scale=2 / math.sqrt(head))
        joined = attended.transpose(1, 2).flatten(2).split([x.shape[1] for x in xs], dim=1)
        made = []
        for stream, x, a, found in zip(streams, xs, joined, modulations, strict=True):
            _, _, gate, shift, scale, gate_mlp = found
            x = x + self.branch * gate * stream.out(a)
            inner = F.layer_norm(x, (width,)) * (1 + scale) + shift
            made.append(x + self.branch * gate_mlp * stream.down(F.gelu(stream.up(inner), approximate="tanh")))
        return made


class MMDiT(nn.Module):
    """From a noisy continuation, its noise level and a clean context to what was asked for of the continuation."""

    def __init__(self, shape: Shape, token: int) -> None:
        """`token` is the number of values of a token: patch times the dimension of a frame."""
        super().__init__()
        self.shape = shape
        self.context_in, self.noisy_in = matrix(token, shape.width), matrix(token, shape.width)
        self.level_in, self.level_mlp = matrix(2 * FREQUENCIES, shape.width), matrix(shape.width, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.last = matrix(shape.width, 2 * shape.width, zero=True)
        self.head = matrix(shape.width, token, zero=True)
        # A narrow network cannot carry a token of more values than its width. Where there is little noise the answer is
        # nearly what came in, so each value of that is let through, by a share that the noise level decides.
        self.skip = matrix(shape.width, token, zero=True)

    def forward(self, context: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """(batch, tokens, token) of both and ln(sigma / alpha), (batch,), to (batch, tokens, token)."""
        # Time goes on from the context into the continuation.
        turn = rotation(self.shape.head, torch.arange(-context.shape[1], noisy.shape[1], device=noisy.device))
        speeds = torch.linspace(0, math.log(64), FREQUENCIES, device=level.device).exp() / 8
        angles = level.float()[:, None] * speeds
        told = F.silu(self.level_in(torch.cat([angles.cos(), angles.sin()], dim=-1)))
        told = F.silu(told + self.level_mlp(told))
        xs = [self.context_in(context), self.noisy_in(noisy)]
        for block in self.blocks:
            xs = block(xs, turn, told, False)
        shift, scale = self.last(told)[:, None].chunk(2, dim=-1)
        found: Tensor = self.head(F.layer_norm(xs[1], (self.shape.width,)) * (1 + scale) + shift)
        return found + self.skip(told)[:, None] * noisy


class Causal(nn.Module):
    """From discrete tokens to the logits of the next one."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.shape = shape
        self.token_in = nn.Embedding(vocabulary, shape.width)
        nn.init.normal_(self.token_in.weight)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.head = matrix(shape.width, vocabulary, zero=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (batch, tokens) to (batch, tokens, vocabulary)."""
        xs = [self.token_in(tokens)]
        turn = rotation(self.shape.head, torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            xs = block(xs, turn, None, True)
        found: Tensor = self.head(F.layer_norm(xs[0], (self.shape.width,)))
        return found


def groups(network: MMDiT | Causal, learning_rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW by muP (Yang et al. 2022): what takes `width` inputs learns slower the wider it is.

    The decay of a step, rate times decay, is the same at all widths.
    """
    narrower = BASE_WIDTH / network.shape.width
    named = list(network.named_parameters())
    inputs = [one for name, one in named if "_in" in name]
    hidden = [one for name, one in named if "_in" not in name]
    return [
        {"params": inputs, "lr": learning_rate, "weight_decay": 0.0},
        {"params": hidden, "lr": learning_rate * narrower, "weight_decay": decay / narrower},
    ]

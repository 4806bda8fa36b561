"""Diffusion over continuations: noise, what is predicted, the loss that is fitted, and sampling with guidance.

Noise preserves variance: z = alpha x + sigma e, alpha^2 + sigma^2 = 1, and a noise level is ln(sigma / alpha).
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from studies.slm.model import MMDiT, Shape

LEVEL_MEAN, LEVEL_SD = 0.0, 1.2
"""Of the noise level in training: sigma / alpha is lognormal (Karras et al. 2022)."""
SNR_MOST = 5.0
"""Where the min-SNR weight is cut off (Hang et al. 2023)."""
GRID = 8
"""Noise levels at which a held-out window is measured: the middles of as many equally likely parts."""
Predict = Literal["x", "v"]
"""The clean continuation, or v. A network narrower than twice a token cannot carry the noise that v holds."""


def scales(level: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of levels (batch,), to multiply (batch, tokens, token) with."""
    alpha = torch.sigmoid(-2 * level).sqrt()[:, None, None]
    return alpha, torch.sigmoid(2 * level).sqrt()[:, None, None]


def principal(tokens: Tensor) -> Tensor:
    """Principal components of tokens (n, token), the largest first, as rows of a linear map (token, token).

    Each is divided by what its standard deviation is among noisy tokens with as much noise as signal.
    """
    tokens = tokens.double()
    variance, components = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
    return (components / (variance + 1).sqrt()).T.flip(0).float()


def grid() -> Tensor:
    """The fixed noise levels of held-out windows, (GRID,)."""
    middles = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    return (LEVEL_MEAN + LEVEL_SD * math.sqrt(2) * torch.erfinv(2 * middles - 1)).float()


class Diffusion(nn.Module):
    """The loss of an MM-DiT: min(SNR, 5) / (SNR + 1) |v - v'|^2, of the continuation alone, whatever is predicted."""

    unit = "weighted squared error of v"

    def __init__(self, shape: Shape, token: int, predict: Predict = "x") -> None:
        super().__init__()
        self.network, self.predict, self.levels = MMDiT(shape, token), predict, GRID

    @torch.no_grad()
    def begin(self, components: Tensor) -> None:
        """Let the network see these components (token, token) of tokens instead of directions that are drawn."""
        count = min(self.network.shape.width, len(components))
        for one in (self.network.context_in, self.network.noisy_in):
            one.weight[:count] = components[:count]

    def clean(self, context: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The clean continuation as the network sees it in a noisy one."""
        found = self.network(context, noisy, level).float()
        alpha, sigma = scales(level)
        # alpha z is the best linear guess of values of variance 1 that are not correlated.
        return alpha * noisy + (found if self.predict == "x" else -sigma * found)

    def errors(self, context: Tensor, continuation: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Weighted squared error of v of each token, the mean over its values, (batch, tokens)."""
        alpha, sigma = scales(level)
        found = self.clean(context, alpha * continuation + sigma * noise, level)
        # |v - v'|^2 = |x - x'|^2 / sigma^2, so the weight of |x - x'|^2 is min(SNR, 5).
        weight = torch.exp(-2 * level).clamp(max=SNR_MOST)[:, None]
        return weight * F.mse_loss(found, continuation, reduction="none").mean(-1)

    def loss(self, context: Tensor, continuation: Tensor, random: torch.Generator) -> Tensor:
        """The mean over a batch, with noise drawn on the CPU, so that it is the same on any device.

        Levels are stratified over the batch, which takes most of their variance out of the mean.
        """
        rows, device = len(context), context.device
        evenly = (torch.randperm(rows, generator=random) + torch.rand(rows, generator=random)) / rows
        level = LEVEL_MEAN + LEVEL_SD * math.sqrt(2) * torch.erfinv((2 * evenly - 1).clamp(-0.9999, 0.9999))
        noise = torch.randn(continuation.shape, generator=random)
        return self.errors(context, continuation, level.to(device), noise.to(device)).mean()

    def held(self, context: Tensor, continuation: Tensor, first: int) -> Tensor:
        """Errors of held-out windows, the first of which has the number `first`: (GRID, batch, tokens).

        The noise of a window at a level depends on its number alone.
        """
        found = []
        random = torch.Generator()
        for number, level in enumerate(grid().tolist()):
            noise = torch.stack(
                [
                    torch.randn(continuation.shape[1:], generator=random.manual_seed(GRID * clip + number))
                    for clip in range(first, first + len(context))
                ]
            ).to(context.device)
            at = torch.full((len(context),), level, device=context.device)
            found.append(self.errors(context, continuation, at, noise))
        return torch.stack(found)

    @torch.inference_mode()
    def sample(self, context: Tensor, tokens: int, random: torch.Generator, steps: int, guidance: float) -> Tensor:
        """Continuations (batch, tokens, token) by DDIM (Song et al. 2021).

        With `guidance` w the step follows c + (w - 1) (c - 0), c with the context and 0 with one of zeros, which the
        network was never trained on.
        """
        most = 2.5 * LEVEL_SD  # levels beyond are hardly ever trained on
        levels = torch.linspace(LEVEL_MEAN + most, LEVEL_MEAN - most, steps + 1, device=context.device)
        z = torch.randn((len(context), tokens, context.shape[2]), generator=random).to(context.device)
        for here, there in itertools.pairwise(levels):
            at = here.expand(len(context))
            clean = self.clean(context, z, at)
            if guidance != 1:
                clean = clean + (guidance - 1) * (clean - self.clean(torch.zeros_like(context), z, at))
            alpha, sigma = scales(at)
            noise = (z - alpha * clean) / sigma
            alpha, sigma = scales(there.expand(len(context)))
            z = alpha * clean + sigma * noise
        return clean

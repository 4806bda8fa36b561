"""The discrete rival: the same windows as tokens of a codebook (k-means), and a causal transformer over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from studies.slm.model import Causal, Shape

VOCABULARY = 256
ROUNDS = 20


def codebook(tokens: Tensor, size: int = VOCABULARY, seed: int = 0) -> Tensor:
    """Centres (size, token) of k-means over tokens (n, token): Lloyd's rounds, from drawn tokens on.

    A centre that no token is nearest to stays where it is.
    """
    if len(tokens) < size:
        raise ValueError(f"{len(tokens)} tokens are too few for a codebook of {size}")
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:size]
    centres = tokens[drawn.to(tokens.device)]
    for _ in range(ROUNDS):
        nearest = indices(tokens, centres)
        counts = torch.bincount(nearest, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, tokens)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def indices(tokens: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each token, (..., token) to int64 (...)."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    found = [(centres.square().sum(1) - 2 * part @ centres.T).argmin(1) for part in flat.split(8192)]
    return torch.cat(found).reshape(tokens.shape[:-1])


class Discrete(nn.Module):
    """The loss of a causal transformer: cross entropy of each token of the continuation, in nats."""

    unit = "nats a token"
    levels = 1

    def __init__(self, shape: Shape, centres: Tensor) -> None:
        super().__init__()
        self.network = Causal(shape, len(centres))
        self.register_buffer("centres", centres)

    def loss(self, context: Tensor, continuation: Tensor, random: torch.Generator) -> Tensor:
        """The mean over a batch; nothing is drawn."""
        return self.held(context, continuation, 0).mean()

    def held(self, context: Tensor, continuation: Tensor, first: int) -> Tensor:
        """Cross entropy of each token of the continuation, (1, batch, tokens)."""
        tokens = indices(torch.cat([context, continuation], dim=1), self.get_buffer("centres"))
        logits = self.network(tokens[:, :-1])[:, context.shape[1] - 1 :].float()
        wanted = tokens[:, context.shape[1] :]
        return F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")[None]

    @torch.inference_mode()
    def sample(self, context: Tensor, tokens: int, random: torch.Generator, steps: int, guidance: float) -> Tensor:
        """Continuations (batch, tokens, token) drawn token by token; `steps` and `guidance` have no meaning here."""
        centres = self.get_buffer("centres")
        found = indices(context, centres)
        for _ in range(tokens):
            chances = self.network(found)[:, -1].float().softmax(-1).cpu()
            drawn = torch.multinomial(chances, 1, generator=random).to(found.device)
            found = torch.cat([found, drawn], dim=1)
        return centres[found[:, context.shape[1] :]]

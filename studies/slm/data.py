"""Windows of a dataset, by the reader: in memory where they fit, else streamed; and windows that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.choice import choose, folders
from manifests.lake import Lake
from runtime.errors import SpeechmillError
from speechmill.reader import Batch, Loader, Reader, Source

MEMORY_BYTES = 4 << 30
"""A split of at most so many bytes is read once and kept."""
READ_AT_ONCE = 256


@dataclass(frozen=True)
class Sound:
    """A dataset as it is trained on."""

    lake: Lake
    dataset: str
    version: int
    patch: int
    encoder: str
    frame_shift_s: float
    mean: Tensor
    """Of the values of a token, (token,), in that split; and their standard deviation:"""
    scale: Tensor

    @property
    def token(self) -> int:
        """Values of a token."""
        return len(self.mean)

    @property
    def token_s(self) -> float:
        """Seconds of a token."""
        return self.patch * self.frame_shift_s

    @classmethod
    def opened(cls, place: str, dataset: str | None, patch: int, split: str = "train") -> Sound:
        """A dataset, the newest if not named. SpeechmillError where it has no windows in a split."""
        lake = Lake.at(place)
        known = folders(lake, "datasets")  # also where no recordings are: shards alone are enough to train on
        if not known:
            raise SpeechmillError(f"no dataset in {place}", "name a lake for which `speechmill encode` was run")
        name = dataset or (known[0] if len(known) == 1 else choose(lake).dataset)
        if name is None:
            raise SpeechmillError(f"{place} has several datasets: {', '.join(known)}", "name one by --dataset")
        try:
            found = Source(lake, name, split=split, patch=patch)
            mean, scale = (torch.from_numpy(np.tile(one, patch)) for one in found.dataset.statistics(split))
        except (FileNotFoundError, ValueError) as error:
            raise SpeechmillError(str(error), f"name a dataset that has windows in its split {split}") from error
        row = found.dataset.table(0).rows([0])[0]
        shift = row["duration_s"] / (row["context_frames"] + row["continuation_frames"])
        plan = lake.read_json(f"datasets/{name}/plan.json", "encoder")
        return cls(lake, name, found.dataset.version, patch, plan["encoder"], shift, mean, scale)

    def source(self, split: str) -> Source:
        """The windows of a split. SpeechmillError where it has none."""
        try:
            return Source(self.lake, self.dataset, version=self.version, split=split, patch=self.patch, dtype="float16")
        except ValueError as error:
            raise SpeechmillError(str(error), "name a split that has windows, or select some for it") from error

    def normal(self, tokens: Tensor) -> Tensor:
        """Tokens as networks take them: each value with a mean of 0 and a variance of 1."""
        return (tokens.float() - self.mean.to(tokens.device)) / self.scale.to(tokens.device)

    def features(self, tokens: Tensor) -> np.ndarray:
        """The features, float32 (batch, frames, dim), of tokens (batch, tokens, token) as networks give them."""
        whole = tokens.cpu().float() * self.scale + self.mean
        found: np.ndarray = whole.reshape(len(tokens), -1, self.token // self.patch).numpy()
        return found


def rows_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Context and continuation of a batch, (rows, tokens, token): each track of a window is a row.

    SpeechmillError where windows differ in length: a network is trained on windows of one shape.
    """
    found = []
    for name in ("context", "continuation"):
        tensor, lengths = batch[name], batch[f"{name}_lengths"]
        if (lengths != lengths[0]).any():
            raise SpeechmillError(
                f"windows of {batch['dataset'][0]} have {int(lengths.min())} to {int(lengths.max())} tokens of {name}",
                "select windows of one length: context_s and continuation_s without `align`",
            )
        found.append(tensor[batch[f"{name}_mask"][:, :, 0]])
    return found[0], found[1]


class Memory:
    """The windows of a split, read once, as networks take them. What a step is given follows from its number alone."""

    def __init__(self, sound: Sound, split: str, device: str) -> None:
        reader = Reader(source := sound.source(split), shuffle=False, rank=0, world_size=1)
        parts = [rows_of(batch) for batch in Loader(reader, READ_AT_ONCE)]
        shapes = {(a.shape[1:], b.shape[1:]) for a, b in parts}
        if len(shapes) > 1:
            raise SpeechmillError("windows differ in length between shards", "select windows of one length")
        self.context, self.continuation = (sound.normal(torch.cat(one).to(device)) for one in zip(*parts, strict=True))
        tokens = len(self.context) * self.tokens_a_row
        read = sum(one["context_tokens"] + one["continuation_tokens"] for one in _splits(reader))
        if not tokens == read == source.tokens:
            raise SpeechmillError(
                f"{tokens:,} tokens came from the split {split} of {sound.dataset}, whose ledger has {source.tokens:,}",
                "`speechmill tokens verify` tells which shard differs",
            )
        self.ledger_tokens = source.tokens
        self._order: tuple[tuple[int, int], Tensor] | None = None

    @property
    def tokens_a_row(self) -> int:
        """Of context and continuation."""
        return self.context.shape[1] + self.continuation.shape[1]

    def batch(self, step: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """The rows of a step: epochs follow each other, each in an order of its own."""
        count = len(self.context)
        places = torch.arange(step * rows, (step + 1) * rows)
        epochs = range(int(places[0]) // count, int(places[-1]) // count + 1)
        taken = torch.cat([self._shuffled(seed, one)[places[places // count == one] % count] for one in epochs])
        taken = taken.to(self.context.device)
        return self.context[taken], self.continuation[taken]

    def state(self) -> dict[str, Any]:
        """Nothing: the number of the step says all."""
        return {}

    def _shuffled(self, seed: int, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != (seed, epoch):
            random = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            self._order = (seed, epoch), torch.randperm(len(self.context), generator=random)
        return self._order[1]


class Stream:
    """The windows of the split train where it is too large for memory, in the reader's order, epoch after epoch."""

    def __init__(self, sound: Sound, device: str, rows: int, seed: int, state: dict[str, Any]) -> None:
        self.sound, self.source, self.device = sound, sound.source("train"), device
        self.ledger_tokens = self.source.tokens
        reader = Reader(self.source, seed=seed, rank=0, world_size=1)
        self._loader = Loader(reader, rows, drop_last=True, num_workers=0)
        if state:
            self._loader.load_state_dict(state)
        self._batches = self._endless()

    @property
    def tokens_a_row(self) -> int:
        """Of context and continuation, as the first window has them."""
        row = self.source.dataset.table(0).rows([0])[0]
        return sum(self.source.dataset.window_tokens(row)) // int(row["tracks"])

    def batch(self, step: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """The next rows."""
        context, continuation = next(self._batches)
        return self.sound.normal(context.to(self.device)), self.sound.normal(continuation.to(self.device))

    def state(self) -> dict[str, Any]:
        """Where the reader is."""
        return self._loader.state_dict()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for batch in self._loader:
                yield rows_of(batch)


def memory(sound: Sound, device: str) -> Memory | None:
    """The windows of the split train, None where they do not fit into memory."""
    source = sound.source("train")
    if 2 * source.dataset.windows * source.dataset.window_bytes > MEMORY_BYTES:  # float16 in shards, float32 here
        return None
    return Memory(sound, "train", device)


def first(sound: Sound, count: int) -> Tensor:
    """Tokens of continuations, (n, token), of as many of the first windows of the split train as have `count` tokens.

    The first shards are a fair sample of all.
    """
    found: list[Tensor] = []
    for batch in Loader(Reader(sound.source("train"), shuffle=False, rank=0, world_size=1), READ_AT_ONCE):
        found.extend(rows_of(batch)[1])
        if len(found) * len(found[0]) > count:
            break
    return sound.normal(torch.cat(found[: count // len(found[0]) + 1]))


@dataclass(frozen=True)
class Held:
    """Windows that no network learns from, always the same ones."""

    context: Tensor
    continuation: Tensor
    speech: Tensor | None
    """bool (rows, tokens): where somebody speaks in the middle of a token."""
    speech_by: str | None
    """'turns' of the windows; where none has any, 'level' of log-mel features; None for other features."""

    @classmethod
    def of(cls, sound: Sound, split: str, windows: int, device: str) -> Held:
        """The first windows of a split in the order of its shards, each a fair sample of its recordings."""
        reader = Reader(sound.source(split), shuffle=False, rank=0, world_size=1)
        contexts, continuations, speech = [], [], []
        for batch in Loader(reader, 1):
            context, continuation = rows_of(batch)
            contexts.append(context)
            continuations.append(continuation)
            starts = batch["duration_s"][0] - continuation.shape[1] * sound.token_s
            speech.append(_spoken(batch["turns"][0], starts, continuation.shape[1], sound.token_s, len(context)))
            if len(contexts) == windows:
                break
        context, continuation = (sound.normal(torch.cat(one)).to(device) for one in (contexts, continuations))
        if (spoken := torch.cat(speech)).any():
            return cls(context, continuation, spoken.to(device), "turns")
        if sound.encoder.startswith("logmel-"):  # louder than the mean of all bins over the split train
            return cls(context, continuation, continuation.mean(-1) > 0, "level")
        return cls(context, continuation, None, None)


def _spoken(turns: list[dict[str, Any]], start_s: float, tokens: int, token_s: float, tracks: int) -> Tensor:
    """Where turns cover a token's middle, bool (tracks, tokens)."""
    found = torch.zeros(tracks, tokens, dtype=torch.bool)
    middles = start_s + (torch.arange(tokens) + 0.5) * token_s
    for turn in turns:
        if turn["track"] < tracks:
            found[turn["track"]] |= (middles >= turn["start_s"]) & (middles < turn["end_s"])
    return found


def _splits(reader: Reader) -> list[dict[str, int]]:
    return [counts for splits in reader.counts().values() for counts in splits.values()]

"""Batches: samples padded to one shape, and a DataLoader whose place can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from speechmill.reader.reader import Reader
from speechmill.reader.source import Sample
from speechmill.reader.stream import Counts, WorkerState

Batch = dict[str, Any]
Shapes = dict[str, tuple[torch.dtype, torch.Size]]
SMALL_BYTES = 1 << 16
"""Tensors below this size come from a worker through a pipe, as arrays of NumPy."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as one batch.

    Each tensor of the samples, `context` for one, becomes three: `context`, (batch, tracks, tokens, width), filled up
    with zeros to the most tracks and tokens of the batch; `context_lengths`, int64 (batch,), its tokens a track; and
    `context_mask`, bool (batch, tracks, tokens), true where there is a token. Everything else becomes a list.

    Raises ValueError where samples of different encoders, or of different patch sizes, meet in one batch.
    """
    batch: Batch = {}
    for name, first in samples[0].items():
        if any(name not in sample for sample in samples):
            raise ValueError(f"samples with {name} and without it cannot share a batch: read these sources apart")
        values = [sample[name] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch |= _padded(name, values)
        else:
            batch[name] = values
    return batch


def _padded(name: str, values: Sequence[torch.Tensor]) -> Batch:
    widths = {value.shape[2] for value in values}
    if len(widths) > 1:
        told = " and ".join(map(str, sorted(widths)))
        raise ValueError(f"{name}: tokens of width {told} cannot share a batch: read these sources apart")
    shapes = torch.tensor([value.shape for value in values])
    tracks, tokens, width = (int(most) for most in shapes.amax(0))
    if all(value.shape == values[0].shape for value in values):
        joined = torch.stack(list(values))
    else:
        joined = values[0].new_zeros(len(values), tracks, tokens, width)
        for into, value in zip(joined, values, strict=True):
            into[: value.shape[0], : value.shape[1]] = value
    mask = torch.arange(tracks)[None, :, None] < shapes[:, 0, None, None]
    mask = mask & (torch.arange(tokens) < shapes[:, 1, None, None])
    return {name: joined, f"{name}_lengths": shapes[:, 1].clone(), f"{name}_mask": mask}


class Loader:
    """torch's DataLoader over a reader, whose state is that after the last batch that it gave.

    Workers read ahead of the training, so what they have read is not where the training is: each batch brings the state
    of its worker along, a few numbers, and the loader keeps it when it gives the batch. A loop over it is an epoch.
    """

    def __init__(
        self,
        reader: Reader,
        batch_size: int,
        *,
        num_workers: int = 0,
        collate: Callable[[Sequence[Sample]], Any] = collate,
        **named: Any,
    ) -> None:
        """`named` goes to DataLoader: `drop_last`, `pin_memory`, `prefetch_factor` and so on.

        Samples that `drop_last` leaves out are not counted as given.
        """
        if named.get("persistent_workers") or not named.get("in_order", True):
            told = "persistent_workers and in_order cannot be changed"
            raise ValueError(f"{told}: the loader begins its workers anew for each epoch, and keeps their order")
        self.reader, self.num_workers, self.collate = reader, num_workers, collate
        self._given = {"batch_size": batch_size, "num_workers": num_workers, **named}

    def __iter__(self) -> Iterator[Any]:
        reader = self.reader
        states = reader.worker_states(max(1, self.num_workers))
        if reader.exhausted:
            reader.next_epoch()
        if not self.num_workers:
            for batch in DataLoader(reader, collate_fn=self.collate, **self._given):
                reader.exhausted = False  # a last batch that is not full meets the end before it is given
                yield batch
            reader.exhausted = True
            return
        for batch, shapes, worker, state in DataLoader(reader, collate_fn=_WithState(self.collate), **self._given):
            for number, told in zip(reader.of_worker(worker, self.num_workers), state, strict=True):
                states[number] = WorkerState.from_json(told)
            reader.next_worker = (worker + 1) % self.num_workers
            yield _unpacked(batch, shapes)
        reader.exhausted = True

    def state_dict(self) -> dict[str, Any]:
        """Where this process is after the last batch that was given: see `Reader.state_dict`."""
        return self.reader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a state says: see `Reader.load_state_dict`. Loops that are under way are not changed."""
        self.reader.load_state_dict(state)

    def counts(self) -> Counts:
        """What was given in all batches: see `Reader.counts`."""
        return self.reader.counts()


class _WithState:
    """Collates in a worker, and adds how the batch is packed, which worker that is and its state."""

    def __init__(self, collate: Callable[[Sequence[Sample]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Sample]) -> tuple[Any, Shapes, int, list[dict[str, Any]]]:
        info = get_worker_info()
        assert info is not None
        reader = info.dataset
        assert isinstance(reader, Reader)
        worker = (info.id + reader.next_worker) % info.num_workers
        batch, shapes = _packed(self.collate(samples))
        states, own = reader.worker_states(info.num_workers), reader.of_worker(worker, info.num_workers)
        return batch, shapes, worker, [states[number].to_json() for number in own]


def _packed(batch: Any) -> tuple[Any, Shapes]:
    """A batch with all its tensors of one type as one, by the name of the type, and their shapes, to divide it again.

    A worker hands over each tensor by a file of its own, which takes the training process a millisecond or more.
    """
    if not isinstance(batch, dict):
        return batch, {}
    tensors = {name: one for name, one in batch.items() if isinstance(one, torch.Tensor)}
    packed = {name: one for name, one in batch.items() if name not in tensors}
    for dtype in dict.fromkeys(one.dtype for one in tensors.values()):
        flat = torch.cat([one.reshape(-1) for one in tensors.values() if one.dtype == dtype])
        packed[dtype] = flat if flat.nbytes >= SMALL_BYTES else flat.numpy()  # few bytes go through the pipe
    return packed, {name: (one.dtype, one.shape) for name, one in tensors.items()}


def _unpacked(packed: Any, shapes: Shapes) -> Any:
    """The batch that was packed."""
    if not shapes:
        return packed
    parts: Batch = {}
    for dtype in dict.fromkeys(dtype for dtype, _ in shapes.values()):
        named = {name: shape for name, (of, shape) in shapes.items() if of == dtype}
        flat = torch.as_tensor(packed.pop(dtype)).split([shape.numel() for shape in named.values()])
        parts |= {name: part.view(shape) for (name, shape), part in zip(named.items(), flat, strict=True)}
    return {name: parts.pop(name) for name in shapes} | packed

"""Batches of samples padded to one shape, and a DataLoader whose position can be saved and restored."""

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
"""Tensors below this size are sent from a worker through a pipe, as NumPy arrays."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Combine samples into one batch.

    Each tensor of the samples becomes three entries. For `context` these are `context`, (batch, tracks, tokens, width),
    padded with zeros to the largest numbers of tracks and tokens in the batch; `context_lengths`, int64 (batch,), the
    tokens per track; and `context_mask`, bool (batch, tracks, tokens), true where there is a token. Every other value
    becomes a list.

    Raises:
        ValueError: The samples come from different encoders or have different patch sizes.
    """
    batch: Batch = {}
    for name, first in samples[0].items():
        if any(name not in sample for sample in samples):
            raise ValueError(f"samples with and without {name} cannot share a batch: read these sources separately")
        values = [sample[name] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch |= _padded(name, values)
        else:
            batch[name] = values
    return batch


def _padded(name: str, values: Sequence[torch.Tensor]) -> Batch:
    widths = {value.shape[2] for value in values}
    if len(widths) > 1:
        different = " and ".join(map(str, sorted(widths)))
        raise ValueError(f"{name}: tokens of width {different} cannot share a batch: read these sources separately")
    shapes = torch.tensor([value.shape for value in values])
    tracks, tokens, width = (int(most) for most in shapes.amax(0))
    if all(value.shape == values[0].shape for value in values):
        padded = torch.stack(list(values))
    else:
        padded = values[0].new_zeros(len(values), tracks, tokens, width)
        for row, value in zip(padded, values, strict=True):
            row[: value.shape[0], : value.shape[1]] = value
    mask = torch.arange(tracks)[None, :, None] < shapes[:, 0, None, None]
    mask = mask & (torch.arange(tokens) < shapes[:, 1, None, None])
    return {name: padded, f"{name}_lengths": shapes[:, 1].clone(), f"{name}_mask": mask}


class Loader:
    """torch's DataLoader over a reader. Its state is the position after the last batch that it has yielded.

    Workers read ahead of the training, so their own position is not that of the training. Each batch therefore carries
    the state of its worker, a few numbers, which the loader stores when it yields the batch. One loop over the loader
    is one epoch.
    """

    def __init__(
        self,
        reader: Reader,
        batch_size: int,
        *,
        num_workers: int = 0,
        collate: Callable[[Sequence[Sample]], Any] = collate,
        **options: Any,
    ) -> None:
        """Prepare a DataLoader; nothing is read yet.

        Args:
            reader: The samples to load.
            batch_size: Samples per batch.
            num_workers: Worker processes; with 0 this process reads.
            collate: Combines the samples of a batch.
            options: Other options of DataLoader, such as `drop_last`, `pin_memory` and `prefetch_factor`. The samples
                that `drop_last` leaves out are not counted.

        Raises:
            ValueError: `persistent_workers` or `in_order` has another value than the default.
        """
        if options.get("persistent_workers") or not options.get("in_order", True):
            what = "persistent_workers and in_order cannot be changed"
            raise ValueError(f"{what}: the loader starts new workers for each epoch and relies on their order")
        self.reader, self.num_workers, self.collate = reader, num_workers, collate
        self._options = {"batch_size": batch_size, "num_workers": num_workers, **options}

    def __iter__(self) -> Iterator[Any]:
        reader = self.reader
        states = reader.worker_states(max(1, self.num_workers))
        if reader.exhausted:
            reader.next_epoch()
        if not self.num_workers:
            for batch in DataLoader(reader, collate_fn=self.collate, **self._options):
                reader.exhausted = False  # the reader ends before an incomplete last batch is yielded
                yield batch
            reader.exhausted = True
            return
        for batch, shapes, worker, state in DataLoader(reader, collate_fn=_WithState(self.collate), **self._options):
            for number, values in zip(reader.states_of_worker(worker, self.num_workers), state, strict=True):
                states[number] = WorkerState.from_json(values)
            reader.next_worker = (worker + 1) % self.num_workers
            yield _unpack(batch, shapes)
        reader.exhausted = True

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this process after the last yielded batch. See `Reader.state_dict`."""
        return self.reader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to the position of a state. See `Reader.load_state_dict`. Loops that have begun are not affected."""
        self.reader.load_state_dict(state)

    def counts(self) -> Counts:
        """Return the counts over all yielded batches. See `Reader.counts`."""
        return self.reader.counts()


class _WithState:
    """Collates in a worker. Returns the packed batch with the shapes of its tensors, the worker and its state."""

    def __init__(self, collate: Callable[[Sequence[Sample]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Sample]) -> tuple[Any, Shapes, int, list[dict[str, Any]]]:
        info = get_worker_info()
        assert info is not None
        reader = info.dataset
        assert isinstance(reader, Reader)
        worker = (info.id + reader.next_worker) % info.num_workers
        batch, shapes = _pack(self.collate(samples))
        states, own = reader.worker_states(info.num_workers), reader.states_of_worker(worker, info.num_workers)
        return batch, shapes, worker, [states[number].to_json() for number in own]


def _pack(batch: Any) -> tuple[Any, Shapes]:
    """Concatenate all tensors of the same dtype into one, keyed by the dtype, and return their shapes for `_unpack`.

    Each tensor from a worker is sent through a file of its own, which costs the training process a millisecond or more.
    """
    if not isinstance(batch, dict):
        return batch, {}
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    packed = {name: value for name, value in batch.items() if name not in tensors}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values() if tensor.dtype == dtype])
        packed[dtype] = flat if flat.nbytes >= SMALL_BYTES else flat.numpy()  # NumPy arrays go through the pipe
    return packed, {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _unpack(packed: Any, shapes: Shapes) -> Any:
    """Restore the batch that `_pack` was given."""
    if not shapes:
        return packed
    parts: Batch = {}
    for dtype in dict.fromkeys(dtype for dtype, _ in shapes.values()):
        same_dtype = {name: shape for name, (its_dtype, shape) in shapes.items() if its_dtype == dtype}
        flat = torch.as_tensor(packed.pop(dtype)).split([shape.numel() for shape in same_dtype.values()])
        parts |= {name: part.view(shape) for (name, shape), part in zip(same_dtype.items(), flat, strict=True)}
    return {name: parts.pop(name) for name in shapes} | packed

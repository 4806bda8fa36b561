"""Devices and batches: which device a stage runs on, and as many rows in one call of a model as its memory holds."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pipelines.errors import SpeechmillError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float16")
T = TypeVar("T")
log = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """'cpu' or 'cuda': 'auto' is 'cuda' where this process sees a GPU. ValueError for any other name."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Batches:
    """Calls of one model. Where memory runs out, the batch is halved, for the rest of the process."""

    def __init__(self, model: str, most: int, free: Callable[[], None] = lambda: None) -> None:
        """At `most` rows a call; `free` gives back what a failed call left in the device's cache."""
        self.model, self.most, self._free = model, most, free

    def __call__(self, rows: int, call: Callable[[slice], T]) -> list[T]:
        """Results of `call` for successive slices of all `rows`. SpeechmillError where one row does not fit."""
        found: list[T] = []
        at = 0
        while at < rows:
            size = min(self.most, rows - at)
            try:
                found.append(call(slice(at, at + size)))
                at += size
                continue
            except RuntimeError as error:  # torch.OutOfMemoryError is one, CTranslate2 has no class of its own
                if "out of memory" not in str(error).lower():
                    raise
                if size == 1:
                    what = f"{self.model}: one window does not fit into memory: {error}"
                    raise SpeechmillError(what, "use a smaller model, another device or fewer workers on it") from error
            self.most = size // 2
            self._free()  # only here: inside the except, the failed call's frames still hold their tensors
            log.warning("%s: out of memory with %d windows in a call, goes on with %d", self.model, size, self.most)
        return found


def fit(model: torch.nn.Module, name: str, most: int, precision: str = "float32") -> Batches:
    """Make a torch model call itself in `Batches`, in mixed precision where `precision` is not float32.

    Its input is (batch, ...), with `weights` (batch, ...) or without; its output is one float32 tensor (batch, ...).
    """
    import torch

    assert precision in PRECISIONS
    forward = model.forward
    dtype = getattr(torch, precision)
    mixed = contextlib.nullcontext if precision == "float32" else functools.partial(torch.autocast, dtype=dtype)
    batches = Batches(name, most, torch.cuda.empty_cache)

    def fitted(waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        def call(rows: slice) -> torch.Tensor:
            given = (waveforms[rows],) if weights is None else (waveforms[rows], weights[rows])
            with mixed(waveforms.device.type):
                output: torch.Tensor = forward(*given)
            return output.float()

        return torch.cat(batches(len(waveforms), call))

    model.forward = fitted
    return batches

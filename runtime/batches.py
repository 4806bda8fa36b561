"""Devices and batches: choose the device of a model, and call it with as many rows as its memory holds."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from runtime.errors import OutOfMemoryError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float16")
Inputs = tuple[Any, ...]
"""The inputs of a model for one row of a batch: arrays or tensors without the batch dimension."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """Return 'cpu' or 'cuda'; 'auto' is 'cuda' if this process sees a GPU. Raises ValueError for any other name."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if device != "auto":
        return device
    try:
        import torch
    except ImportError:  # `pipelines.units.extras` reports it if it is needed
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


class Batches:
    """Calls one model in batches. If memory runs out, the batch size is halved for the rest of the process."""

    def __init__(
        self,
        model: str,
        most: int,
        call: Callable[[Sequence[Inputs]], Sequence[Any]],
        free: Callable[[], None] = lambda: None,
        blank: Callable[[Inputs], Inputs] | None = None,
    ) -> None:
        """Set up a model.

        Args:
            model: Its name, for messages.
            most: The largest batch size.
            call: Computes one result for each row of a batch, whose rows have equal shapes.
            free: Releases the memory that a failed call has left in the cache of the device.
            blank: Makes an empty row of the same shape as a given one. If given, every batch is filled up with such
                rows, so that all calls have the same shape.
        """
        self.model, self.most, self._call, self._free, self._blank = model, most, call, free, blank

    def __call__(self, rows: Sequence[Inputs]) -> list[Any]:
        """Compute the result of each row. Within `run_batched`, rows of all jobs share batches.

        Raises OutOfMemoryError if a single row does not fit into memory.
        """
        job: _Job | None = getattr(_thread, "job", None)
        return job.group.call(job.number, self, rows) if job and rows else self.run(rows)

    def run(self, rows: Sequence[Inputs]) -> list[Any]:
        """Compute the result of each row with as few calls as memory allows."""
        results: list[Any] = []
        while len(results) < len(rows):
            batch = rows[len(results) : len(results) + self.most]
            count = len(batch)
            if self._blank and count < self.most:
                batch = [*batch, *[self._blank(batch[0])] * (self.most - count)]
            try:
                results += self._call(batch)[:count]
                continue
            except RuntimeError as error:  # torch.OutOfMemoryError is one; CTranslate2 has no class for it
                if "out of memory" not in str(error).lower():
                    raise
                if len(batch) == 1:
                    what = f"{self.model}: one window does not fit into memory: {error}"
                    remedy = "use a smaller model, another device or fewer workers on it"
                    raise OutOfMemoryError(what, remedy) from error
            self.most = len(batch) // 2
            self._free()  # not inside the except, where the frames of the failed call still hold their tensors
            log.warning(
                "%s: out of memory with %d windows in a call, continuing with %d", self.model, len(batch), self.most
            )
        return results


def run_batched(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run jobs in threads, and batch their calls of models together, so that short recordings share batches.

    A call waits until every other job also waits for a call or has ended. So which rows share a batch depends only on
    the jobs, never on timing.
    """
    if len(jobs) < 2:
        return [job() for job in jobs]
    group = _JobGroup(len(jobs))
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(group.run_job, range(len(jobs)), jobs))


class _Call(NamedTuple):
    batches: Batches
    rows: Sequence[Inputs]
    result: Future[list[Any]]


class _Job(NamedTuple):
    group: _JobGroup
    number: int


_thread = threading.local()


class _JobGroup:
    """Jobs whose calls of models are collected until all running jobs wait for one."""

    def __init__(self, jobs: int) -> None:
        self._running = jobs
        self._waiting: dict[int, _Call] = {}
        self._lock = threading.Lock()

    def run_job(self, number: int, job: Callable[[], T]) -> T:
        _thread.job = _Job(self, number)
        try:
            return job()
        finally:
            _thread.job = None
            with self._lock:
                self._stop_one()

    def call(self, number: int, batches: Batches, rows: Sequence[Inputs]) -> list[Any]:
        call = _Call(batches, rows, Future())
        with self._lock:
            self._waiting[number] = call
            self._stop_one()
        return call.result.result()

    def _stop_one(self) -> None:
        """Note that a job waits or has ended; if it was the last running one, run the calls that all jobs wait for."""
        self._running -= 1
        if self._running:
            return
        calls = [self._waiting[number] for number in sorted(self._waiting)]
        self._waiting.clear()
        self._running = len(calls)
        groups: dict[Any, list[_Call]] = defaultdict(list)
        for call in calls:
            groups[call.batches, *(part.shape for part in call.rows[0])].append(call)
        for group in groups.values():
            _run_calls(group)


def _run_calls(calls: Sequence[_Call]) -> None:
    """Run calls of one model as one. If that fails, run each by itself, so that an error reaches only its own job."""
    try:
        results = iter(calls[0].batches.run([row for call in calls for row in call.rows]))
    except BaseException as error:  # a job without a result would wait forever
        if len(calls) == 1:
            calls[0].result.set_exception(error)
        else:
            for call in calls:
                _run_calls([call])
        return
    for call in calls:
        call.result.set_result(list(itertools.islice(results, len(call.rows))))


def batch_calls(model: torch.nn.Module, name: str, most: int, precision: str = "float32", threads: int = 1) -> None:
    """Replace the forward method of a torch model by one that runs in `Batches`.

    The model takes a tensor (batch, ...) and optionally weights (batch, ...), and returns a tensor (batch, ...), which
    becomes float32.

    Args:
        model: The model.
        name: Its name, for messages.
        most: The largest batch size.
        precision: One of PRECISIONS; for any but float32 the model runs in mixed precision.
        threads: Threads of torch for a call on a CPU.
    """
    import torch

    assert precision in PRECISIONS
    forward = model.forward
    dtype = getattr(torch, precision)
    mixed = contextlib.nullcontext if precision == "float32" else functools.partial(torch.autocast, dtype=dtype)

    def call(rows: Sequence[Inputs]) -> Sequence[torch.Tensor]:
        inputs = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        # Set in each call, because modes and the number of threads are set per thread, and `run_batched` has many.
        device = inputs[0].device.type
        with torch.inference_mode(), reproducible(threads, device), mixed(device):
            output: torch.Tensor = forward(*inputs)
        return output.float().unbind()

    batches = Batches(name, most, call, torch.cuda.empty_cache)

    def batched_forward(waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        inputs = (waveforms,) if weights is None else (waveforms, weights)
        return torch.stack(batches(list(zip(*inputs, strict=True))))

    model.forward = batched_forward


@contextlib.contextmanager
def reproducible(threads: int, device: str = "cpu") -> Iterator[None]:
    """Fix the number of threads and, on a GPU, use deterministic kernels; afterwards the settings are restored."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    if device == "cuda":  # not on a CPU, because this imports the compiler of torch, which takes seconds
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if device == "cuda":
            torch.use_deterministic_algorithms(before[1])

"""Devices and batches: which device a stage runs on, and as many rows in one call of a model as its memory holds."""

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
"""One row of what a model is called with: arrays or tensors without the dimension of the batch."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """'cpu' or 'cuda': 'auto' is 'cuda' where this process sees a GPU. ValueError for any other name."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if device != "auto":
        return device
    try:
        import torch
    except ImportError:  # `pipelines.units.extras` says whether it is needed
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


class Batches:
    """Calls of one model. Where memory runs out, the batch is halved, for the rest of the process."""

    def __init__(
        self,
        model: str,
        most: int,
        call: Callable[[Sequence[Inputs]], Sequence[Any]],
        free: Callable[[], None] = lambda: None,
        blank: Callable[[Inputs], Inputs] | None = None,
    ) -> None:
        """`call` gives a result a row, for at `most` rows of equal shapes; `free` gives back what a failed call left
        in the device's cache. With `blank`, which makes an empty row like another one, such rows fill every batch, so
        that all calls have one shape."""
        self.model, self.most, self._call, self._free, self._blank = model, most, call, free, blank

    def __call__(self, rows: Sequence[Inputs]) -> list[Any]:
        """The result of each row. Inside `together`, its rows and those of the other jobs fill the same batches.

        Raises OutOfMemoryError where one row alone does not fit into memory.
        """
        seat: _Seat | None = getattr(_here, "seat", None)
        return seat.meeting.call(seat.number, self, rows) if seat and rows else self.run(rows)

    def run(self, rows: Sequence[Inputs]) -> list[Any]:
        """The result of each row, by as few calls as memory allows."""
        found: list[Any] = []
        while len(found) < len(rows):
            batch = rows[len(found) : len(found) + self.most]
            count = len(batch)
            if self._blank and count < self.most:
                batch = [*batch, *[self._blank(batch[0])] * (self.most - count)]
            try:
                found += self._call(batch)[:count]
                continue
            except RuntimeError as error:  # torch.OutOfMemoryError is one, CTranslate2 has no class of its own
                if "out of memory" not in str(error).lower():
                    raise
                if len(batch) == 1:
                    what = f"{self.model}: one window does not fit into memory: {error}"
                    remedy = "use a smaller model, another device or fewer workers on it"
                    raise OutOfMemoryError(what, remedy) from error
            self.most = len(batch) // 2
            self._free()  # only here: inside the except, the failed call's frames still hold their tensors
            log.warning(
                "%s: out of memory with %d windows in a call, goes on with %d", self.model, len(batch), self.most
            )
        return found


def together(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Results of jobs, in threads whose model calls are batched together: short recordings share a batch.

    A call waits until every other job waits as well or has ended, so that which rows meet in a batch depends on the
    jobs alone and never on time.
    """
    if len(jobs) < 2:
        return [job() for job in jobs]
    meeting = _Meeting(len(jobs))
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(meeting.attend, range(len(jobs)), jobs))


class _Call(NamedTuple):
    batches: Batches
    rows: Sequence[Inputs]
    result: Future[list[Any]]


class _Seat(NamedTuple):
    meeting: _Meeting
    number: int


_here = threading.local()


class _Meeting:
    def __init__(self, jobs: int) -> None:
        self._at_work = jobs
        self._waiting: dict[int, _Call] = {}
        self._lock = threading.Lock()

    def attend(self, number: int, job: Callable[[], T]) -> T:
        _here.seat = _Seat(self, number)
        try:
            return job()
        finally:
            _here.seat = None
            with self._lock:
                self._pause()

    def call(self, number: int, batches: Batches, rows: Sequence[Inputs]) -> list[Any]:
        call = _Call(batches, rows, Future())
        with self._lock:
            self._waiting[number] = call
            self._pause()
        return call.result.result()

    def _pause(self) -> None:
        """One job less is at work; the last one runs what all others wait for."""
        self._at_work -= 1
        if self._at_work:
            return
        calls = [self._waiting[number] for number in sorted(self._waiting)]
        self._waiting.clear()
        self._at_work = len(calls)
        alike: dict[Any, list[_Call]] = defaultdict(list)
        for call in calls:
            alike[call.batches, *(part.shape for part in call.rows[0])].append(call)
        for group in alike.values():
            _settle(group)


def _settle(calls: Sequence[_Call]) -> None:
    """Run calls of one model as one; where that fails each alone, so that an error is told to whom it belongs."""
    try:
        found = iter(calls[0].batches.run([row for call in calls for row in call.rows]))
    except BaseException as error:  # a job that is never answered would wait for ever
        if len(calls) == 1:
            calls[0].result.set_exception(error)
        else:
            for call in calls:
                _settle([call])
        return
    for call in calls:
        call.result.set_result(list(itertools.islice(found, len(call.rows))))


def fit(model: torch.nn.Module, name: str, most: int, precision: str = "float32", threads: int = 1) -> None:
    """Make a torch model call itself in `Batches`, in mixed precision where `precision` is not float32.

    Its input is (batch, ...), with `weights` (batch, ...) or without; its output is one float32 tensor (batch, ...).
    """
    import torch

    assert precision in PRECISIONS
    forward = model.forward
    dtype = getattr(torch, precision)
    mixed = contextlib.nullcontext if precision == "float32" else functools.partial(torch.autocast, dtype=dtype)

    def call(rows: Sequence[Inputs]) -> Sequence[torch.Tensor]:
        given = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        # Whichever thread of `together` this is: modes and the number of threads belong to each thread.
        device = given[0].device.type
        with torch.inference_mode(), reproducible(threads, device), mixed(device):
            output: torch.Tensor = forward(*given)
        return output.float().unbind()

    batches = Batches(name, most, call, torch.cuda.empty_cache)

    def fitted(waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        given = (waveforms,) if weights is None else (waveforms, weights)
        return torch.stack(batches(list(zip(*given, strict=True))))

    model.forward = fitted


@contextlib.contextmanager
def reproducible(threads: int, device: str = "cpu") -> Iterator[None]:
    """Fixed threads while a model runs, and on a GPU deterministic kernels; the process gets its own settings back."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    if device == "cuda":  # only there: it imports torch's compiler, which takes seconds
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if device == "cuda":
            torch.use_deterministic_algorithms(before[1])

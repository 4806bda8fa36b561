"""Probing in a process of its own, which can be ended, while this one does something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from manifests.storage import StorageConfig
from pipelines.audio.children import Child, DiedError, OverrunError, give, take
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.jobs import decoder_died_error, overrun, rebuilt, request

AHEAD = 16
"""Headers that are read ahead. A process that waits for each would cost as much as reading a small file."""
ENDS = ("claims", "error")

Entry = TypeVar("Entry")


class Prober:
    """Reads the headers of files, in the order in which it is asked to. Use it as a context, or close it."""

    def __init__(self, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self._config, self._decode = config, decode
        self._child: Child | None = None
        self._asked: deque[str] = deque()
        """Files of which nothing has come back, oldest first."""
        self._first_death: DiedError | None = None
        """Of a child at the oldest."""
        self._wanted = False

    def begin(self, path: str) -> None:
        """Ask for a file, if that was not done."""
        if path in self._asked:
            return
        self._asked.append(path)
        if self._child is None:
            self._begin_again()
        else:
            self._child.ask(request("probe", path, self._config, self._decode), ENDS)

    def result(self, path: str) -> dict[str, Any]:
        """The claims of its header, as `pipelines.audio.probe.probe` finds them; raises what that raises.

        What was asked for before it is dropped. Raises DecodeLimitError and DecoderDiedError where this file is at
        fault, and OutOfMemoryError where no child can be started.
        """
        self._wanted = True
        self.begin(path)
        while True:
            oldest, message, error = self._answer()
            if oldest == path:
                if error is not None:
                    raise error
                claims: dict[str, Any] = message["claims"]
                return claims

    def ahead(self, entries: Iterable[Entry], path: Callable[[Entry], str | None]) -> Iterator[Entry]:
        """The entries, with the files that `path` names begun some way ahead.

        That is only done while the results are asked for: of names that are known already no header is read. What the
        iteration of `entries` raises comes after the entries before it.
        """
        source, held = iter(entries), deque[Entry]()
        problem: Exception | None = None
        more = True
        while True:
            while more and len(held) <= (AHEAD if self._wanted else 0):
                try:
                    held.append(next(source))
                except StopIteration:
                    more = False
                except Exception as error:  # raised below
                    problem, more = error, False
                else:
                    if self._wanted and (name := path(held[-1])) is not None:
                        self.begin(name)
            if not held:
                break
            self._wanted = False
            yield held.popleft()
        if problem is not None:
            raise problem

    def _answer(self) -> tuple[str, dict[str, Any], Exception | None]:
        """What comes of the oldest file."""
        while True:
            if self._child is None:
                self._begin_again()
            assert self._child is not None
            try:
                message = self._child.answer(self._decode.probe_s)
            except DiedError as death:
                self._kill()
                if (first := self._first_death) is not None:
                    path = self._oldest()
                    return path, {}, decoder_died_error(path, first, death)
                self._first_death = death
            except OverrunError:
                self._kill()
                path = self._oldest()
                return path, {}, overrun(path, "reading its header", self._decode.probe_s, "probe_s")
            except BaseException:  # of a child that could not be started, or Ctrl-C
                self._kill()
                raise
            else:
                error = rebuilt(message["error"]) if message["kind"] == "error" else None
                return self._oldest(), message, error

    def _oldest(self) -> str:
        """The oldest file, of which something has come back now."""
        self._first_death = None
        return self._asked.popleft()

    def _begin_again(self) -> None:
        self._child = Child() if self._first_death else take()
        for path in self._asked:
            self._child.ask(request("probe", path, self._config, self._decode), ENDS)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def close(self) -> None:
        """Leave the child to others; it ends by itself what it is at."""
        child, self._child = self._child, None
        if child is not None:
            give(child)

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()

    def __enter__(self) -> Prober:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probe(path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> dict[str, Any]:
    """What `pipelines.audio.probe.probe` finds, found in a process of its own."""
    with Prober(config, decode) as prober:
        return prober.result(path)

"""Reads headers of files in a child process, ahead of time, while this process does something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from manifests.storage import StorageConfig
from pipelines.audio.children import Child, DiedError, OverrunError, acquire, release
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.jobs import decoder_died_error, error_from_json, overrun_error, request

AHEAD = 16
"""Headers that are read ahead. Waiting for the child for each header would cost as much as reading a small file."""
ENDS = ("claims", "error")
"""The messages that end a request to probe."""

Entry = TypeVar("Entry")


class Prober:
    """Reads the headers of files, in the order of the requests. Use it as a context manager, or close it."""

    def __init__(self, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self._config, self._decode = config, decode
        self._child: Child | None = None
        self._requested: deque[str] = deque()
        """Files that have no answer yet, oldest first."""
        self._first_death: DiedError | None = None
        """The death of a child during the oldest of these files."""
        self._is_used = False
        """Whether the result of the last entry of `prefetch` was asked for."""

    def request(self, path: str) -> None:
        """Request the header of a file, if that was not done yet."""
        if path in self._requested:
            return
        self._requested.append(path)
        if self._child is None:
            self._begin_again()
        else:
            self._child.send(request("probe", path, self._config, self._decode), ENDS)

    def result(self, path: str) -> dict[str, Any]:
        """Return the claims of the header of a file, as `pipelines.audio.probe.probe` does.

        The results of files that were requested before it are dropped.

        Raises:
            UnreadableAudioError: As `pipelines.audio.probe.probe`; DecodeLimitError or DecoderDiedError if reading the
                header takes too long or crashes.
            OutOfMemoryError: No child can be started.
        """
        self._is_used = True
        self.request(path)
        while True:
            oldest, message, error = self._next_result()
            if oldest == path:
                if error is not None:
                    raise error
                claims: dict[str, Any] = message["claims"]
                return claims

    def prefetch(self, entries: Iterable[Entry], path: Callable[[Entry], str | None]) -> Iterator[Entry]:
        """Yield the entries, and request the headers of the next few of them.

        Headers are requested only while their results are used, because entries that are known already need none. An
        error while iterating over `entries` is raised after the entries before it.

        Args:
            entries: The entries.
            path: Returns the file of an entry whose header is read; None for no file.
        """
        source, held = iter(entries), deque[Entry]()
        problem: Exception | None = None
        more = True
        while True:
            while more and len(held) <= (AHEAD if self._is_used else 0):
                try:
                    held.append(next(source))
                except StopIteration:
                    more = False
                except Exception as error:  # it is raised below
                    problem, more = error, False
                else:
                    if self._is_used and (name := path(held[-1])) is not None:
                        self.request(name)
            if not held:
                break
            self._is_used = False
            yield held.popleft()
        if problem is not None:
            raise problem

    def _next_result(self) -> tuple[str, dict[str, Any], Exception | None]:
        """Return the oldest file, with its message or its error."""
        while True:
            if self._child is None:
                self._begin_again()
            assert self._child is not None
            try:
                message = self._child.next_message(self._decode.probe_s)
            except DiedError as death:
                self._kill()
                if (first := self._first_death) is not None:
                    path = self._pop_oldest()
                    return path, {}, decoder_died_error(path, first, death)
                self._first_death = death
            except OverrunError:
                self._kill()
                path = self._pop_oldest()
                return path, {}, overrun_error(path, "reading its header", self._decode.probe_s, "probe_s")
            except BaseException:  # the child could not be started, or Ctrl-C
                self._kill()
                raise
            else:
                error = error_from_json(message["error"]) if message["kind"] == "error" else None
                return self._pop_oldest(), message, error

    def _pop_oldest(self) -> str:
        """Remove the oldest file, which has an answer now, and return it."""
        self._first_death = None
        return self._requested.popleft()

    def _begin_again(self) -> None:
        self._child = Child() if self._first_death else acquire()
        for path in self._requested:
            self._child.send(request("probe", path, self._config, self._decode), ENDS)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def close(self) -> None:
        """Release the child for other files. It ends its requests by itself."""
        child, self._child = self._child, None
        if child is not None:
            release(child)

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
    """Do the same as `pipelines.audio.probe.probe`, in a child process."""
    with Prober(config, decode) as prober:
        return prober.result(path)

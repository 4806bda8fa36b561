"""Decoding in a process of its own, which can be ended: no file costs more than itself.

A child that exceeds a limit of the recipe's table [decode] is killed, and one that dies is replaced once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.blocks import get_block
from pipelines.audio.children import Child, DiedError, OverrunError, give, take
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.jobs import decoder_died_error, overrun, rebuilt, request
from runtime.errors import DecoderDiedError, SpeechmillError

ENDS = ("closed",)


class _Job:
    """One file in one child; begun again, once, in a fresh child where that one dies."""

    def __init__(self, path: str, config: StorageConfig, decode: DecodeConfig) -> None:
        self._path = path
        self._request = request("decode", path, config, decode)
        self._orders: list[dict[str, Any]] = []
        self._first_death: DiedError | None = None
        self._taken = self._skip = 0
        self._child: Child | None = take()
        self._child.ask(self._request, ENDS)

    def order(self, order: dict[str, Any]) -> None:
        """Something that belongs to the request; given again to a fresh child."""
        if self._child is not None:
            self._orders.append(order)
            self._child.ask(order)

    def answer(self, cpu_s: float, proof: bool = False) -> dict[str, Any]:
        """The next message of the child, or what it raised; while it proves, not what decoding raised before.

        Raises DecodeLimitError after `cpu_s`, DecoderDiedError where a second child has died, and OutOfMemoryError
        where none can be started.
        """
        while True:
            if self._child is None:
                raise SpeechmillError(f"{self._path!r}: its decoding was ended", "open it again")
            try:
                message = self._child.answer(cpu_s)
            except DiedError as death:
                self._begin_again(death)
                continue
            except OverrunError:
                self._kill()
                raise overrun(self._path, "decoding without any new sound", cpu_s, "stall_s") from None
            except BaseException:  # of a child that could not be started, or Ctrl-C
                self._kill()
                raise
            if message["kind"] == "error" and message["proof"] >= proof:
                raise rebuilt(message["error"])
            if message["kind"] == "block" and self._skip:
                self._skip -= 1
                self._child.ask({"order": "taken"})
                continue
            return message

    def block(self, message: dict[str, Any]) -> np.ndarray:
        assert self._child is not None
        try:
            block = get_block(self._child.memory, message["slot"], *message["shape"])
        except ValueError as error:
            self._kill()
            raise DecoderDiedError(f"{self._path!r}: the process that decodes it is out of order: {error}") from None
        self._child.ask({"order": "taken"})
        self._taken += 1
        return block

    def close(self) -> None:
        """Leave the child to others; it ends by itself what it is at."""
        child, self._child = self._child, None
        if child is not None:
            child.ask({"order": "close"})
            give(child)

    def _begin_again(self, death: DiedError) -> None:
        self._kill()
        if self._first_death is not None:
            raise decoder_died_error(self._path, self._first_death, death) from None
        self._first_death = death
        self._skip = self._taken
        self._child = Child()
        self._child.ask(self._request, ENDS)
        for order in self._orders:
            self._child.ask(order)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()


class IsolatedDecoder:
    """`Decoder` in a process of its own: the same blocks, float32 (channels, samples) at full scale 1. Iterate it once.

    After the first block it has the attributes `sample_rate`, `channels` and `channel_layout`, after the last one all
    that `Decoder.facts` names. Iterating raises what `Decoder` raises, DecodeLimitError and DecoderDiedError, and
    OutOfMemoryError where the machine cannot decode at all.
    """

    def __init__(self, path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self.path, self.decode = path, decode
        self._facts: dict[str, Any] = {}
        self._job = _Job(path, config, decode)

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            message = self._job.answer(self.decode.stall_s)
            self._facts |= message.get("facts", {})
            if message["kind"] == "decoded":
                return
            yield self._job.block(message)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_facts"][name]
        except KeyError:
            raise AttributeError(f"{name!r} is not known of a recording before it is decoded") from None

    def verify_sha256(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this hex digest; reads what decoding did not.

        It may be called after any block, and ends the iteration.
        """
        self._job.order({"order": "prove", "sha256": sha256})
        # No limit: what is left is to read the file to its end. Blocks that were on their way come first.
        while self._job.answer(math.inf, proof=True)["kind"] != "proved":
            pass

    def close(self) -> None:
        """End the decoding, at any time."""
        self._job.close()

"""Decodes files in a child process, so that a file that hangs or crashes the decoder affects only itself.

A child that exceeds a limit of the recipe's table [decode] is killed. A child that dies is replaced once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.blocks import get_block
from pipelines.audio.children import Child, DiedError, OverrunError, acquire, release
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.jobs import decoder_died_error, error_from_json, overrun_error, request
from runtime.errors import DecoderDiedError, SpeechmillError

ENDS = ("closed",)
"""The message that ends a request to decode."""


class _Job:
    """The decoding of one file in a child. If the child dies, it is begun again once, in a new child."""

    def __init__(self, path: str, config: StorageConfig, decode: DecodeConfig) -> None:
        self._path = path
        self._request = request("decode", path, config, decode)
        self._orders: list[dict[str, Any]] = []
        self._first_death: DiedError | None = None
        self._blocks_read = self._blocks_to_skip = 0
        self._child: Child | None = acquire()
        self._child.send(self._request, ENDS)

    def order(self, order: dict[str, Any]) -> None:
        """Send an order that belongs to the request. A new child gets it again."""
        if self._child is not None:
            self._orders.append(order)
            self._child.send(order)

    def next_message(self, cpu_s: float, verifying: bool = False) -> dict[str, Any]:
        """Wait for the next message of the child.

        Args:
            cpu_s: CPU seconds that the child may use before it sends one.
            verifying: Whether the bytes are being verified. Errors of decoding are then ignored.

        Raises:
            DecodeLimitError: The child used more than `cpu_s`.
            DecoderDiedError: A second child has died.
            OutOfMemoryError: No child can be started.
            Exception: Whatever the child raised.
        """
        while True:
            if self._child is None:
                raise SpeechmillError(f"{self._path!r}: its decoding was ended", "open it again")
            try:
                message = self._child.next_message(cpu_s)
            except DiedError as death:
                self._begin_again(death)
                continue
            except OverrunError:
                self._kill()
                raise overrun_error(self._path, "decoding without any new sound", cpu_s, "stall_s") from None
            except BaseException:  # the child could not be started, or Ctrl-C
                self._kill()
                raise
            if message["kind"] == "error" and message["verifying"] >= verifying:
                raise error_from_json(message["error"])
            if message["kind"] == "block" and self._blocks_to_skip:
                self._blocks_to_skip -= 1
                self._child.send({"order": "taken"})
                continue
            return message

    def block(self, message: dict[str, Any]) -> np.ndarray:
        """Read the block that a message announces."""
        assert self._child is not None
        try:
            block = get_block(self._child.memory, message["slot"], *message["shape"])
        except ValueError as error:
            self._kill()
            raise DecoderDiedError(f"{self._path!r}: the process that decodes it sent a wrong block: {error}") from None
        self._child.send({"order": "taken"})
        self._blocks_read += 1
        return block

    def close(self) -> None:
        """Release the child for other files. It ends the decoding by itself."""
        child, self._child = self._child, None
        if child is not None:
            child.send({"order": "close"})
            release(child)

    def _begin_again(self, death: DiedError) -> None:
        self._kill()
        if self._first_death is not None:
            raise decoder_died_error(self._path, self._first_death, death) from None
        self._first_death = death
        self._blocks_to_skip = self._blocks_read
        self._child = Child()
        self._child.send(self._request, ENDS)
        for order in self._orders:
            self._child.send(order)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()


class IsolatedDecoder:
    """A `Decoder` in a child process. It yields the same blocks, float32 (channels, samples), and is iterated once.

    After the first block it has the attributes `sample_rate`, `channels` and `channel_layout`, after the last block all
    those that `Decoder.facts` names.

    Raises:
        UnreadableAudioError: While iterating, as `Decoder`.
        DecodeLimitError: The file exceeds a limit of the table [decode].
        DecoderDiedError: The child died twice.
        OutOfMemoryError: The machine has no memory or no process for a child.
    """

    def __init__(self, path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self.path, self.decode = path, decode
        self._facts: dict[str, Any] = {}
        self._job = _Job(path, config, decode)

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            message = self._job.next_message(self.decode.stall_s)
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
        """Raise ChangedAudioError unless the bytes of the file have this sha256 (hex digits).

        Bytes that decoding has not read are read. It may be called after any block, and ends the iteration.
        """
        self._job.order({"order": "verify", "sha256": sha256})
        # There is no time limit, because the file is only read to its end. Blocks that were sent before come first.
        while self._job.next_message(math.inf, verifying=True)["kind"] != "verified":
            pass

    def close(self) -> None:
        """End the decoding. It may be called at any time."""
        self._job.close()

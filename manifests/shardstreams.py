"""Read the two archives of a shard as streams: its Lhotse cuts and its arrays."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from manifests.stored import Stored

KEY = re.compile(r"[A-Za-z0-9_-]+")
"""What a window id may be: WebDataset splits names of members at a dot, and a slash breaks Lhotse."""
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)
"""Errors of a stream that is damaged or holds something else: of tarfile, gzip, numpy, json, and of this module."""


class HashingReader:
    """A stream that computes the sha256 and the size in bytes of everything that is read through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.sha256, self.size_bytes = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        data = self.stream.read(size)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data

    def drain(self) -> None:
        """Read the rest of the stream, so that the hash is that of the whole file."""
        while self.read(1 << 20):
            pass


def read_cuts(stream: HashingReader) -> Iterator[dict[str, Any]]:
    """Yield the cuts of a `cuts.NNNNNN.jsonl.gz`. Raises one of DAMAGE for a file that is damaged."""
    with gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb") as lines:
        for line in lines:
            cut = json.loads(line)
            if not isinstance(cut, dict):
                raise ValueError("a line is not a cut")
            yield cut


def read_arrays(stream: HashingReader) -> Iterator[tuple[str, Stored, dict[str, Any]]]:
    """Yield the windows of a `latents.NNNNNN.tar`, in order: id, features and manifest of each.

    Raises one of DAMAGE for a file that is damaged or holds other members.
    """
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
        members = iter(tar)
        for member in members:
            key, dot, kind = member.name.partition(".")
            if not KEY.fullmatch(key) or dot + kind != ".npy":
                raise ValueError(f"there is a member {member.name} where <window id>.npy belongs")
            try:
                stored = Stored.parse(_contents(tar, member))
            except ValueError as error:
                raise ValueError(f"{member.name} is {error}") from error
            second = next(members, None)
            if second is None or second.name != f"{key}.json":
                follower = second.name if second else "the end"
                raise ValueError(f"{member.name} is followed by {follower}, not by {key}.json")
            yield key, stored, json.loads(_contents(tar, second))


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"the member {member.name} is not a file")
    return file.read()

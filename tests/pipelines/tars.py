"""Tar archives for tests, whole and damaged, made byte by byte."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import soundfile

END = b"\0" * 1024


def sound(level: float, seconds: float = 1.0) -> bytes:
    """A WAV of noise: bytes in which no block is all zeros."""
    data = io.BytesIO()
    samples = np.random.default_rng(int(level * 1000)).uniform(-level, level, int(8000 * seconds))
    soundfile.write(data, samples, 8000, format="WAV")
    return data.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One block of 512 bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header and what it is of."""
    return header(name, len(data), kind) + data + b"\0" * (-len(data) % 512)


def signed(block: bytes) -> bytes:
    """A header whose fields were changed, with the checksum of the new ones."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]

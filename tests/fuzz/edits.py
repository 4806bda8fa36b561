"""Small damages to bytes, as tuples that can be written down: `edited(data, (("cut", 40), ("flip", 3, 7)))`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fuzz import sounds

Edit = tuple[Any, ...]
MAX_BYTES = 8 << 20
"""No edit makes an input longer than this, so that a long run is spent on many inputs."""


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The bytes after each edit in turn. Offsets beyond the end count on from the start again."""
    for kind, *values in edits:
        data = EDITS[kind](data, *values)[:MAX_BYTES]
    return data


def _put(data: bytes, offset: int, new: bytes) -> bytes:
    """Overwrite."""
    at = offset % (len(data) + 1)
    return data[:at] + new + data[at + len(new) :]


def _flip(data: bytes, offset: int, bit: int) -> bytes:
    if not data:
        return data
    at = offset % len(data)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def _cut(data: bytes, length: int) -> bytes:
    """Keep so many bytes."""
    return data[: length % (len(data) + 1)]


def _insert(data: bytes, offset: int, new: bytes) -> bytes:
    at = offset % (len(data) + 1)
    return data[:at] + new + data[at:]


def _drop(data: bytes, offset: int, length: int) -> bytes:
    at = offset % (len(data) + 1)
    return data[:at] + data[at + length :]


def _repeat(data: bytes, offset: int, length: int, times: int) -> bytes:
    at = offset % (len(data) + 1)
    return data[:at] + data[at : at + length] * times + data[at + length :]


def _tail(data: bytes, value: int, length: int) -> bytes:
    """Append one byte many times."""
    return data + bytes([value]) * length


def _splice(data: bytes, offset: int, other: str, start: int, length: int) -> bytes:
    """Put in a part of another sound."""
    return _insert(data, offset, sounds.sound(other)[start : start + length])


def _ogg_checksums(data: bytes) -> bytes:
    """Make the checksums of Ogg pages right again, without which a reader drops an edited page unseen."""
    made = bytearray(data)
    at = data.find(b"OggS")
    while 0 <= at <= len(data) - 27:
        stop = at + 27 + data[at + 26]
        stop += sum(data[at + 27 : stop])
        made[at + 22 : at + 26] = bytes(4)
        made[at + 22 : at + 26] = _ogg_crc(made[at:stop]).to_bytes(4, "little")[: max(0, len(made) - at - 22)]
        at = data.find(b"OggS", at + 4)
    return bytes(made)


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ OGG_CRC[crc >> 24 ^ byte]
    return crc


def _ogg_crc_of(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if crc & 0x80000000 else crc << 1
    return crc


OGG_CRC = [_ogg_crc_of(byte) for byte in range(256)]
EDITS = {
    "put": _put,
    "flip": _flip,
    "cut": _cut,
    "insert": _insert,
    "drop": _drop,
    "repeat": _repeat,
    "tail": _tail,
    "splice": _splice,
    "ogg_checksums": _ogg_checksums,
}

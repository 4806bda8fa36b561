"""Finds the sound in WAV, RF64, W64, AIFF, AU and CAF files, and corrects a wrong size in their headers.

The headers of these formats declare how many bytes of sound follow. The declared size may be too small: recorders stop
early, 32-bit sizes overflow at 4 GiB, and some tools never complete the header. FFmpeg then drops the rest without an
error. So the header is compared with the file, and FFmpeg reads a view of the file that has the true size.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MAX_CHUNKS = 1000
"""A file with more chunks than this before the sound is refused, because FFmpeg would read empty chunks for minutes."""
MIN_TAIL_BYTES = 256
"""Fewer bytes than this after the declared end are taken for padding. They hold at most 32 ms of sound."""
SEARCHED_BYTES = 1 << 18
"""Bytes at the end of a file with a too small declared size that are searched for known chunks."""
KNOWN_CHUNKS = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|a[xX]ML|_PMX|cue |smpl|inst|plst|fact|PEAK|JUNK|junk|PAD |FLLR|umid|levl|chna|DISP|"
    rb"afsp|MARK|COMT|NAME|AUTH|ANNO|\(c\) "
)
PRINTABLE = re.compile(rb"[ -~]{4}")
TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""The beginnings of tags that taggers append to any file, without a chunk."""
MAX_TAG_BYTES = 1 << 26
OPEN_32 = 0x7FFF0000
"""A 32-bit size from this value on means 'not known yet' if less follows. SoX, arecord and FFmpeg write such sizes."""
OPEN_64 = 1 << 40
W64 = {
    name: bytes.fromhex(text)
    for name, text in {
        "riff": "726966662E91CF11A5D628DB04C10000",
        "wave": "77617665F3ACD3118CD100C04F8EDB8A",
        "data": "64617461F3ACD3118CD100C04F8EDB8A",
    }.items()
}


class Readable(Protocol):
    """A seekable stream of bytes."""

    def read(self, size: int = -1) -> bytes: ...
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int: ...
    def tell(self) -> int: ...


class HeaderError(ValueError):
    """FFmpeg would misread the file; the message says why."""


class SizeField(NamedTuple):
    """A number in the header that depends on the size of the sound."""

    offset: int
    """The offset of the field in the file."""
    layout: str
    """Its `struct` format."""
    extra: int
    """Bytes that it counts besides the bytes of sound."""

    def pack(self, sound_bytes: int) -> bytes:
        """Return the field for so many bytes of sound, or the largest number that it can hold."""
        largest = {"I": 2**32 - 1, "Q": 2**64 - 1, "q": 2**63 - 1}[self.layout[-1]]
        return struct.pack(self.layout, min(sound_bytes + self.extra, largest))


@dataclass(frozen=True)
class SoundData:
    """The place of the sound in a file, in bytes."""

    start: int
    """The offset of the first byte of sound."""
    declared: int | None
    """Bytes of sound that the header declares; None if it declares no size."""
    end: int
    """The offset after the last byte of sound."""
    fields: tuple[SizeField, ...]
    plain: bool
    """Whether the header is right and nothing follows the sound. Otherwise FFmpeg may take a second chunk of sound for
    the first one, or read empty chunks for minutes."""
    limit: int | None
    """The most bytes of sound that FFmpeg reads in this format; None if there is no limit."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def undeclared(self) -> int:
        """Bytes of sound after the declared end."""
        return 0 if self.declared is None else max(0, self.size - self.declared)

    @property
    def absent(self) -> int:
        """Declared bytes that the file does not have."""
        return 0 if self.declared is None else max(0, self.declared - self.size)

    @property
    def unread(self) -> int:
        """Bytes of sound that FFmpeg cannot read."""
        return 0 if self.limit is None else max(0, self.size - self.limit)


@dataclass(frozen=True)
class _Header:
    """The content of a header, before it is compared with the file."""

    start: int
    size: int
    """The declared size of the sound."""
    fields: tuple[SizeField, ...]
    chunk: _Chunk | None
    """The form of chunks after the sound; None for a format without chunks."""
    limit: int | None = None
    """The most bytes of sound that the header can declare to FFmpeg; None if there is no limit."""
    complete: bool = True
    """Whether everything that FFmpeg needs is before the sound, so that the rest of the file can be hidden."""

    @property
    def bits(self) -> int:
        return 64 if self.fields[0].layout[-1] in "qQ" else 32


class _Chunk(NamedTuple):
    """The form of the beginning of a chunk: its name, then its size."""

    layout: str
    align: int
    counts_itself: bool = False

    def read(self, file: Readable, offset: int) -> tuple[bytes, int, int] | None:
        """Return the name and size of a chunk, and the offset of the next one; None at the end of the file."""
        width = struct.calcsize(self.layout)
        data = _read(file, offset, width)
        if len(data) < width:
            return None
        name, size = struct.unpack(self.layout, data)
        content = size - width if self.counts_itself else size
        return name, content, offset + width + content + -content % self.align

    @property
    def width(self) -> int:
        return struct.calcsize(self.layout)


RIFF, FORM, WAVE64, CAFF = _Chunk("<4sI", 2), _Chunk(">4sI", 2), _Chunk("<16sQ", 8, True), _Chunk(">4sq", 1)


def find_sound(file: Readable, size_bytes: int) -> SoundData | None:
    """Find the sound in a file of these formats. It returns None for any other format, and moves the position.

    Raises:
        HeaderError: There are too many chunks before the sound, or FFmpeg would misread it.
    """
    head = _read(file, 0, 40)
    header: _Header | None = None
    if head[:4] == b"RIFX":
        raise HeaderError(
            "it is a big-endian WAV (RIFX), of which FFmpeg reads the bytes of a sample in the wrong order"
        )
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        header = _wave(file, head, size_bytes)
    elif head[:16] == W64["riff"] and head[24:40] == W64["wave"]:
        header = _wave64(file, size_bytes)
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        header = _aiff(file, size_bytes)
    elif head[:4] == b".snd" and len(head) >= 24:
        start, size = struct.unpack(">II", head[4:12])
        header = _Header(start, size, (SizeField(8, ">I", 0),), None)
    elif head[:4] == b"caff":
        header = _caf(file, size_bytes)
    if header is None or header.start > size_bytes:
        return None
    return _compared(file, header, size_bytes)


def corrected(file: Readable, data: SoundData | None) -> Readable:
    """Return the file as FFmpeg must read it: the file itself, or a view with a corrected header."""
    if data is None or data.plain:
        return file
    return View(file, {field.offset: field.pack(data.size) for field in data.fields}, data.end)


class View:
    """A view of a file that ends at `end`, with some bytes replaced.

    It wraps the file that is hashed, so the hash is that of the stored bytes.
    """

    def __init__(self, file: Readable, patches: Mapping[int, bytes], end: int) -> None:
        self._file, self._patches, self._end = file, patches, end
        self._position = file.seek(0)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        start, self._position = self._position, self._position + len(data)
        for offset, patch in self._patches.items():
            first, last = max(start, offset), min(self._position, offset + len(patch))
            if first < last:
                data = data[: first - start] + patch[first - offset : last - offset] + data[last - start :]
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = self._file.seek(origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position


def _wave(file: Readable, head: bytes, size_bytes: int) -> _Header | None:
    long_size: SizeField | None = None
    for name, size, offset in _chunks(file, RIFF, 12, size_bytes):
        if name == b"ds64" and head[:4] in (b"RF64", b"BW64"):
            long_size = SizeField(offset + 8, "<Q", 0)
        elif name == b"data" and long_size:
            declared = _number(file, long_size)
            return None if declared is None else _Header(offset, declared, (long_size,), RIFF)
        elif name == b"data":
            return _Header(offset, size, (SizeField(offset - 4, "<I", 0),), RIFF)
    return None


def _wave64(file: Readable, size_bytes: int) -> _Header | None:
    for name, size, offset in _chunks(file, WAVE64, 40, size_bytes):
        if name == W64["data"]:
            return _Header(offset, max(0, size), (SizeField(offset - 8, "<Q", WAVE64.width),), WAVE64)
    return None


def _aiff(file: Readable, size_bytes: int) -> _Header | None:
    described = False
    for name, size, offset in _chunks(file, FORM, 12, size_bytes):
        described = described or name == b"COMM"
        if name == b"SSND":
            skipped = _number(file, SizeField(offset, ">I", 0))
            if skipped is None:
                return None
            start = offset + 8 + skipped
            fields = (SizeField(offset - 4, ">I", 8 + skipped), SizeField(4, ">I", start - 8))
            limit = 2**32 - 1 - fields[0].extra
            return _Header(start, max(0, size - 8 - skipped), fields, FORM, limit, described)
    return None


def _caf(file: Readable, size_bytes: int) -> _Header | None:
    constant = False
    for name, size, offset in _chunks(file, CAFF, 8, size_bytes):
        if name == b"desc":
            constant = bool(_number(file, SizeField(offset + 16, ">I", 0)))
        elif name == b"data":
            # Packets of different sizes are found by a table, which does not have the packets after the declared end.
            start = offset + 4  # after an edit count
            fields = (SizeField(offset - 8, ">q", 4),)
            return _Header(start, max(0, size - 4), fields, CAFF) if constant else None
    return None


def _chunks(file: Readable, chunk: _Chunk, offset: int, size_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the size and the offset of the content of each chunk from `offset` on."""
    for _ in range(MAX_CHUNKS):
        found = chunk.read(file, offset) if offset < size_bytes else None
        if found is None:
            return
        name, size, following = found
        yield name, size, offset + chunk.width
        if following < offset + chunk.width:  # a negative size
            return
        offset = following
    raise HeaderError(f"more than {MAX_CHUNKS} chunks stand before its sound")


def _compared(file: Readable, header: _Header, size_bytes: int) -> SoundData | None:
    """Compare a header with the file. It returns None if FFmpeg needs data after the sound."""
    if not header.complete:
        return None
    start, available = header.start, size_bytes - header.start
    unknown = header.size in (0, 2_000_000_000) or header.size >= (OPEN_64 if header.bits == 64 else OPEN_32)
    end = size_bytes if header.size >= available else _end_of_sound(file, header, size_bytes)
    declared = None if unknown and header.size != end - start else header.size
    plain = header.size == end - start and end == size_bytes
    return SoundData(start, declared, end, header.fields, plain, header.limit)


def _end_of_sound(file: Readable, header: _Header, size_bytes: int) -> int:
    """Return the end of the sound if something follows after its declared size."""
    declared_end = header.start + header.size
    # A 32-bit size of a file beyond 4 GiB has overflowed, perhaps more than once.
    wraps = range(declared_end, size_bytes + 1, 1 << 32) if header.bits == 32 else [declared_end]
    for end in wraps:
        if _only_chunks(file, header.chunk, end, size_bytes):
            return end
    if header.size > 0:
        if size_bytes - declared_end < MIN_TAIL_BYTES or _only_zeros(file, declared_end, size_bytes):
            return declared_end
        if _read(file, declared_end, 8).startswith(TAGS) and size_bytes - declared_end < MAX_TAG_BYTES:
            return declared_end
    if header.chunk is RIFF:
        first = max(declared_end, size_bytes - SEARCHED_BYTES)
        for match in KNOWN_CHUNKS.finditer(_read(file, first, size_bytes - first)):
            if _only_chunks(file, header.chunk, first + match.start(), size_bytes):
                return first + match.start()
    return size_bytes


def _only_chunks(file: Readable, chunk: _Chunk | None, offset: int, size_bytes: int) -> bool:
    """Return whether only chunks, and perhaps tags or zeros after them, follow from `offset` to the end of the file."""
    if chunk is None:
        return offset == size_bytes
    starts = sorted({offset, offset + -offset % chunk.align})  # they start at a multiple, but not with all writers
    return any(_reaches_end(file, chunk, start, size_bytes) for start in starts)


def _reaches_end(file: Readable, chunk: _Chunk, offset: int, size_bytes: int) -> bool:
    for number in range(MAX_CHUNKS):
        if size_bytes - offset < chunk.width:
            return number > 0 or offset >= size_bytes
        found = chunk.read(file, offset)
        if found is None:
            return False
        name, size, following = found
        if size < 0 or not PRINTABLE.fullmatch(name[:4]):
            tags = _read(file, offset, 8).startswith(TAGS)
            return number > 0 and (tags or _only_zeros(file, offset, size_bytes))
        if following > size_bytes + chunk.align:  # a known chunk that is cut short
            return KNOWN_CHUNKS.fullmatch(name[:4]) is not None
        offset = following
    return True


def _only_zeros(file: Readable, start: int, stop: int) -> bool:
    file.seek(start)
    zeros = bytes(1 << 20)
    while start < stop:
        block = file.read(min(len(zeros), stop - start))
        if block != zeros[: len(block)]:
            return False
        if not block:
            return True
        start += len(block)
    return True


def _number(file: Readable, field: SizeField) -> int | None:
    data = _read(file, field.offset, struct.calcsize(field.layout))
    return None if len(data) < struct.calcsize(field.layout) else int(struct.unpack(field.layout, data)[0])


def _read(file: Readable, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)

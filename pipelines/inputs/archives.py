"""Reads the headers of tar archives as untrusted input, and reports damaged and incomplete members.

Python's tarfile stops without an error at a damaged header and at the first end mark. It also takes sparse members for
complete ones, and holds all members in memory. So it is used only to parse single blocks of 512 bytes.
"""

from __future__ import annotations

import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipelines.recipes.recipe import IngestConfig

BLOCK = tarfile.BLOCKSIZE
SCAN_BYTES = 1 << 20
MAGIC = re.compile(rb"ustar[\0 ]")
MAGIC_AT = 257
"""The offset of the magic word in a header, in all formats except that of 1979."""
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
EXTENDED = (*PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
AGAIN = "fetch or pack the archive again, then ingest again"


class TarMember(NamedTuple):
    """A member as its header describes it."""

    name: str
    kind: str
    """'file', 'link' or 'other'."""
    offset: int
    size: int
    """The size of its bytes in the archive."""
    problem: str = ""
    """Why these bytes are not the sound of the member; '' if they are."""
    remedy: str = AGAIN


class _Step(NamedTuple):
    """What is at an offset of an archive, and the offset of the next header."""

    after: int
    member: TarMember | None = None
    closed: bool = False
    """Whether it is the end mark."""
    damage: str = ""
    header: bool = True
    """Whether it is a header, possibly a damaged one, so that the member before it is complete."""


class _DamagedError(Exception):
    """A header that cannot be used."""


class TarReader:
    """Iterates over the members of an archive, in order. Afterwards, `damage` says what is wrong with the archive.

    After damaged data it continues at the next valid header. After an end mark it continues with data that was appended
    to the archive. The bytes of a member are trusted only if a header or the end mark follows them.
    """

    def __init__(self, file: BinaryIO, limits: IngestConfig) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.max_header_bytes = int(limits.max_tar_header_mb * 1e6)
        self.max_headers = limits.max_tar_headers
        self.damage = ""
        self.shared: dict[str, str] = {}
        """The records of the global headers so far."""

    def __iter__(self) -> Iterator[TarMember]:
        at, last, closed = 0, None, False
        while True:
            step = self._read_step(at, closed)
            start = at + 1
            if last:
                if problem := self._problem(last, step):
                    last, start = last._replace(problem=problem, remedy=AGAIN), last.offset
                yield last
            last, closed = step.member, step.closed
            if step.damage:
                self.damage = self.damage or step.damage
                if (found := self._find_header(start)) is None:
                    return
                at = found
            elif closed and step.after >= self.size:
                return
            else:
                at = step.after

    def _problem(self, member: TarMember, following: _Step) -> str:
        """Return why the bytes of a member cannot be trusted, by what follows them; '' if they can."""
        if member.offset + member.size > self.size:
            return f"the archive is cut short: {self.size - member.offset} of its {member.size} bytes are there"
        return "" if following.header else "no header follows it in the archive: its bytes were cut or shifted"

    def _read_step(self, at: int, closed: bool) -> _Step:
        """Read what is at an offset. `closed` is whether an end mark came before it."""
        block = self._read(at, BLOCK)
        if not block:
            return _Step(at, damage="it is cut short: the mark that closes an archive is not there")
        if at == 0 and block.startswith(tuple(COMPRESSED)):
            return _Step(at, damage=_not_an_archive(block), header=False)
        if len(block) < BLOCK and any(block):
            return _Step(at, damage=f"it is cut short within the header at byte {at}")
        if not any(block):
            return _Step(self._skip_zeros(at), closed=True) if len(block) == BLOCK else _Step(at, damage="cut short")
        try:
            member, after = self._parse(at)
        except _DamagedError as error:
            return _Step(at, damage=str(error))
        except tarfile.HeaderError:
            if at == 0:
                return _Step(at, damage=_not_an_archive(block), header=False)
            what = "bytes that are no archive follow its end mark" if closed else "a header is damaged"
            return _Step(at, damage=f"{what} (at byte {at})", header=bool(MAGIC.match(block, MAGIC_AT)))
        return _Step(after, member)

    def _parse(self, at: int) -> tuple[TarMember, int]:
        """Return the member whose headers begin at `at`, and the offset of the next header.

        Raises:
            tarfile.HeaderError: There is no valid header.
            _DamagedError: The headers cannot be used.
        """
        begun, long_name = at, b""
        records = dict(self.shared)
        for _ in range(self.max_headers + 1):
            block = self._read(at, BLOCK)
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            at += BLOCK
            if info.type not in EXTENDED:
                return self._member(info, at, block, records, long_name)
            if not 0 <= info.size <= self.max_header_bytes:
                limit = f"{self.max_header_bytes / 1e6:g} MB (ingest.max_tar_header_mb)"
                raise _DamagedError(f"the header at byte {begun} claims {info.size} bytes, more than {limit}")
            data = self._read(at, info.size)
            at += _padded(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = data.partition(b"\0")[0]
            elif info.type in PAX:
                read = _pax_records(data, begun)
                records |= read
                if info.type == tarfile.XGLTYPE:
                    self.shared |= read
        limit = f"{self.max_headers} (ingest.max_tar_headers)"
        raise _DamagedError(f"the member at byte {begun} has more headers than {limit}")

    def _member(
        self, info: tarfile.TarInfo, at: int, block: bytes, records: dict[str, str], long_name: bytes
    ) -> tuple[TarMember, int]:
        """Return the member of a plain header, whose bytes begin at `at`, and the offset of the next header."""
        long = long_name.decode("utf-8", "surrogateescape")
        name = records.get("GNU.sparse.name") or records.get("path") or long or info.name
        size = _number(records["size"], at) if "size" in records else info.size
        if size < 0:
            raise _DamagedError(f"the header at byte {at - BLOCK} claims {size} bytes")
        if info.islnk() or info.issym():
            return TarMember(name, "link", at, 0), at
        holds_bytes = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if not holds_bytes:
            return TarMember(name, "other", at, 0), at
        problem, remedy = "", ""
        if info.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith(("GNU.sparse.", "SCHILY.real")) for key in records
        ):
            problem = "it was packed with holes (tar --sparse), which are not filled in"
            remedy = "unpack the archive, or pack it again without --sparse"
        elif not info.isreg():
            problem = f"it is a member of type {info.type!r}, for example a part of a file packed over several archives"
            remedy = "unpack the archive and ingest the files"
        if info.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more and len(following := self._read(at, BLOCK)) == BLOCK:
                more, at = following[504], at + BLOCK
        return TarMember(name, "file", at, size, problem, remedy), at + _padded(size)

    def _read(self, at: int, size: int) -> bytes:
        if at >= self.size:
            return b""
        self.file.seek(at)
        return self.file.read(size)

    def _skip_zeros(self, at: int) -> int:
        """Return the offset of the next block that is not all zeros."""
        while data := self._read(at, SCAN_BYTES):
            if any(data):
                return at + (len(data) - len(data.lstrip(b"\0"))) // BLOCK * BLOCK
            at += len(data)
        return self.size

    def _find_header(self, start: int) -> int | None:
        """Return the offset of the next valid header, which may be at any byte; None if there is none."""
        for at in itertools.count(start, SCAN_BYTES):
            data = self._read(at, SCAN_BYTES + BLOCK)
            for match in MAGIC.finditer(data, MAGIC_AT):
                begin = match.start() - MAGIC_AT
                if _is_header(data[begin : begin + BLOCK]):
                    return at + begin
            if len(data) < SCAN_BYTES + BLOCK:
                return None
        raise AssertionError("count has no end")


def _is_header(block: bytes) -> bool:
    # The checksum is octal. Checking that first is cheap, since a file may be full of the magic word.
    if len(block) < BLOCK or not block[148:156].strip(b" \0").isdigit():
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _not_an_archive(block: bytes) -> str:
    for magic, name in COMPRESSED.items():
        if block.startswith(magic):
            return f"it is compressed ({name}): unpack it, or pack it as a plain tar"
    return f"it is no tar archive (first bytes {block[:8]!r})"


def _pax_records(data: bytes, begun: int) -> dict[str, str]:
    """Parse the records 'LENGTH KEY=VALUE\\n' of an extended header."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 20)
        length = _number(data[at:blank].decode("latin-1"), begun)
        key, equals, value = data[blank + 1 : at + length].partition(b"=")
        if blank < 0 or not equals or not value.endswith(b"\n") or at + length > len(data):
            raise _DamagedError(f"the extended header at byte {begun} is damaged")
        records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        at += length
    return records


def _number(text: str, begun: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise _DamagedError(f"the extended header at byte {begun} is damaged: {text[:40]!r} is no number")
    return int(text)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK

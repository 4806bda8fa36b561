"""Reads lists and manifests as untrusted input. A wrong line affects only itself.

A list is a text file with a name on each line. A manifest has a JSON object of Lhotse or NeMo on each line. Both may be
compressed with gzip.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import posixpath
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import quote, urljoin

from manifests.exchange.foreign.lhotse import NamedAudio, named_audio
from manifests.storage import StorageConfig
from pipelines.audio.files import open_file, scheme, split_s3
from pipelines.audio.parts import MAX_FILES, Channels, Part
from pipelines.inputs.entry import Entry, InputError, Notes, UnreadableLineError, failed_entry, make_hint
from pipelines.recipes.recipe import IngestConfig
from runtime.credentials import redact_credentials
from runtime.errors import UnreadableAudioError
from runtime.failures import Kind, kind_of

MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
LIST_SUFFIXES = (".txt", ".lst", ".txt.gz", ".lst.gz")
MAX_WRONG_LINES = 100
"""If this many lines at the beginning are all wrong, the file is not a manifest."""
SKIP_BYTES = 1 << 20
GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def list_entries(uri: str, config: StorageConfig, limits: IngestConfig) -> Iterator[Entry]:
    """Yield the names in a list. Raises InputError if it cannot be read to its end."""
    for number, line in _lines(uri, config, limits):
        try:
            # Bytes that are not UTF-8 are preserved, because names of local files may contain them.
            name = _checked_line(line).decode("utf-8", "surrogateescape").strip()
            entry = Entry(_resolve(name, uri)) if name else None
        except Exception as error:
            entry = failed_entry(f"{uri}:{number}", error)
        if entry:
            yield entry


def manifest_entries(uri: str, config: StorageConfig, limits: IngestConfig, notes: Notes) -> Iterator[Entry]:
    """Yield the recordings that a manifest names.

    Raises:
        InputError: It cannot be read to its end, or is not a manifest.
    """
    good, first_bad, bad_lines = False, "", 0
    for number, line in _lines(uri, config, limits):
        try:
            text = _checked_line(line).strip()
            if not text:
                continue
            fields = json.loads(text.decode())
            names = [_name(audio, uri) for audio in named_audio(fields, limits.excerpts)]
            if (hint := make_hint(fields, limits, notes)) is None:
                notes.leave_out("hints too long or too deep")
        except Exception as error:
            entry = failed_entry(f"{uri}:{number}", _line_error(uri, number, error))
            first_bad, bad_lines = first_bad or str(entry.error), bad_lines + 1
            yield entry
            if not good and bad_lines >= MAX_WRONG_LINES:
                break
            continue
        good = True
        for name in names:
            yield Entry(name, hint)
    if first_bad and not good:
        what = f"{uri} is no manifest: of {bad_lines} lines none names a recording; the first: {first_bad}"
        raise InputError(what, "give JSON lines with 'audio_filepath', 'sources' or 'recording'")


def _name(audio: NamedAudio, listing: str) -> str:
    """Return the name of a recording in a manifest: a file, a part of a file, or the files of its channels."""
    files = [_resolve(file, listing) for file in audio.files]
    if audio.duration_s is not None:
        files = [str(Part(file, 0, audio.start_s, audio.start_s + audio.duration_s)) for file in files]
    if len(files) > MAX_FILES:
        raise TypeError(f"it names {len(files)} sources; at most {MAX_FILES} are read")
    return files[0] if len(files) == 1 else str(Channels(tuple(files)))


def _line_error(uri: str, number: int, error: Exception) -> Exception:
    """Return the error of a line of a manifest. An error that must stop the run is returned unchanged."""
    where = f"{uri}:{number}"
    if isinstance(error, UnreadableLineError) or kind_of(error) is Kind.RUN:
        return error
    if isinstance(error, UnicodeDecodeError):
        what = f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at place {error.start} of the line"
        return UnreadableLineError(what, "convert the manifest, for example with iconv -f LATIN1 -t UTF-8")
    what = f"{where} is no line of a Lhotse or NeMo manifest ({type(error).__name__}: {error})"
    return UnreadableLineError(what, "give JSON lines with 'audio_filepath', 'sources' or 'recording'")


def _checked_line(line: bytes | UnreadableLineError) -> bytes:
    if isinstance(line, UnreadableLineError):
        raise line
    return line


def _lines(uri: str, config: StorageConfig, limits: IngestConfig) -> Iterator[tuple[int, bytes | UnreadableLineError]]:
    """Yield lines with their numbers, from 1; too long ones as errors. Raises InputError if reading ends early."""
    number = 0
    try:
        with _open(uri, config) as raw:
            zipped = uri.lower().endswith(".gz")
            file = cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw))) if zipped else raw
            for number, line in _bounded_lines(file, uri, limits):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"{uri} is damaged or cut short as gzip after line {number} ({error})"
        raise InputError(what, "fetch it or compress it again") from error
    except UnreadableAudioError as error:
        raise InputError(str(error), error.remedy) from error
    except OSError as error:
        if kind_of(error) is Kind.RUN:
            raise
        raise InputError(f"{uri}:{number}: {error}", "check the file and the disk") from error


def _bounded_lines(file: BinaryIO, uri: str, limits: IngestConfig) -> Iterator[tuple[int, bytes | UnreadableLineError]]:
    longest = int(limits.max_line_mb * 1e6)
    left = int(limits.max_manifest_gb * 1e9)
    number = 0
    while data := file.readline(longest + 1):
        left -= len(data)
        if number == 0:
            data = _strip_mark(data, uri)
        if len(data) > longest and not data.endswith(b"\n"):
            number += 1
            what = f"{uri}:{number} is longer than {limits.max_line_mb:g} MB"
            yield number, UnreadableLineError(what, "split or remove the line, or raise ingest.max_line_mb")
            while left >= 0 and data and not data.endswith(b"\n"):
                data = file.readline(SKIP_BYTES)
                left -= len(data)
        else:
            for line in data.splitlines():
                number += 1
                yield number, line
        if left < 0:
            what = f"{uri} holds more than {limits.max_manifest_gb:g} GB of text; it was read up to line {number}"
            raise InputError(what, "split it, or raise ingest.max_manifest_gb")


def _strip_mark(data: bytes, uri: str) -> bytes:
    """Return the first line without a byte order mark. Raises InputError if the file is UTF-16, UTF-32 or gzip."""
    head = data[:16]
    wide = len(head) == 16 and any(not any(head[start::2]) for start in (0, 1))
    if head.startswith(UTF_16) or wide:
        raise InputError(f"{uri}:1 is UTF-16 or UTF-32", "convert it: iconv -f UTF-16 -t UTF-8")
    if head.startswith(GZIP):
        raise InputError(f"{uri}:1 is compressed by gzip", "unpack it, or let its name end in .gz")
    return data.removeprefix(codecs.BOM_UTF8)


def _open(uri: str, config: StorageConfig) -> BinaryIO:
    if (shown := redact_credentials(uri)) != uri:
        what = f"{shown!r}: its URL carries a password or a signature"
        raise InputError(what, "name it as s3://bucket/key, or serve it without secrets in the URL")
    return open_file(uri, config)


def _resolve(name: str, listing: str) -> str:
    """Resolve a name in a list or manifest relative to the place of that file."""
    if scheme(name):
        return name
    if scheme(listing) in ("http", "https"):
        return urljoin(listing, quote(name))
    if scheme(listing) == "s3":
        bucket, key = split_s3(listing)
        return f"{bucket}/{_normalise_key(posixpath.join('/', posixpath.dirname(key), name))}"
    return os.path.normpath(os.path.join(os.path.dirname(listing), name))


def _normalise_key(path: str) -> str:
    """Remove '.' and '..' from a key. Empty parts are kept, because 'a//b' and 'a/b' are different objects."""
    parts: list[str] = []
    for part in path.removeprefix("/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)

"""What `--in` may name: files, folders, patterns, lists, Lhotse or NeMo manifests, and tar archives of sound.

Each on disk, in S3 or (but for folders and patterns) behind HTTP(S).
"""

from __future__ import annotations

import fnmatch
import glob
import gzip
import io
import itertools
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast
from urllib.parse import quote, urljoin, urlsplit

from manifests.exchange.foreign.lhotse import audio_names
from manifests.storage import Stat, StorageConfig
from manifests.storage.s3 import S3Storage
from pipelines.audio.files import DEFAULT, Member, open_file, scheme, secretless, split_s3, stat_file
from pipelines.errors import SpeechmillError, UnreadableAudioError

# fmt: off
AUDIO_SUFFIXES = frozenset([
    ".wav", ".flac", ".mp3", ".m4a", ".mp4", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".webm", ".mkv", ".mka", ".mov",
    ".wma", ".aac", ".ac3", ".amr", ".caf", ".au", ".sph", ".w64", ".wv", ".ts", ".3gp",
])
# fmt: on
MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
LIST_SUFFIXES = (".txt", ".lst")
MAGIC = re.compile(r"[*?[]")
MAX_HINT_BYTES = 1 << 20
HEADERS_BYTES = 1 << 16
"""Read at a time from an archive far away: little more than a header."""


@dataclass(frozen=True)
class Entry:
    """One name of a recording, and what a manifest said of it (recorded, not trusted)."""

    uri: str
    hint: dict[str, Any] | None = None
    stat: Stat | None = None
    """Where a list of the bucket told it already."""


class InputError(SpeechmillError):
    """Something named by `--in` that cannot be read as a list of recordings."""


def entries(inputs: Iterable[str], config: StorageConfig = DEFAULT) -> Iterator[Entry]:
    """Every recording that the inputs name, folders in sorted order. Raises InputError for what names nothing."""
    for text in inputs:
        if scheme(text) == "s3":
            yield from _bucket(text, config)
        elif scheme(text) in ("http", "https"):
            yield from _file(text, config)
        elif scheme(text):
            raise InputError(f"{text!r}: this scheme is not known", "name s3://, http://, https:// or a path")
        else:
            yield from _local(text, config)


def _local(text: str, config: StorageConfig) -> Iterator[Entry]:
    if os.path.isdir(text):
        for name in _walk(_absolute(text)):
            yield from _file(name, config)
    elif os.path.lexists(text) or Member.parse(text):
        yield from _file(_absolute(text), config)
    elif glob.has_magic(text):
        found = sorted(glob.glob(text, recursive=True, include_hidden=False))
        if not found:
            raise InputError(f"the pattern {text!r} matches nothing", "check the pattern; quote it in the shell")
        for name in found:
            yield from _local(name, config)
    else:
        raise InputError(f"there is no {text!r}", "name a file, a folder, a pattern, a list or a manifest")


def _bucket(uri: str, config: StorageConfig) -> Iterator[Entry]:
    """An object, the sound below a prefix, or what a pattern matches; '*' crosses folders."""
    bucket, key = split_s3(uri)
    storage = S3Storage(bucket, config)
    magic = MAGIC.search(key)
    if Member.parse(uri) or (key and not magic and not key.endswith("/") and storage.exists(key)):
        yield from _file(uri, config)
        return
    folder = key[: magic.start()].rpartition("/")[0] if magic else key
    named = False
    for name, stat in storage.stats(folder):
        if fnmatch.fnmatchcase(name, key) if magic else _is_sound(name):
            named = True
            yield from _file(f"{bucket}/{name}", config, stat)
    if not named:
        raise InputError(f"there is no sound at {uri!r}", "name an object, a prefix or a pattern that exists")


def _file(uri: str, config: StorageConfig, stat: Stat | None = None) -> Iterator[Entry]:
    path = urlsplit(uri).path if scheme(uri) in ("http", "https") else uri
    if path.endswith(MANIFEST_SUFFIXES):
        yield from _manifest(uri, config)
    elif path.endswith(LIST_SUFFIXES):
        with _opened(uri, config) as file:
            for line in io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape"):
                if name := line.strip():
                    yield from _recording(_joined(name, uri), config)
    else:
        yield from _recording(uri, config, stat)


def _recording(uri: str, config: StorageConfig, stat: Stat | None = None) -> Iterator[Entry]:
    if uri.endswith(".tar"):
        yield from _archive(uri, config)
    else:
        yield Entry(uri, stat=stat)


def _walk(folder: str) -> Iterator[str]:
    """Files with a suffix of sound below a folder; anything else is named by itself, a pattern or a list."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(names) if _is_sound(name))


def _is_sound(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES or name.endswith(".tar")


def _absolute(name: str) -> str:
    return os.path.normpath(os.path.abspath(name))


def _joined(name: str, listing: str) -> str:
    """What a list or manifest means by a name: relative to where it lies itself."""
    if scheme(name):
        return name
    if scheme(listing) in ("http", "https"):
        return urljoin(listing, quote(name))
    if scheme(listing) == "s3":
        bucket, key = split_s3(listing)
        return f"{bucket}/{posixpath.normpath(posixpath.join('/', posixpath.dirname(key), name)).lstrip('/')}"
    return os.path.normpath(os.path.join(os.path.dirname(listing), name))


def _opened(uri: str, config: StorageConfig) -> BinaryIO:
    if (shown := secretless(uri)) != uri:
        what = f"{shown!r}: its URL carries a password or a signature"
        raise InputError(what, "name it as s3://bucket/key, or serve it without secrets in the URL")
    try:
        return open_file(uri, config)
    except UnreadableAudioError as error:
        raise InputError(str(error), error.remedy) from error


def _archive(uri: str, config: StorageConfig) -> Iterator[Entry]:
    """The sound in a tar, its headers alone read. A WebDataset's `KEY.json` beside `KEY.flac` is its hint."""
    if secretless(uri) != uri:
        yield Entry(uri)
        return
    try:
        modified_ns = stat_file(uri, config).mtime_ns
        with open_file(uri, config, HEADERS_BYTES) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = (member for member in archive if member.isreg())
            for _, group in itertools.groupby(members, lambda member: _sample(member.name)):
                hint, sounds = None, []
                for member in group:
                    if member.name.endswith(".json") and member.size <= MAX_HINT_BYTES:
                        hint = _hint(archive.extractfile(member))
                    elif _is_sound(member.name):
                        sounds.append(member)
                for member in sounds:
                    named = Member(uri, member.name, member.offset_data, member.size)
                    yield Entry(str(named), hint, Stat(member.size, modified_ns))
    except (UnreadableAudioError, tarfile.TarError):
        yield Entry(uri)  # becomes a failed row


def _sample(name: str) -> str:
    """WebDataset's key: up to the first dot of the last part of the name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _hint(file: IO[bytes] | None) -> dict[str, Any] | None:
    try:
        read = json.load(file) if file else None
    except ValueError:
        return None
    return read if isinstance(read, dict) else None


def _manifest(uri: str, config: StorageConfig) -> Iterator[Entry]:
    with _opened(uri, config) as raw:
        file = gzip.GzipFile(fileobj=raw) if uri.endswith(".gz") else raw
        for number, line in enumerate(io.TextIOWrapper(cast(Any, file), encoding="utf-8"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                names = audio_names(row)
            except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
                what = f"{uri}:{number} is no line of a Lhotse or NeMo manifest ({type(error).__name__}: {error})"
                raise InputError(what, "give JSON lines with 'audio_filepath', 'sources' or 'recording'") from error
            for name in names:
                yield Entry(_joined(name, uri), row)


def hinted_language(hints: list[dict[str, Any]]) -> str | None:
    """The language that all hints agree on: NeMo's lang, or the language of Lhotse supervisions."""
    languages = {hint["lang"] for hint in hints if hint.get("lang")}
    for hint in hints:
        languages |= {s["language"] for s in hint.get("supervisions") or [] if s.get("language")}
    return languages.pop() if len(languages) == 1 else None

"""Names of recordings that are not one whole file.

`FILE#audio=1` is the second audio stream of a file, `FILE#t=1.5,4` the sound from 1.5 s to 4 s of it, and
`FILE#audio=1&t=1.5,4` both (the W3C's media fragments). `["A.wav","B.wav"]`, a JSON list, is one recording whose
channels are in several files. FILE is any name of a single file, such as a member of a tar archive.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

PART = re.compile(
    r"(?s)(?P<file>.+)#(?:audio=(?P<stream>[0-9]{1,4}))?(?P<both>&)?"
    r"(?:t=(?P<start>[0-9]{1,9}(?:\.[0-9]{1,6})?),(?P<end>[0-9]{1,9}(?:\.[0-9]{1,6})?))?"
)
MAX_FILES = 64
"""The most files of one recording."""


class Part(NamedTuple):
    """A stream or an excerpt of a file."""

    file: str
    stream: int = 0
    """Number of the audio stream, from 0."""
    start_s: float = 0.0
    end_s: float | None = None
    """None for the end of the file."""

    def __str__(self) -> str:
        parts = [f"audio={self.stream}"] if self.stream else []
        if self.end_s is not None:
            parts.append(f"t={_seconds(self.start_s)},{_seconds(self.end_s)}")
        return f"{self.file}#{'&'.join(parts)}"

    @classmethod
    def parse(cls, uri: str) -> Part | None:
        """Return the part that has this name; None for the name of a whole file."""
        if "#" not in uri or (match := PART.fullmatch(uri)) is None:
            return None
        stream, start, end = match["stream"], match["start"], match["end"]
        if bool(match["both"]) != (stream is not None and end is not None) or (stream is None and end is None):
            return None
        return cls(match["file"], int(stream or 0), float(start or 0), None if end is None else float(end))


class Channels(NamedTuple):
    """Files whose channels, in this order, are the channels of one recording."""

    files: tuple[str, ...]

    def __str__(self) -> str:
        return json.dumps(self.files, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def parse(cls, uri: str) -> Channels | None:
        """Return the files that a name lists; None for any other name."""
        if not uri.startswith('["'):
            return None
        try:
            files = json.loads(uri)
        except (ValueError, RecursionError):
            return None
        whole = isinstance(files, list) and all(isinstance(name, str) and name for name in files)
        return cls(tuple(files)) if whole and 2 <= len(files) <= MAX_FILES else None


def files_of(uri: str) -> tuple[str, ...]:
    """Return the files that hold the bytes of a recording with this name."""
    channels = Channels.parse(uri)
    parts = [(name, Part.parse(name)) for name in (channels.files if channels else [uri])]
    return tuple(part.file if part else name for name, part in parts)


def combined_sha256(digests: Sequence[str]) -> str:
    """Return the sha256 of a recording: that of its file, or that of the concatenated hex digests of several files."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def id_of(uri: str, sha256: str) -> str:
    """Return the id of a recording: the first 20 hex digits of its sha256.

    If the recording is a part of its files, the id comes from a hash of that sha256 and the part.
    """
    channels = Channels.parse(uri)
    parts = [Part.parse(name) for name in (channels.files if channels else [uri])]
    if any(parts):
        which = [str(part).removeprefix(part.file) if part else "" for part in parts]
        sha256 = hashlib.sha256("".join([sha256, *which]).encode()).hexdigest()
    return sha256[:20]


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")

"""What `--in` may name: files, folders, glob patterns, list files, and Lhotse or NeMo manifests."""

from __future__ import annotations

import glob
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.foreign.lhotse import audio_names
from pipelines.errors import SpeechmillError

# fmt: off
AUDIO_SUFFIXES = frozenset([
    ".wav", ".flac", ".mp3", ".m4a", ".mp4", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".webm", ".mkv", ".mka", ".mov",
    ".wma", ".aac", ".ac3", ".amr", ".caf", ".au", ".sph", ".w64", ".wv", ".ts", ".3gp",
])
# fmt: on
MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
LIST_SUFFIXES = (".txt", ".lst")


@dataclass(frozen=True)
class Entry:
    """One name of a recording, and what a manifest said of it (recorded, not trusted)."""

    uri: str
    hint: dict[str, Any] | None = None


class InputError(SpeechmillError):
    """Something named by `--in` that cannot be read as a list of recordings."""


def entries(inputs: Iterable[str]) -> Iterator[Entry]:
    """Every recording that the inputs name, folders in sorted order. Raises InputError for what names nothing."""
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            yield from map(Entry, _walk(path))
        elif path.exists() or path.is_symlink():
            yield from _file(path)
        elif glob.has_magic(text):
            found = sorted(glob.glob(text, recursive=True, include_hidden=False))
            if not found:
                raise InputError(f"the pattern {text!r} matches nothing", "check the pattern; quote it in the shell")
            for name in found:
                yield from entries([name]) if os.path.isdir(name) else _file(Path(name))
        else:
            raise InputError(f"there is no {text!r}", "name a file, a folder, a pattern, a list or a manifest")


def _file(path: Path) -> Iterator[Entry]:
    if path.name.endswith(MANIFEST_SUFFIXES):
        yield from _manifest(path)
    elif path.suffix in LIST_SUFFIXES:
        for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if name := line.strip():
                yield Entry(_absolute(name, path.parent))
    else:
        yield Entry(_absolute(str(path), Path()))


def _walk(folder: Path) -> Iterator[str]:
    """Files with a suffix of sound below a folder; anything else is named by itself, a pattern or a list."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in AUDIO_SUFFIXES:
                yield _absolute(os.path.join(parent, name), Path())


def _absolute(name: str, folder: Path) -> str:
    return os.path.normpath(os.path.join(folder.absolute(), name))


def _manifest(path: Path) -> Iterator[Entry]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                names = audio_names(row)
            except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
                what = f"{path}:{number} is no line of a Lhotse or NeMo manifest ({type(error).__name__}: {error})"
                raise InputError(what, "give JSON lines with 'audio_filepath', 'sources' or 'recording'") from error
            for name in names:
                yield Entry(_absolute(name, path.parent), row)


def hinted_language(hints: list[dict[str, Any]]) -> str | None:
    """The language that all hints agree on: NeMo's lang, or the language of Lhotse supervisions."""
    languages = {hint["lang"] for hint in hints if hint.get("lang")}
    for hint in hints:
        languages |= {s["language"] for s in hint.get("supervisions") or [] if s.get("language")}
    return languages.pop() if len(languages) == 1 else None

"""Lists the recordings that `--in` names: files, folders, patterns, lists, Lhotse or NeMo manifests, tar archives.

Each may be on disk, in S3 or (except folders and patterns) behind HTTP(S). An error of one name, line, member or folder
affects only itself: it becomes an entry with an error.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from manifests.storage import Stat, StorageConfig
from manifests.storage.s3 import S3Storage
from pipelines.audio.files import DEFAULT, Member, scheme, split_s3
from pipelines.audio.parts import Part
from pipelines.inputs.entry import Entry, InputError, Notes, failed_entry
from pipelines.inputs.listings import LIST_SUFFIXES, MANIFEST_SUFFIXES, list_entries, manifest_entries
from pipelines.inputs.members import archive_entries
from pipelines.inputs.suffixes import COMPRESSED_TARS, is_sound, is_tar, suffix
from pipelines.recipes.recipe import IngestConfig
from runtime.credentials import redact_credentials
from runtime.errors import UnreachableAudioError, UnreadableAudioError

MAGIC = re.compile(r"[*?[]")
CONTENTS = "name a file, a folder, a pattern, a list, a manifest or an archive that holds sound"


def entries(
    inputs: Iterable[str],
    config: StorageConfig = DEFAULT,
    limits: IngestConfig | None = None,
    notes: Notes | None = None,
) -> Iterator[Entry]:
    """Yield every recording that the inputs name, in sorted order within folders.

    Args:
        inputs: The values of `--in`.
        config: How storage is accessed.
        limits: The table [ingest] of the recipe.
        notes: Gets the counts of what is left out.

    Raises:
        InputError: At once, if an input does not exist. At the end, if inputs hold no sound or cannot be read to their
            end.
    """
    inputs, notes = list(inputs), notes or Notes()
    sources = _Sources(config, limits or IngestConfig(), notes)
    for text in inputs:
        _check(text)
    for text in inputs:
        problems, empty = len(notes.problems), True
        for entry in sources.entries(text):
            empty = False
            yield _checked(entry)
        if empty and problems == len(notes.problems):
            notes.problems.append(InputError(f"there is no sound in {text!r}", CONTENTS))
    if notes.problems:
        first = notes.problems[0]
        raise InputError("\n".join(str(problem) for problem in notes.problems), first.remedy)


def _check(text: str) -> None:
    """Raise InputError if an input cannot name anything. Nothing is read."""
    kind = scheme(text)
    if kind == "s3":
        try:
            split_s3(text)
        except UnreadableAudioError as error:
            raise InputError(str(error), error.remedy) from error
    elif kind and kind not in ("http", "https"):
        what = f"{redact_credentials(text)!r}: this scheme is not known"
        raise InputError(what, "name s3://, http://, https:// or a path")
    elif not kind and not (_exists(text) or _is_derived(text) or glob.has_magic(text)):
        raise InputError(f"there is no {text!r}", "name a file, a folder, a pattern, a list or a manifest")


def _is_derived(name: str) -> bool:
    """Return whether a name is of a part of a file or a member of an archive, so that no file has this name."""
    return bool(Part.parse(name) or Member.parse(name))


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # the name has a NUL
        return False


def _checked(entry: Entry) -> Entry:
    """Return the entry, or an entry with an error if its name contains a secret, which the lake would store."""
    if Part.parse(entry.uri) and not scheme(entry.uri) and _exists(entry.uri):
        what = f"{entry.uri!r}: a name that ends so means a part of another file"
        return Entry(entry.uri, error=UnreadableAudioError(what, "rename the file, then ingest again"))
    if "://" not in entry.uri or (shown := redact_credentials(entry.uri)) == entry.uri:
        return entry
    what = f"{shown!r}: its URL carries a password or a signature, which a lake would keep"
    remedy = "name it as s3://bucket/key, or serve it without secrets in the URL"
    return Entry(shown, error=UnreadableAudioError(what, remedy))


class _Sources:
    """Reads inputs. `notes` gets what is left out, and the errors of inputs that cannot be read to their end."""

    def __init__(self, config: StorageConfig, limits: IngestConfig, notes: Notes) -> None:
        self.config, self.limits, self.notes = config, limits, notes

    def entries(self, text: str) -> Iterator[Entry]:
        """Yield the recordings that one input names."""
        kind = scheme(text)
        if kind == "s3":
            yield from self._bucket(text)
        elif kind:
            yield from self._file(text)
        else:
            yield from self._local(text)

    def _local(self, text: str) -> Iterator[Entry]:
        if os.path.isdir(text):
            yield from self._folder(_absolute(text))
        elif os.path.lexists(text) or _is_derived(text):
            yield from self._file(_absolute(text))
        else:
            matched = False
            for entry in self._pattern(text):
                matched = True
                yield from [entry] if entry.error else self._local(entry.uri)
            if not matched:
                what = f"the pattern {text!r} matches nothing"
                self.notes.problems.append(InputError(what, "check the pattern; quote it in the shell"))

    def _pattern(self, pattern: str) -> Iterator[Entry]:
        """Yield the files and folders that match, sorted. '**' matches any number of folders, also linked ones."""
        parts = pattern.split("/")
        if "**" not in parts:
            yield from map(Entry, sorted(glob.glob(pattern, include_hidden=False)))
            return
        # Python's own '**' follows links in circles.
        first = parts.index("**")
        before = "/".join(parts[:first]) or ("/" if first else ".")
        matches: list[Entry] = []
        for top in filter(os.path.isdir, glob.glob(before, include_hidden=False)):
            for parent, folders, names, errors in self._walk(top):
                matches += _failed_folders(errors)
                inside = [part for part in os.path.relpath(parent, top).split("/") if part != "."]
                # A '**' at the end matches every file.
                for name in names if parts[-1] == "**" else [*names, *folders]:
                    if _matches([*inside, name], parts[first:]):
                        matches.append(Entry(os.path.join(parent, name)))
        yield from sorted(matches, key=lambda entry: entry.uri)

    def _folder(self, folder: str) -> Iterator[Entry]:
        """Yield the sound files below a folder, and below folders that are linked there. Each folder is read once."""
        for parent, _, names, errors in self._walk(folder):
            yield from _failed_folders(errors)
            for name in names:
                if self._is_included(name):
                    yield from self._recording(Entry(os.path.join(parent, name)))

    def _walk(self, folder: str) -> Iterator[tuple[str, list[str], list[str], list[OSError]]]:
        """Yield each folder, the sorted names of its folders and files, and the errors of folders before it.

        Linked folders are entered last, so that a file that is also reached without a link gets the name without it.
        """
        root = os.path.realpath(folder)
        entered, waiting = {root}, deque([folder])
        errors: list[OSError] = []
        while waiting:
            top = waiting.popleft()
            real_top = os.path.realpath(top)
            for parent, folders, names in os.walk(top, onerror=errors.append):
                real = real_top + parent[len(top.rstrip("/")) :]
                folders[:] = sorted(name for name in folders if os.path.join(real, name) not in entered)
                yield parent, folders, sorted(names), errors
                errors.clear()
                for path in (os.path.join(parent, name) for name in folders):
                    if os.path.islink(path) and self._must_enter(os.path.realpath(path), root, entered):
                        waiting.append(path)
        if errors:
            yield folder, [], [], errors

    def _must_enter(self, linked: str, root: str, entered: set[str]) -> bool:
        """Return whether a linked folder must be read.

        `entered` are folders that are read with everything below them.
        """
        if any(folder in entered for folder in _with_parents(linked)):
            return False
        if root.startswith(linked.rstrip("/") + "/"):
            self.notes.leave_out("linked folders that hold the folder itself")
            return False
        entered.add(linked)
        return True

    def _bucket(self, uri: str) -> Iterator[Entry]:
        """Yield an object, the sound below a prefix, or the matches of a pattern, in which '*' matches '/' too.

        If an object or a prefix has exactly this name, it is not taken for a pattern, even if it contains brackets.
        """
        bucket, key = split_s3(uri)
        storage = S3Storage(bucket, self.config)
        if _is_derived(uri) or (key and not key.endswith("/") and storage.exists(key)):
            yield from self._file(uri)
            return
        magic = MAGIC.search(key)
        if magic and next(storage.stats(key.rstrip("/")), None):
            magic = None
        folder = key[: magic.start()].rpartition("/")[0] if magic else key
        for name, stat in storage.stats(folder):
            if fnmatch.fnmatchcase(name, key) if magic else self._is_included(name):
                yield from self._file(f"{bucket}/{name}", stat)

    def _file(self, uri: str, stat: Stat | None = None) -> Iterator[Entry]:
        """Yield a file, or the recordings in it if it is a list, a manifest or an archive."""
        path = (urlsplit(uri).path if scheme(uri) in ("http", "https") else uri).lower()
        if path.endswith(MANIFEST_SUFFIXES):
            yield from self._listed(uri, manifest_entries(uri, self.config, self.limits, self.notes))
        elif path.endswith(LIST_SUFFIXES):
            for entry in self._listed(uri, list_entries(uri, self.config, self.limits)):
                yield from self._recording(entry)
        else:
            yield from self._recording(Entry(uri, stat=stat))

    def _listed(self, uri: str, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Yield the entries of a list or manifest. If it cannot be read to its end, the error goes to `notes`."""
        try:
            yield from entries
            self.notes.finish(uri)
        except InputError as error:
            self.notes.problems.append(error)

    def _recording(self, entry: Entry) -> Iterator[Entry]:
        if entry.error is None and is_tar(entry.uri) and redact_credentials(entry.uri) == entry.uri:
            yield from self._archive(entry.uri)
        elif entry.error is None and entry.uri.lower().endswith(COMPRESSED_TARS):
            what = f"{entry.uri!r}: archives are read by place, which compressed ones do not allow"
            yield Entry(entry.uri, error=UnreadableAudioError(what, "unpack it, or pack it as a plain .tar"))
        else:
            yield entry

    def _archive(self, uri: str) -> Iterator[Entry]:
        try:
            yield from archive_entries(uri, self.config, self.limits, self.notes)
            self.notes.finish(uri)
        except Exception as error:
            yield failed_entry(uri, error)

    def _is_included(self, name: str) -> bool:
        """Return whether a file in a folder is read as sound. Other files are counted as left out."""
        if is_sound(name) or is_tar(name):
            return True
        self.notes.leave_out(suffix(name))
        return False


def _absolute(name: str) -> str:
    return os.path.normpath(os.path.abspath(name))


def _with_parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        yield path
        path = os.path.dirname(path)
    yield path


def _failed_folders(errors: list[OSError]) -> Iterator[Entry]:
    """Yield failed entries for folders that could not be listed."""
    for error in errors:
        entry = failed_entry(str(error.filename), error)
        what = f"{entry.uri!r}: the folder cannot be listed ({error.strerror})"
        yield Entry(entry.uri, error=UnreachableAudioError(what, "grant permission to read it, then ingest again"))


def _matches(names: list[str], patterns: list[str]) -> bool:
    """Return whether the parts of a path match those of a pattern.

    Hidden names only match parts that begin with a dot.
    """
    if not names or not patterns:
        return not names and all(pattern == "**" for pattern in patterns)
    visible = not names[0].startswith(".") or patterns[0].startswith(".")
    if patterns[0] == "**":
        return _matches(names, patterns[1:]) or (visible and _matches(names[1:], patterns))
    return visible and fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])

"""The recordings in a tar archive, each with what the JSON beside it says (WebDataset's `KEY.json` and `KEY.flac`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from manifests.storage import Stat, StorageConfig
from pipelines.audio.files import Member, open_file, stat_file
from pipelines.inputs.archives import TarMember, TarReader
from pipelines.inputs.entry import Entry, Hint, Notes, make_hint
from pipelines.inputs.suffixes import is_sound, is_tar, suffix
from pipelines.recipes.recipe import IngestConfig
from runtime.errors import UnreadableAudioError

READ_BYTES = 1 << 16
"""Read at a time from an archive far away: little more than a header."""
MAX_SAMPLE_MEMBERS = 1000
MAX_SAMPLE_BYTES = 16 << 20
"""Bounds of a sample, since all recordings of an archive may have names that begin alike up to a dot."""


def archive_entries(uri: str, config: StorageConfig, limits: IngestConfig, notes: Notes) -> Iterator[Entry]:
    """The sound in a tar, its headers and sidecars alone read; an entry of its own says what is wrong with the tar."""
    modified_ns = stat_file(uri, config).mtime_ns
    with open_file(uri, config, READ_BYTES) as file:
        reader = TarReader(file, limits)
        for sample in _samples(_wanted(reader, notes), file, limits, notes):
            for member in sample.sounds:
                named = str(Member(uri, member.name, member.offset, member.size))
                if problem := member.problem or ("it is an archive inside an archive" if is_tar(member.name) else ""):
                    remedy = member.remedy if member.problem else "unpack the outer archive"
                    yield Entry(named, error=UnreadableAudioError(f"{named!r}: {problem}", remedy))
                else:
                    yield Entry(named, sample.hint(member), Stat(member.size, modified_ns))
    if reader.damage:
        what = f"{uri!r}: {reader.damage}; recordings in it may be lost, the others were read"
        yield Entry(uri, error=UnreadableAudioError(what, "fetch or pack the archive again, then ingest again"))


class _Sample:
    """Members that stand together and whose names are alike up to the first dot: WebDataset's sample."""

    def __init__(self) -> None:
        self.sounds: list[TarMember] = []
        self.sidecars: dict[str, Hint | None] = {}
        self.members = self.size = 0
        self.last = ""

    def hint(self, sound: TarMember) -> Hint | None:
        """The sidecar with the same stem; else the only one that shares a stem up to a dot and has no sound itself."""
        stem = _stem(sound.name)
        if stem in self.sidecars:
            return self.sidecars[stem]
        if not self.sidecars:
            return None
        owned = {_stem(other.name) for other in self.sounds}
        free = [name for name in self.sidecars if name not in owned]
        near = [name for name in free if stem.startswith(f"{name}.") or name.startswith(f"{stem}.")]
        return self.sidecars[near[0]] if len(near) == 1 else None

    def is_full(self, stem: str) -> bool:
        """Whether a member belongs to the next sample, so as to bound this one; equal stems stay together."""
        full = max(self.members / MAX_SAMPLE_MEMBERS, self.size / MAX_SAMPLE_BYTES)
        return full >= 2 or (full >= 1 and stem != self.last)


def _wanted(members: Iterable[TarMember], notes: Notes) -> Iterator[TarMember]:
    """Sound and sidecars; the rest is counted."""
    for member in members:
        if member.kind == "link":
            notes.leave_out("links in archives")
        elif member.kind == "file" and (is_sound(member.name) or is_tar(member.name) or _is_sidecar(member.name)):
            yield member
        elif member.kind == "file":
            notes.leave_out(suffix(member.name))


def _samples(members: Iterable[TarMember], file: BinaryIO, limits: IngestConfig, notes: Notes) -> Iterator[_Sample]:
    max_bytes = int(limits.max_hint_mb * 1e6)
    sample, key = _Sample(), None
    for member in members:
        stem = _stem(member.name)
        if _key(member.name) != key or sample.is_full(stem):
            yield sample
            sample, key = _Sample(), _key(member.name)
        sample.last = stem
        sample.members += 1
        if not _is_sidecar(member.name):
            sample.sounds.append(member)
            continue
        hint = None
        if not member.problem and member.size <= max_bytes:
            file.seek(member.offset)
            hint = _parsed(file.read(member.size), limits, notes)
        if hint is None:
            notes.leave_out("JSON in archives that is no hint")
        sample.sidecars[stem] = hint
        sample.size += len(hint.text) if hint else 0
    yield sample


def _parsed(data: bytes, limits: IngestConfig, notes: Notes) -> Hint | None:
    try:
        return make_hint(json.loads(data), limits, notes)
    except (ValueError, RecursionError):  # an odd sidecar costs only itself
        return None


def _is_sidecar(name: str) -> bool:
    return name[-5:].lower() == ".json"


def _key(name: str) -> str:
    """WebDataset's key: up to the first dot of the last part of the name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _stem(name: str) -> str:
    """Up to the last dot of the last part of the name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)

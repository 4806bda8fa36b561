"""Lists the recordings in a tar archive, with their JSON sidecars (`KEY.json` beside `KEY.flac`, as in WebDataset)."""

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
"""The size of a range that is read from a remote archive: little more than a header."""
MAX_SAMPLE_MEMBERS = 1000
MAX_SAMPLE_BYTES = 16 << 20
"""Limits of a sample, because all names in an archive may be equal up to the first dot."""


def archive_entries(uri: str, config: StorageConfig, limits: IngestConfig, notes: Notes) -> Iterator[Entry]:
    """Yield the recordings in a tar.

    Only headers and sidecars are read. If the tar is damaged, the last entry says so.
    """
    modified_ns = stat_file(uri, config).mtime_ns
    with open_file(uri, config, READ_BYTES) as file:
        reader = TarReader(file, limits)
        for sample in _samples(_sounds_and_sidecars(reader, notes), file, limits, notes):
            for member in sample.sounds:
                name = str(Member(uri, member.name, member.offset, member.size))
                if problem := member.problem or ("it is an archive inside an archive" if is_tar(member.name) else ""):
                    remedy = member.remedy if member.problem else "unpack the outer archive"
                    yield Entry(name, error=UnreadableAudioError(f"{name!r}: {problem}", remedy))
                else:
                    yield Entry(name, sample.hint(member), Stat(member.size, modified_ns))
    if reader.damage:
        what = f"{uri!r}: {reader.damage}; recordings in it may be lost, the others were read"
        yield Entry(uri, error=UnreadableAudioError(what, "fetch or pack the archive again, then ingest again"))


class _Sample:
    """A sample of WebDataset: consecutive members whose names are equal up to the first dot."""

    def __init__(self) -> None:
        self.sounds: list[TarMember] = []
        self.sidecars: dict[str, Hint | None] = {}
        self.members = self.size = 0
        self.last = ""

    def hint(self, sound: TarMember) -> Hint | None:
        """Return the sidecar with the same stem, or else the only other sidecar that matches up to a dot."""
        stem = _stem(sound.name)
        if stem in self.sidecars:
            return self.sidecars[stem]
        if not self.sidecars:
            return None
        stems_of_sounds = {_stem(other.name) for other in self.sounds}
        free = [name for name in self.sidecars if name not in stems_of_sounds]
        matching = [name for name in free if stem.startswith(f"{name}.") or name.startswith(f"{stem}.")]
        return self.sidecars[matching[0]] if len(matching) == 1 else None

    def is_full(self, stem: str) -> bool:
        """Return whether a member starts a new sample because this one is at its limit. Equal stems stay together."""
        full = max(self.members / MAX_SAMPLE_MEMBERS, self.size / MAX_SAMPLE_BYTES)
        return full >= 2 or (full >= 1 and stem != self.last)


def _sounds_and_sidecars(members: Iterable[TarMember], notes: Notes) -> Iterator[TarMember]:
    """Yield sound files and sidecars. Other members are counted as left out."""
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
            hint = _parse_sidecar(file.read(member.size), limits, notes)
        if hint is None:
            notes.leave_out("JSON in archives that is no hint")
        sample.sidecars[stem] = hint
        sample.size += len(hint.text) if hint else 0
    yield sample


def _parse_sidecar(data: bytes, limits: IngestConfig, notes: Notes) -> Hint | None:
    try:
        return make_hint(json.loads(data), limits, notes)
    except (ValueError, RecursionError):  # an invalid sidecar affects nothing else
        return None


def _is_sidecar(name: str) -> bool:
    return name[-5:].lower() == ".json"


def _key(name: str) -> str:
    """Return WebDataset's key: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _stem(name: str) -> str:
    """Return the name up to the last dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)

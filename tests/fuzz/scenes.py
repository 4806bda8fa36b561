"""From a plan to what it describes: files in a folder, a server on loopback, and what ingest must make of them.

Plans by target ('<n>' in them becomes a number of its own for each line, member or URL, so that no two names are one):

- names       {"names": [bytes, ...], "on_disk": bool, "edits": [...]}: lines of a .txt list, or files in a folder
- manifests   {"lines": [(bytes, rows), ...], "edits": [...], "gzip": None or [edits after packing]}: JSON lines, each
              with the number of rows that it makes at least
- archives    {"members": [(type, name, payload, {field: bytes}), ...], "edits": [...]}: headers and contents of a tar
- answers     {"answers": [(status, [(header, value), ...], body, pieces), ...], "tail": bytes}: what a server sends
- containers  {"sounds": [(one of sounds.NAMES, edits), ...]}: damaged files
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import sounds
from fuzz.edits import edited
from fuzz.site import site

Plan = dict[str, Any]
NUMBER = b"<n>"
PIECE = 1 << 20


@dataclass
class Scene:
    """What is given to ingest beside the good recording, and how many names it must meet of it."""

    inputs: list[str]
    at_least: int
    exact: bool = False
    sounds: list[Path] = field(default_factory=list)
    """Files to decode besides."""


@contextmanager
def laid_out(target: str, plan: Plan, folder: Path) -> Iterator[Scene]:
    """The scene of a plan, in a folder of its own; servers run within."""
    if target == "answers":
        with site(plan["answers"], plan.get("tail", b"")) as url:
            lines = [f"{url}/{number}.wav" for number in range(len(plan["answers"]))]
            (folder / "list.txt").write_text("\n".join(lines))
            yield Scene([str(folder / "list.txt")], len(lines), exact=True)
    else:
        yield SCENES[target](plan, folder)


def numbered(text: bytes, number: int) -> bytes:
    return text.replace(NUMBER, b"%d" % number)


def _names(plan: Plan, folder: Path) -> Scene:
    names = [numbered(name, number) for number, name in enumerate(plan["names"])]
    if not plan["on_disk"]:
        (folder / "list.txt").write_bytes(edited(b"\n".join(names), plan["edits"]))
        return Scene([str(folder / "list.txt")], 0 if plan["edits"] else len(names), exact=not plan["edits"])
    inside = folder / "in"
    inside.mkdir()
    for name in names:
        (inside / Path(name.decode("utf-8", "surrogateescape"))).write_bytes(sounds.sound("wav"))
    return Scene([str(inside)], len(names), exact=True)


def _manifests(plan: Plan, folder: Path) -> Scene:
    lines = [numbered(line, number) for number, (line, _) in enumerate(plan["lines"])]
    data = edited(b"\n".join(lines), plan["edits"])
    path = folder / ("list.jsonl" if plan["gzip"] is None else "list.jsonl.gz")
    path.write_bytes(data if plan["gzip"] is None else edited(gzip.compress(data, mtime=0), plan["gzip"]))
    if plan["edits"] or plan["gzip"]:
        return Scene([str(path)], plan.get("at_least", 0))
    return Scene([str(path)], sum(rows for _, rows in plan["lines"]))


def _archives(plan: Plan, folder: Path) -> Scene:
    (folder / "calls.tar").write_bytes(edited(tar(plan["members"]), plan["edits"]))
    whole = not plan["edits"] and not any(fields for *_, fields in plan["members"])
    plain = whole and all(kind in (b"0", b"5") for kind, *_ in plan["members"])
    sound = sum(kind == b"0" and name.endswith(b".wav") for kind, name, *_ in plan["members"])
    if plain:
        return Scene([str(folder / "calls.tar")], sound, exact=True)
    return Scene([str(folder / "calls.tar")], plan.get("at_least", 0 if whole else 1))


def _containers(plan: Plan, folder: Path) -> Scene:
    made = []
    for number, (name, edits) in enumerate(plan["sounds"]):
        made.append(folder / f"{number}-{name}.wav")  # FFmpeg must find out by itself what it is
        made[-1].write_bytes(edited(sounds.sound(name), edits))
    return Scene([str(path) for path in made], len(made), sounds=made)


def inputs_of(plan: Plan) -> int:
    """Names, lines, members, answers or files of a plan."""
    return sum(len(plan.get(part, ())) for part in ("names", "lines", "members", "answers", "sounds"))


SCENES: dict[str, Callable[[Plan, Path], Scene]] = {
    "names": _names,
    "manifests": _manifests,
    "archives": _archives,
    "containers": _containers,
}

TAR_FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "checksum": (148, 8), "type": (156, 1), "link": (157, 100), "magic": (257, 8), "user": (265, 32),
    "group": (297, 32), "sparse": (386, 96), "more": (482, 1), "real_size": (483, 12), "prefix": (345, 155),
}  # fmt: skip
"""Offset and width in a header of POSIX or GNU tar."""


def tar(members: list[tuple[bytes, bytes, Any, dict[str, bytes]]]) -> bytes:
    """An archive as told, each header with a right checksum unless its field is given."""
    made = bytearray()
    for number, (kind, name, payload, told) in enumerate(members):
        data = payload if isinstance(payload, bytes) else edited(sounds.sound(payload[0]), payload[1])
        data = numbered(data, number) if kind in b"xgLK" or name.endswith(b".json") else data
        header = bytearray(512)
        values = {
            "name": numbered(name, number), "mode": b"0000644\0", "size": b"%011o\0" % len(data), "mtime": b"0" * 11,
            "checksum": b" " * 8, "type": kind, "magic": b"ustar\x0000",
        } | told  # fmt: skip
        for title, value in values.items():
            offset, width = TAR_FIELDS[title]
            header[offset : offset + width] = value[:width].ljust(width, b"\0")
        if "checksum" not in told:
            header[148:156] = b"%06o\0 " % sum(header)
        made += bytes(header) + data + bytes(-len(data) % 512)
    return bytes(made) + bytes(1024)

"""Where a conversion goes: written in full beside its place, then moved there, and nothing of others is touched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from manifests.exchange.foreign.rows import ManifestError
from manifests.storage import Storage

OURS = re.compile(
    r"(recordings|segments|windows|supervisions|cuts)\.(jsonl\.gz|parquet|csv)|README\.md|manifest\.jsonl"
    r"|(rttm/[^/]+\.rttm|uem/[^/]+\.uem)"
)
"""Names of the files that some format writes into its folder."""
UNFINISHED = ".converting-"
"""How the folder of a conversion begins that is not done, or that was killed."""
INSTEAD = "choose another place, or replace what is there with --overwrite"


@contextmanager
def placed(out: str, folder: bool, beside: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A path at which to write what becomes the file or folder `out` once all of it is there.

    `beside` are the suffixes of the files that a file may have beside it. Raises ManifestError where something is
    there, unless it is to be replaced and was written by a conversion: then nothing of it stays.
    """
    path = Path(out).absolute()
    if path.exists() and path.is_dir() != folder:
        raise ManifestError(f"{out} is a {'folder' if path.is_dir() else 'file'}", f"give a {_kind(folder)}")
    old = _there(path, folder, beside)
    _refuse(out, old, path if folder else path.parent, folder, overwrite)
    base = next(parent for parent in (path, *path.parents) if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=base) as unfinished:
        written = Path(unfinished) / path.name
        yield written
        for file in old:
            file.unlink()
            if file.parent != path and folder and not any(file.parent.iterdir()):
                file.parent.rmdir()
        for file in _there(written, folder, beside):
            target = path / file.relative_to(written) if folder else path.parent / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


@contextmanager
def placed_in(storage: Storage, name: str, folder: bool, beside: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """The same in a storage that is no local disk; `name` is the key of the file, or of the folder."""
    prefix = Path(name)
    old = [Path(key) for key in storage.list(name)] if folder else []
    old += [key for key in _files(prefix, beside) if not folder and storage.exists(str(key))]
    _refuse(f"{storage.root}/{name}", old, prefix if folder else prefix.parent, folder, overwrite)
    with tempfile.TemporaryDirectory(prefix="speechmill-convert-") as unfinished:
        written = Path(unfinished) / prefix.name
        yield written
        made = {str(prefix.parent / path.relative_to(unfinished)): path for path in _there(written, folder, beside)}
        for key in old:
            if str(key) not in made:
                storage.delete(str(key))
        for name, file in made.items():
            storage.put_file(name, file)


def _kind(folder: bool) -> str:
    return "folder: this format writes several files" if folder else "file: this format writes one"


def _files(path: Path, beside: Sequence[str]) -> list[Path]:
    return [path, *(path.with_suffix(suffix) for suffix in beside if suffix != path.suffix)]


def _there(path: Path, folder: bool, beside: Sequence[str]) -> list[Path]:
    if folder:
        files = (file for file in path.rglob("*") if not file.is_dir())
        return sorted(file for file in files if not file.relative_to(path).parts[0].startswith(UNFINISHED))
    return [file for file in _files(path, beside) if file.exists()]


def _refuse(out: str, old: Sequence[Path], folder_of: Path, folder: bool, overwrite: bool) -> None:
    if old and not overwrite:
        what = f"the folder {out} is not empty" if folder else f"{old[0]} is there already"
        raise ManifestError(what, INSTEAD)
    strange = [file for file in old if folder and not OURS.fullmatch(file.relative_to(folder_of).as_posix())]
    if strange:
        raise ManifestError(f"{out} holds {strange[0].name}, which no conversion wrote", "choose another folder")

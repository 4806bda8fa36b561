"""The output of a conversion: it is written completely at a temporary place and then moved.

Files that no conversion has written are never replaced.
"""

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
"""Names of the files that formats write into their folders."""
UNFINISHED = ".converting-"
"""The prefix of the folder of an unfinished conversion."""
INSTEAD = "choose another place, or replace it with --overwrite"


@contextmanager
def output_path(out: str, folder: bool, suffixes: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """Give a temporary path for the output, which is moved to `out` at the end.

    Args:
        out: The place of the output.
        folder: Whether the output is a folder instead of a file.
        suffixes: Suffixes of further files beside an output file.
        overwrite: Whether the files of an earlier conversion are deleted.

    Raises:
        ManifestError: The place is taken by something that may not be replaced.
    """
    path = Path(out).absolute()
    if path.exists() and path.is_dir() != folder:
        raise ManifestError(f"{out} is a {'folder' if path.is_dir() else 'file'}", f"give a {_kind(folder)}")
    old = _existing(path, folder, suffixes)
    _refuse(out, old, path if folder else path.parent, folder, overwrite)
    base = next(parent for parent in (path, *path.parents) if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=base) as unfinished:
        written = Path(unfinished) / path.name
        yield written
        for file in old:
            file.unlink()
            if file.parent != path and folder and not any(file.parent.iterdir()):
                file.parent.rmdir()
        for file in _existing(written, folder, suffixes):
            target = path / file.relative_to(written) if folder else path.parent / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


@contextmanager
def output_in_storage(
    storage: Storage, name: str, folder: bool, suffixes: Sequence[str], overwrite: bool
) -> Iterator[Path]:
    """Give a temporary path as `output_path` does, for an output in a storage under the key `name`."""
    prefix = Path(name)
    old = [Path(key) for key in storage.list(name)] if folder else []
    old += [key for key in _files(prefix, suffixes) if not folder and storage.exists(str(key))]
    _refuse(f"{storage.root}/{name}", old, prefix if folder else prefix.parent, folder, overwrite)
    with tempfile.TemporaryDirectory(prefix="speechmill-convert-") as unfinished:
        written = Path(unfinished) / prefix.name
        yield written
        files = {
            str(prefix.parent / path.relative_to(unfinished)): path for path in _existing(written, folder, suffixes)
        }
        for key in old:
            if str(key) not in files:
                storage.delete(str(key))
        for name, file in files.items():
            storage.put_file(name, file)


def _kind(folder: bool) -> str:
    return "folder: this format writes several files" if folder else "file: this format writes one"


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path, *(path.with_suffix(suffix) for suffix in suffixes if suffix != path.suffix)]


def _existing(path: Path, folder: bool, suffixes: Sequence[str]) -> list[Path]:
    if folder:
        files = (file for file in path.rglob("*") if not file.is_dir())
        return sorted(file for file in files if not file.relative_to(path).parts[0].startswith(UNFINISHED))
    return [file for file in _files(path, suffixes) if file.exists()]


def _refuse(out: str, old: Sequence[Path], folder_of: Path, folder: bool, overwrite: bool) -> None:
    if old and not overwrite:
        what = f"the folder {out} is not empty" if folder else f"{old[0]} exists already"
        raise ManifestError(what, INSTEAD)
    foreign = [file for file in old if folder and not OURS.fullmatch(file.relative_to(folder_of).as_posix())]
    if foreign:
        raise ManifestError(f"{out} has the file {foreign[0].name}, which no conversion wrote", "choose another folder")

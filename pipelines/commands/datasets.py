"""`speechmill datasets`: lists the datasets of a lake with their versions, and removes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from manifests.output import say, to_json
from pipelines.commands.options import open_lake
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake


@click.group()
def datasets() -> None:
    """List the datasets of a lake with their versions, or remove one."""


@datasets.command("list")
@click.argument("lake")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def list_datasets(lake: str, as_json: bool) -> None:
    """List the datasets of LAKE with their versions and sizes."""
    opened = open_lake(lake)
    found = [_described(opened, name) for name in _names(opened)]
    if as_json:
        say(to_json({"datasets": found}, indent=1))
        return
    if not found:
        raise SpeechmillError(f"no dataset in {lake}", "run `speechmill run` or `speechmill encode` first")
    for one in found:
        say(f"{one['name']}: recipe {one['recipe']}, encoder {one['encoder']}, {one['bytes'] / 1e6:,.1f} MB")
        for version in one["versions"]:
            shards = ", ".join(f"{folder} {count:,}" for folder, count in version["shards"].items()) or "none"
            say(
                f"  version {version['version']}: {version['windows']:,} windows, {version['hours']:,.3f} h, "
                f"{version['frames']:,} frames; shards: {shards}"
            )
        if not one["versions"]:
            say("  no version is complete yet: `speechmill encode` goes on with it")


def _names(lake: Lake) -> list[str]:
    """The datasets of a lake. An empty folder, which stays on a disk after its last file is removed, is not one."""
    from manifests.choice import folders

    return [name for name in folders(lake, "datasets") if next(lake.storage.list(f"datasets/{name}"), None)]


def _described(lake: Lake, name: str) -> dict[str, Any]:
    from manifests.versions import versions

    prefix = f"datasets/{name}"
    plan = lake.read_json(f"{prefix}/plan.json") if lake.storage.exists(f"{prefix}/plan.json") else {}
    kept = ("version", "selection", "shards", "windows", "hours", "frames")
    return {
        "name": name,
        **{key: plan.get(key) for key in ("recipe", "encoder", "selection")},
        "bytes": sum(lake.storage.size(key) for key in lake.storage.list(prefix)),
        "versions": [{key: getattr(version, key) for key in kept} for version in versions(lake, name)],
    }


@datasets.command("remove")
@click.argument("lake")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Remove only this version, which must be the newest.")
@click.option("-y", "--yes", is_flag=True, help="Remove it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines; needs --yes.")
def remove_dataset(lake: str, name: str, version: int | None, yes: bool, as_json: bool) -> None:
    """Remove the dataset NAME of LAKE, or its newest version. Prints first how many bytes that frees."""
    from manifests.names import LONGEST_OF_FOLDER, checked_name
    from manifests.versions import versions

    try:
        checked_name(name, "the dataset", LONGEST_OF_FOLDER)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    opened = open_lake(lake)
    there = _names(opened)
    if name not in there:
        raise SpeechmillError(f"no dataset {name} in {lake}", f"there is: {', '.join(there) or 'none'}")
    known = versions(opened, name)
    newest = known[-1].version if known else 0
    if version is not None and version != newest:
        raise SpeechmillError(
            f"version {version} of {name} cannot be removed alone: the newest is version {newest}, and every version "
            "holds the shards of those before it, so that nothing would be freed",
            f"leave it, or remove from the newest on: speechmill datasets remove {lake} {name} --version {newest}",
        )
    keys = _keys(opened, name, None if version is None or len(known) == 1 else known[-2].shards, newest)
    size = sum(opened.storage.size(key) for key in keys)
    what = f"datasets/{name}" if version is None else f"version {version} of datasets/{name}"
    if as_json and not yes:
        raise click.UsageError("--json prints no question: give --yes too")
    if not as_json:
        say(f"{what}: {len(keys):,} files, {size / 1e6:,.1f} MB")
    if not yes:
        click.confirm("Remove it?", abort=True, err=True)
    for key in keys:
        opened.storage.delete(key)
    if version is not None and len(known) > 1:
        from manifests.publish import publish

        publish(opened, name, rewrite=True)
    if as_json:
        say(to_json({"dataset": name, "version": version, "files": len(keys), "freed_bytes": size}, indent=1))
    else:
        say(f"removed {what}, which frees {size / 1e6:,.1f} MB")


def _keys(lake: Lake, name: str, kept: dict[str, int] | None, newest: int) -> list[str]:
    """Keys to remove, of a dataset or of its newest version. Records come before the data that they describe."""
    from manifests.shards import committed

    prefix = f"datasets/{name}"
    if kept is None:
        keys = [f"runs/encoding/{name}.json"] if lake.storage.exists(f"runs/encoding/{name}.json") else []
        listed = list(lake.storage.list(prefix))
        first = [key for key in listed if key.startswith((f"{prefix}/versions/", f"{prefix}/commits/"))]
        return [*keys, *first, *(key for key in listed if key not in set(first))]
    keys = sorted(lake.storage.list(f"{prefix}/versions/{newest:06d}"), reverse=True)  # version.json first
    for files in committed(lake.storage, name):
        if files.shard >= kept.get(files.folder, 0):
            keys += [f"{prefix}/{part}" for part in (files.commit, *files.parts)]
    return keys

"""`speechmill manifest convert` and `validate`, on a lake, a folder of one, or foreign manifests."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from manifests.commands.options import JSON, choice_options
from manifests.output import one_line, say, to_json

if TYPE_CHECKING:
    pass

FORMS = (
    "lhotse", "lhotse-recordings", "lhotse-supervisions", "lhotse-cuts", "nemo", "nemo-diarization", "rttm", "moshi",
    "parquet", "csv",
)  # fmt: skip
"""The names of `manifests.exchange.convert.FORMS`, repeated here so that --help need not import it."""

SOURCES = click.argument("sources", nargs=-1, required=True, metavar="LAKE_OR_FILE...")


@click.command()
@SOURCES
@click.option("--to", "form", required=True, type=click.Choice(FORMS), metavar="FORMAT", help="A format listed above.")
@click.option("--out", "-o", required=True, metavar="PATH", help="File or folder to write.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the file, or all files of the folder, that an earlier convert wrote."
)
@choice_options
@JSON
def convert(
    sources: Sequence[str],
    form: str,
    out: str,
    overwrite: bool,
    selection: str | None,
    dataset: str | None,
    stages: Mapping[str, str],
    as_json: bool,
) -> None:
    """Write a lake or manifests in another format.

    It reads lakes, its own output, JSON lines of Lhotse, NeMo and moshi (.jsonl, .jsonl.gz), .rttm, .uem, .tar of
    WebDataset and Shar, and folders of these. Several arguments are read together, such as recordings and their
    supervisions. Everything that a format cannot represent is reported.

    \b
    lhotse               folder: recordings, supervisions, cuts .jsonl.gz
    lhotse-recordings    file: RecordingSet; no custom
    lhotse-supervisions  file: SupervisionSet
    lhotse-cuts          file: CutSet of kept windows, else of whole recordings
    nemo                 file: one line per segment (or else per window, or per
                         recording); no ids, no channels, only paths of files
    nemo-diarization     folder: manifest, and .rttm and .uem per recording; no
                         language, no text, no windows
    rttm                 file of turns, with a .uem file; no language, no text,
                         no path, one channel per turn, names without spaces
    moshi                file: path and duration of recordings with a speaker
                         on each of two channels
    parquet              folder: all tables, as one Hugging Face dataset
    csv                  folder: all tables, with lists as JSON
    """
    from manifests.exchange import convert as conversion
    from manifests.exchange.relations import open_foreign, open_lake, shard_folders, split_key
    from manifests.lake import Lake

    root, key = split_key(sources[0])
    part, _, name = key.partition("/")
    named = selection or dataset or stages
    if root is None or part == "datasets":
        if named:
            raise click.UsageError(f"{sources[0]} is not a lake to choose from: leave out --selection and the like")
        whole = root is not None and "/" not in name
        source = open_foreign(shard_folders(Lake.at(str(root)), key) if whole else sources)
    elif part in ("", "selections") and len(sources) == 1:
        source = open_lake(Lake.at(root), choose_part(name, selection), dataset, stages)
    else:
        raise click.UsageError(f"{sources[0]} is of a lake: give the lake, a selection or a dataset of it, alone")
    result = conversion.convert(source, form, out, overwrite)
    if as_json:
        files = [{"path": path, "rows": rows} for path, rows in result.files.items()]
        document = {"files": files, "left_out": left_out(result.left_out), "lost": result.lost}
        say(to_json({"choice": source.choice and source.choice.as_dict(), "format": form, **document}, indent=1))
        return
    if source.choice is not None:
        say(one_line(f"selection {source.choice.selection or 'none'}"), error=True)
    for path, rows in result.files.items():
        say(f"{rows:>12,}  {one_line(path)}")
    for reason, (count, examples) in result.left_out.items():
        such = f" ({', '.join(examples)}{', ...' if count > len(examples) else ''})" if examples else ""
        say(one_line(f"left out: {reason}: {count:,}{such}"), error=True)
    for what in result.lost:
        say(one_line(f"not in {form}: {what}"), error=True)


def choose_part(name: str, selection: str | None) -> str | None:
    """The selection that a path ends in, or that an option names."""
    if name and selection not in (None, name):
        raise click.UsageError(f"the path names the selection {name} and --selection {selection}: name one of them")
    return name or selection


def left_out(reasons: Mapping[str, tuple[int, list[str]]]) -> list[dict[str, object]]:
    return [{"reason": reason, "count": count, "examples": some} for reason, (count, some) in reasons.items()]


@click.command()
@SOURCES
@click.option(
    "--deep", is_flag=True, help="Also recount shards from their bytes, and hash all recordings, which is slow."
)
@JSON
def validate(sources: Sequence[str], deep: bool, as_json: bool) -> None:
    """Check a lake or manifests for errors.

    It checks schemas, ids, references, durations, turns, and shards against their commits, of a lake, a folder of a
    lake (LAKE/datasets/NAME, LAKE/selections/NAME, ...), or several manifests together. It prints a line for each
    problem, with its file, a row and the remedy; the exit code is then 3.
    """
    from manifests.exchange import validate as checking
    from manifests.exchange.relations import open_foreign, split_key
    from manifests.lake import Lake
    from pipelines.commands.check import check_sources

    problems: list[checking.Problem] = []
    foreign = []
    for path in sources:
        root, only = split_key(path)
        if root is None:
            foreign.append(path)
        else:
            problems += checking.validate(Lake.at(root), only, deep)
            if deep and only.rstrip("/") in ("", "recordings"):
                problems += check_sources(Lake.at(root))
    if foreign:
        problems += checking.validate_foreign(open_foreign(foreign))
    if as_json:
        say(to_json({"problems": [asdict(problem) for problem in problems]}, indent=1))
    else:
        for problem in problems:
            say(one_line(str(problem)), error=True)
    if any(not problem.note for problem in problems):
        sys.exit(3)
    if not as_json:
        say(f"{', '.join(sources)}: no problem found")

"""`speechmill manifest convert` and `validate`, on a lake, a folder of one, or foreign manifests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from manifests.output import one_line, say, to_json

FORMS = (
    "lhotse", "lhotse-recordings", "lhotse-supervisions", "lhotse-cuts", "nemo", "nemo-diarization", "rttm", "moshi",
    "parquet", "csv",
)  # fmt: skip
"""Names of `manifests.exchange.convert.FORMS`, which is not imported before it is needed."""

SOURCES = click.argument("sources", nargs=-1, required=True, metavar="LAKE_OR_FILE...")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@SOURCES
@click.option("--to", "form", required=True, type=click.Choice(FORMS), metavar="FORMAT", help="One of the above.")
@click.option("--out", "-o", required=True, metavar="PATH", help="File or folder to write.")
@click.option("--selection", metavar="NAME", help="Selection of the lake; the newest if not given.")
@JSON
def convert(sources: Sequence[str], form: str, out: str, selection: str | None, as_json: bool) -> None:
    """Write a lake or manifests in another format.

    Reads a lake, Lhotse and NeMo JSON lines (.jsonl, .jsonl.gz), .rttm, .uem, WebDataset and Shar .tar, Parquet
    written by this command, and folders of these. Several are read together: recordings with their supervisions.
    What a format cannot hold is told.

    \b
    lhotse               folder: recordings, supervisions, cuts .jsonl.gz
    lhotse-recordings    file: RecordingSet; no custom
    lhotse-supervisions  file: SupervisionSet
    lhotse-cuts          file: CutSet of kept windows, else of whole recordings
    nemo                 file: an utterance a segment; no id, no channel
    nemo-diarization     folder: manifest, .rttm and .uem a recording; no
                         language, no text
    rttm                 file of turns, .uem beside it; no language, no text,
                         no path, one channel a turn, names without spaces
    moshi                file: path and duration of recordings with a speaker
                         on each of two channels
    parquet              folder: the tables, one Hugging Face dataset; all
    csv                  folder: the tables, lists as JSON; all
    """
    from manifests.exchange import convert as conversion
    from manifests.exchange.relations import open_foreign, open_lake, split_key, splits
    from manifests.lake import Lake

    root, key = split_key(sources[0])
    part, _, name = key.partition("/")
    if root is None or (part == "datasets" and "/" in name):
        source = open_foreign(sources)
    elif part == "datasets":
        source = open_foreign(splits(Lake.at(root), key))
    elif part in ("", "selections") and len(sources) == 1:
        source = open_lake(Lake.at(root), name or selection)
    else:
        raise click.UsageError(f"{sources[0]} is of a lake: give the lake, a selection or a dataset of it, alone")
    result = conversion.convert(source, form, out)
    if as_json:
        say(to_json({"format": form, **asdict(result)}, indent=1))
        return
    for path, rows in result.files.items():
        say(f"{rows:>12,}  {one_line(path)}")
    for reason, (count, examples) in result.left_out.items():
        such = f" ({', '.join(examples)}{', ...' if count > len(examples) else ''})" if examples else ""
        say(one_line(f"left out: {count:,} {reason}{such}"), error=True)
    for what in result.lost:
        say(one_line(f"not in {form}: {what}"), error=True)


@click.command()
@SOURCES
@click.option("--deep", is_flag=True, help="Recount shards from their bytes, as `tokens verify` does.")
@JSON
def validate(sources: Sequence[str], deep: bool, as_json: bool) -> None:
    """Check schemas, ids, references, durations, turns, and shards against their commits.

    Of a lake, a folder of one (LAKE/datasets/NAME, LAKE/selections/NAME, ...), or manifests that are read together.
    Exit code 3 and a line for each problem, with its file, a row and what to do.
    """
    from manifests.exchange import validate as checking
    from manifests.exchange.relations import open_foreign, split_key
    from manifests.lake import Lake

    problems: list[checking.Problem] = []
    foreign = []
    for path in sources:
        root, only = split_key(path)
        if root is None:
            foreign.append(path)
        else:
            problems += checking.validate(Lake.at(root), only, deep)
    if foreign:
        problems += checking.validate_foreign(open_foreign(foreign))
    if as_json:
        say(to_json({"problems": [asdict(problem) for problem in problems]}, indent=1))
    else:
        for problem in problems:
            say(one_line(str(problem)), error=True)
    if problems:
        sys.exit(3)
    if not as_json:
        say(f"{', '.join(sources)}: no problem found")

"""Generate docs/recipes.md from the dataclasses of recipes, and docs/columns.md from the schemas.

`python -m docs.generate` writes both pages. tests/test_docs.py checks that they are up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from manifests import schemas
from manifests.view_columns import columns_of_views
from pipelines.recipes.keys import Key, encoder_keys, keys

FOLDER = Path(__file__).parent
COMMAND = "python -m docs.generate"
MADE = f"<!-- Made by `{COMMAND}`: change the code, not this page. -->"

RECIPES = """# Keys of a recipe

A recipe is a TOML file that defines a run completely. `speechmill recipe show NAME` prints a shipped recipe,
`speechmill recipe init` writes one to start from, `speechmill recipe check FILE` checks one, and
`--set select.continuation_s=20` overrides a value for one command. Unknown keys, values of the wrong type, and rules
over columns that no stage computes stop a command before it does anything.

Each row below is a key. A default of "none" means that the key is not set; the meaning says what happens then.
"""
TABLES = {
    "ingest": "Properties of recordings that are given by the user, and limits for lists, manifests and tars.",
    "decode": "How recordings are decoded, and the limits for one recording.",
    "annotate": "A table `[annotate.STAGE]` makes a stage run; [columns.md](columns.md) lists the columns of each. The "
    "stage `signal` always runs and has no keys.",
    **{f"annotate.{name}": spec.summary for name, spec in schemas.STAGE_SPECS.items() if spec.optional},
    "match": "How fingerprints are compared ([duplicates.md](duplicates.md)).",
    "select": "How windows are cut, and which recordings and windows are kept. A rule has a name and is an SQL "
    "condition over the columns of [columns.md](columns.md). A rule on a missing (null) value fails, and all rules "
    "that fail are kept as reasons.",
    "encode": "How kept windows are encoded. If there are several encoders, each has a table `[encode.NAME]` with "
    "`encoder` (NAME by default), `on_grid` and the encoder's own settings; the other keys stay in `[encode]`.",
    "storage": "How buckets and HTTP servers are accessed. Credentials are never in a recipe: they come from the usual "
    "AWS configuration.",
}
SETTINGS = """## Settings of encoders

These keys are in `[encode.settings]`, or in `[encode.NAME]` if a recipe has several encoders.
[encoders.md](encoders.md) describes the encoders.
"""

COLUMNS = """# Columns

This page lists the columns of every Parquet file of a lake. A stage writes one row per recording, in the order of its
batch, including failures. Rules and queries can use the columns of `recordings` and of the stages by these names and,
where fingerprints were computed, `repeated_share` and `repeats`; [recipes.md](recipes.md) explains rules. Only columns
that say so may be null.
"""
QUERIES = """## Tables for queries

`speechmill manifest query`, `head --view` and `stats --view` read these tables. The first two have every column, so
that a query needs no join; the others have the rows of one kind of file. `DESCRIBE` lists the columns of a table:
`speechmill manifest query LAKE "DESCRIBE recordings"`.
"""
WIDE = {
    "recordings": (
        "a recording",
        "all columns of the files `recordings`, of every stage and of `verdicts`. `status`, `error_type`, `error` "
        "and `remedy` are those of ingest; those of a stage are in the table of the stage. `sample_rate` and "
        "`channels` are those of the decoded sound, or what the header claims if nothing was decoded; "
        "`claimed_sample_rate` and `claimed_channels` are always what the header claims. `verdict_duration_s` is the "
        "`duration_s` of the verdict.",
    ),
    "windows": (
        "a window",
        "all columns of the files `windows` and of the recording. If both have a column of one name, the plain name "
        "is that of the window, and the recording's column begins with `recording_`: `recording_duration_s` is the "
        "length of the whole recording. The landmarks of `fingerprint` and the errors of ingest are left out.",
    ),
    "annotations": ("a recording", "the columns that rules for recordings may use."),
    "ingest": ("a recording", "the columns of the files `recordings`."),
    "window_verdicts": ("a window", "the columns of the files `windows`."),
    "shard_windows": ("a window of a shard", "the columns of [windows of shards](#windows-of-shards)."),
    "batches": ("a recording", "`batch`, the file that contains the recording, and a few columns of `ingest`."),
}
"""The tables of `manifests.view_columns` whose names differ from those of their files."""
FILES = {
    "recordings": ("recordings/batch-N.parquet", schemas.RECORDINGS, "One row per recording that was ingested."),
    **{
        name: (f"annotations/{name}-FINGERPRINT/batch-N.parquet", schema, "One row per recording.")
        for name, schema in schemas.STAGES.items()
    },
    "verdicts": (
        "selections/RECIPE-FINGERPRINT/verdicts-N.parquet",
        schemas.VERDICTS,
        "One row per recording to which rules were applied, and per failed recording.",
    ),
    "matches": (
        "matches/FINGERPRINT/batch-N.parquet",
        schemas.MATCHES,
        "One row per segment of sound that a recording has in common with one that was ingested earlier.",
    ),
    "windows": (
        "selections/RECIPE-FINGERPRINT/windows-N.parquet",
        schemas.WINDOWS,
        "One row per window of a kept recording, kept or not.",
    ),
    "windows of shards": (
        "datasets/NAME/windows/FOLDER-N.parquet",
        schemas.SHARD_WINDOWS,
        "One row per window of a shard, in the shard's order.",
    ),
    "products": (
        "datasets/NAME/products/FOLDER-N.parquet",
        schemas.PRODUCTS,
        "The upper triangle of a matrix, row by row.",
    ),
    "ledger": ("datasets/NAME/ledger.parquet", schemas.LEDGER, "One row per group of windows and patch."),
    "shards": (
        "datasets/NAME/shards.parquet",
        schemas.SHARDS,
        "One row per shard, in an order in which any prefix is a fair sample.",
    ),
    "subset": ("the file of `speechmill study subset`", schemas.SUBSET, "One row per shard."),
    "changes of labels": ("labels/N.parquet", schemas.CHANGES, "One row per changed value."),
    "removed": ("removed/N.parquet", schemas.REMOVED, "One row per recording that was withdrawn."),
}


def recipes_page() -> str:
    """docs/recipes.md."""
    parts = [MADE, RECIPES]
    for table, of_table in groupby(keys(), lambda key: key.table):
        heading = f"## [{table}]" if table else "## Above all tables"
        parts += [f"{heading}\n", f"{TABLES[table]}\n" if table in TABLES else "", _keys(of_table)]
    parts.append(SETTINGS)
    for name, settings in encoder_keys().items():
        parts += [f"### `{name}`\n", _keys(settings)]
    return "\n".join(filter(None, parts))


def columns_page() -> str:
    """docs/columns.md."""
    parts = [MADE, COLUMNS, QUERIES, _table(("table", "a row for each", "columns"), _tables())]
    for name, (file, schema, row) in FILES.items():
        where = file if "`" in file else f"`{file}`"
        parts += [f"## {name}\n\n{where[:1].upper()}{where[1:]}. {row}\n", _table(COLUMN_HEAD, _columns(schema))]
    return "\n".join(parts)


def _tables() -> Iterator[tuple[str, ...]]:
    for name in columns_of_views():
        if name in WIDE:
            yield f"`{name}`", *WIDE[name]
        else:
            yield f"`{name}`", "a group" if name == "ledger" else "a recording", f"the columns of [{name}](#{name})."


KEY_HEAD = ("key", "type", "default", "unit", "meaning")
COLUMN_HEAD = ("column", "type", "unit", "null", "meaning")


def _keys(found: Iterable[Key]) -> str:
    rows = (
        (f"`{key.name}`", key.kind, f"`{key.default}`" if key.default is not None else "none", key.unit, key.meaning)
        for key in found
    )
    return _table(KEY_HEAD, rows)


def _columns(columns: Iterable[pa.Field], above: str = "") -> Iterator[tuple[str, ...]]:
    """Yield a row for each column, followed by rows for the fields of its structs."""
    for column in columns:
        metadata = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
        name = f"{above}{column.name}"
        meaning = metadata.get("description", "")
        null = "may be" if column.nullable and not above else ""
        if meaning.partition(" ")[0].rstrip(",:;").isalpha():  # sha256 is a name and stays as it is
            meaning = meaning[:1].upper() + meaning[1:]
        yield f"`{name}`", kind_of(column.type), metadata.get("unit", ""), null, f"{meaning}."
        inside = column.type
        if pa.types.is_list(inside) and pa.types.is_struct(inside.value_type) and inside.value_type[0].metadata:
            yield from _columns(inside.value_type, f"{name}[].")


def kind_of(kind: pa.DataType) -> str:
    """Return the name of an Arrow type, with SQL's names where they exist."""
    if pa.types.is_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    if pa.types.is_map(kind):
        return f"map from {kind_of(kind.key_type)} to {kind_of(kind.item_type)}"
    if pa.types.is_struct(kind):
        return f"struct of {', '.join(field.name for field in kind)}"
    return {"string": "text", "double": "float64"}.get(str(kind), str(kind))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


PAGES = {"recipes.md": recipes_page, "columns.md": columns_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()

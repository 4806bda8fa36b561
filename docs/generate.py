"""The pages that are made of the code: docs/recipes.md of the dataclasses of recipes, docs/columns.md of the schemas.

`python -m docs.generate` writes them; tests/test_docs.py compares them with what is in the repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from manifests import schemas
from pipelines.recipes.keys import Key, encoder_keys, keys

FOLDER = Path(__file__).parent
COMMAND = "python -m docs.generate"
MADE = f"<!-- Made by `{COMMAND}`: change the code, not this page. -->"

RECIPES = """# Keys of a recipe

A recipe is one TOML file that says everything about a run. `speechmill recipe show NAME` prints a shipped one,
`speechmill recipe init` writes one to begin with, `speechmill recipe check FILE` says what is wrong with one, and
`--set select.continuation_s=20` overrides a value for one command. An unknown key, a value of another type and a rule
over a column that no stage gives end a command before it does anything.

Each row below is a key. A default of "none" says that nothing is given, and the meaning says what happens then.
"""
TABLES = {
    "ingest": "What is known of recordings before anybody listens, and what lists, manifests and tars may cost.",
    "decode": "How recordings are decoded, and what one of them may cost.",
    "annotate": "A table `[annotate.STAGE]` makes a stage run; [columns.md](columns.md) says what each gives. The "
    "stage `signal` runs always and has no keys.",
    "annotate.vad": "Where somebody speaks.",
    "annotate.diarize": "Who speaks when ([diarization.md](diarization.md)).",
    "annotate.language": "Which languages are spoken ([languages.md](languages.md)).",
    "annotate.quality": "How well it sounds: DNSMOS, level of speech over noise, music.",
    "annotate.phonemes": "Which phones are spoken ([studies.md](studies.md) says what for).",
    "annotate.fingerprint": "Landmarks by which copies of a sound are found ([duplicates.md](duplicates.md)).",
    "annotate.prosody": "Pitch, speaking rate, pauses and loudness of each speaker ([talk.md](talk.md)).",
    "match": "How fingerprints are compared ([duplicates.md](duplicates.md)).",
    "select": "How windows are cut, and which recordings and windows are kept. A rule has a name and is a condition "
    "in SQL over the columns of [columns.md](columns.md); a rule over a missing (null) value fails, and each that "
    "fails is kept as a reason.",
    "encode": "What kept windows are encoded to. Where there are several encoders, each has a table `[encode.NAME]` "
    "that holds `encoder` (NAME if not given), `on_grid` and the encoder's own settings; the other keys stay in "
    "`[encode]`.",
    "storage": "How buckets and HTTP servers are reached. Credentials are never in a recipe: they come from the usual "
    "AWS configuration.",
}
SETTINGS = """## Settings of encoders

They stand in `[encode.settings]`, or in `[encode.NAME]` where a recipe has several encoders;
[encoders.md](encoders.md) says what each encoder gives.
"""

COLUMNS = """# Columns

Every Parquet file of a lake, with each of its columns. A stage writes one row a recording, in the order of its batch,
failures included. Columns of `recordings` and of the stages may stand in rules and queries under these names, and where
fingerprints were taken also `repeated_share` and `repeats`; [recipes.md](recipes.md) says how rules are written. A
column may be null only where that is said.
"""
FILES = {
    "recordings": ("recordings/batch-N.parquet", schemas.RECORDINGS, "One row a recording that was ingested."),
    **{
        name: (f"annotations/{name}-FINGERPRINT/batch-N.parquet", schema, "One row a recording.")
        for name, schema in schemas.STAGES.items()
    },
    "verdicts": (
        "selections/RECIPE-FINGERPRINT/verdicts-N.parquet",
        schemas.VERDICTS,
        "One row a recording that was judged.",
    ),
    "matches": (
        "matches/FINGERPRINT/batch-N.parquet",
        schemas.MATCHES,
        "One row a stretch of sound that a recording shares with one that was met before it.",
    ),
    "windows": (
        "selections/RECIPE-FINGERPRINT/windows-N.parquet",
        schemas.WINDOWS,
        "One row a window of a kept recording, kept or not.",
    ),
    "windows of shards": (
        "datasets/NAME/windows/FOLDER-N.parquet",
        schemas.SHARD_WINDOWS,
        "One row a window of a shard, in the shard's order.",
    ),
    "products": (
        "datasets/NAME/products/FOLDER-N.parquet",
        schemas.PRODUCTS,
        "The upper triangle of a matrix, row by row.",
    ),
    "ledger": ("datasets/NAME/ledger.parquet", schemas.LEDGER, "One row a group of windows and patch."),
    "shards": (
        "datasets/NAME/shards.parquet",
        schemas.SHARDS,
        "One row a shard, in an order of which any prefix is fair.",
    ),
    "subset": ("the file of `speechmill study subset`", schemas.SUBSET, "One row a shard."),
    "changes of labels": ("labels/N.parquet", schemas.CHANGES, "One row a changed value."),
    "removed": ("removed/N.parquet", schemas.REMOVED, "One row a recording that was withdrawn."),
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
    parts = [MADE, COLUMNS]
    for name, (file, schema, row) in FILES.items():
        where = file if "`" in file else f"`{file}`"
        parts += [f"## {name}\n\n{where[:1].upper()}{where[1:]}. {row}\n", _table(COLUMN_HEAD, _columns(schema))]
    return "\n".join(parts)


KEY_HEAD = ("key", "type", "default", "unit", "meaning")
COLUMN_HEAD = ("column", "type", "unit", "null", "meaning")


def _keys(found: Iterable[Key]) -> str:
    rows = (
        (f"`{key.name}`", key.kind, f"`{key.default}`" if key.default is not None else "none", key.unit, key.meaning)
        for key in found
    )
    return _table(KEY_HEAD, rows)


def _columns(columns: Iterable[pa.Field], above: str = "") -> Iterator[tuple[str, ...]]:
    """A row a column, and one below it for each field of the structs that it holds."""
    for column in columns:
        told = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
        name = f"{above}{column.name}"
        meaning = told.get("description", "")
        null = "may be" if column.nullable and not above else ""
        if meaning.partition(" ")[0].isalpha():  # not sha256, which is a name
            meaning = meaning[:1].upper() + meaning[1:]
        yield f"`{name}`", kind_of(column.type), told.get("unit", ""), null, f"{meaning}."
        inside = column.type
        if pa.types.is_list(inside) and pa.types.is_struct(inside.value_type) and inside.value_type[0].metadata:
            yield from _columns(inside.value_type, f"{name}[].")


def kind_of(kind: pa.DataType) -> str:
    """A type of Arrow in words that are those of SQL where there is one."""
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

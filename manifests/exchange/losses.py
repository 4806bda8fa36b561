"""Describe the values that a format cannot hold, so that no conversion loses any of them silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from manifests.exchange.foreign import nemo
from manifests.exchange.relations import Source
from manifests.output import counted

CONDITIONS = {
    "channels": "channels <> [0]",
    "all channels but the first": "len(channels) > 1",
    "all names but the first": "len(uris) > 1",
    "recording_id, which is not the path": "recording_id IS DISTINCT FROM uris[1]",
    "number of channels": "channels IS NOT NULL",
    "segments": "len(segments) > 0",
    **{
        f"custom that clashes with NeMo's own keys{kind}": f"json_type(custom) <> 'OBJECT' OR len(list_intersect("
        f"json_keys(custom), {sorted(keys)!r})) > 0"
        for kind, keys in (("", nemo.COLUMNS), (" for diarization", nemo.OF_RECORDINGS))
    },
}
"""SQL conditions for kinds of values that a row may have; any other kind is the name of a column that is not null."""


def describe_losses(source: Source, lacks: Mapping[str, Sequence[str] | None], form: str) -> Iterator[str]:
    """Yield a line for each kind of values that a format loses.

    Args:
        source: What is converted.
        lacks: The kinds of values that the format cannot hold, by table; None if it cannot hold the table at all.
        form: The name of the format under which its extra fields are kept in `rest`.
    """
    for table, kinds in lacks.items():
        rows = source.count(table)
        if not rows:
            continue
        if kinds is None:
            yield counted(rows, table[:-1])
            continue
        conditions = {kind: CONDITIONS.get(kind, f"{kind} IS NOT NULL") for kind in kinds}
        conditions["fields of another format"] = f"rest IS NOT NULL AND json_extract(rest, '$.{form}') IS NULL"
        query = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values())
        (counts,) = source.connection.execute(f"SELECT {query} FROM {source.relations[table]}").fetchall()
        for kind, count in zip(conditions, counts, strict=True):
            if count:
                yield f"{_custom(source, table) if kind == 'custom' else kind} of {counted(count, table[:-1])}"


def _custom(source: Source, table: str) -> str:
    """The word `custom` with its first few keys."""
    query = f"SELECT DISTINCT unnest(json_keys(custom)) AS key FROM {source.relations[table]} ORDER BY key"
    names = [key for (key,) in source.connection.execute(query).fetchmany(6)]
    return f"custom ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"

"""What a format cannot hold of what it is given, as lines for people: nothing is lost without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from manifests.exchange.foreign import nemo
from manifests.exchange.relations import Source
from manifests.output import counted

SAYS = {
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
"""When a row holds something of that kind; any other name is a column that is not null."""


def lost(source: Source, lacks: Mapping[str, Sequence[str] | None], form: str) -> Iterator[str]:
    """What is lost of each table: by kind, and all of it where `lacks` says None.

    `form` is the name under which `rest` is kept for the format.
    """
    for table, kinds in lacks.items():
        rows = source.count(table)
        if not rows:
            continue
        if kinds is None:
            yield counted(rows, table[:-1])
            continue
        conditions = {kind: SAYS.get(kind, f"{kind} IS NOT NULL") for kind in kinds}
        conditions["fields of another format"] = f"rest IS NOT NULL AND json_extract(rest, '$.{form}') IS NULL"
        query = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values())
        (counts,) = source.connection.execute(f"SELECT {query} FROM {source.relations[table]}").fetchall()
        for kind, count in zip(conditions, counts, strict=True):
            if count:
                yield f"{_custom(source, table) if kind == 'custom' else kind} of {counted(count, table[:-1])}"


def _custom(source: Source, table: str) -> str:
    """The word with the first few keys that are lost."""
    query = f"SELECT DISTINCT unnest(json_keys(custom)) AS key FROM {source.relations[table]} ORDER BY key"
    names = [key for (key,) in source.connection.execute(query).fetchmany(6)]
    return f"custom ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"

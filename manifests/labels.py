"""Labels that users give to recordings: the columns source, licence and language_hint, or names of their own.

They are set when a recording is ingested, and corrected by `relabel`, which records every change under `labels/`.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.lake import Lake
from manifests.names import NAME, checked_name
from manifests.tables import write_parquet_bytes

COLUMNS = ("source", "licence", "language_hint")
"""Labels that have columns of their own; all others are in the column `labels`."""
MAX_LETTERS = 200
"""Longest value of a label, in characters."""
HISTORY = re.compile(r"labels/\d{6}\.parquet")
ROWS = 10_000
"""Changes that are held in memory at a time."""
COUNTED_BY = re.compile(rf"labels\.({NAME.pattern})")
"""How the options that group by columns name a label: `labels.country`."""
RESERVED = re.compile(r"recording_id|uri|pattern|labels")
"""Names that have another meaning in a file of labels."""


def checked_label(name: object, value: object) -> tuple[str, str]:
    """Return a label if its name and its value are allowed; otherwise raise ValueError."""
    name = checked_name(name, "the label")
    if RESERVED.fullmatch(name):
        raise ValueError(f"the label {name!r} cannot be used: this name has another meaning")
    if not isinstance(value, str) or not is_value(value):
        raise ValueError(
            f"{value!r:.100} cannot be the value of {name}: give 1 to {MAX_LETTERS} characters of plain text"
        )
    return name, value


def is_value(value: str) -> bool:
    """Whether a text is allowed as the value of a label: short, and without invisible characters."""
    return 0 < len(value) <= MAX_LETTERS and value.isprintable()


def as_sql(column: str) -> str:
    """SQL of a column or a label to group by: `labels.country` becomes `labels['country']`."""
    label = COUNTED_BY.fullmatch(column)
    return f"labels['{label[1]}']" if label else column


def as_column(labels: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """A value of the column `labels`, sorted, so that equal labels give equal bytes; None without labels."""
    return sorted(labels.items()) or None


def relabel(lake: Lake, connection: duckdb.DuckDBPyConnection, given: Mapping[str, str | None], asked: str) -> Changed:
    """Plan the changes of labels of the recordings that `pick` has found; `Changed.commit` makes them.

    Args:
        lake: The lake of the recordings.
        connection: The result of `pick`. Labels in its table `labelled` are set, too.
        given: New values of labels by name; None removes a label.
        asked: The request in words, which is recorded with the changes.

    Raises:
        ValueError: A label is not allowed, or a recording would get two values of one label.
    """
    for name, value in given.items():
        checked_label(name, "any" if value is None else value)
    for name, value in connection.execute("SELECT name, value FROM labelled GROUP BY ALL").fetchall():
        checked_label(name, value)
    connection.execute(
        "CREATE TABLE given AS SELECT unnest($names) AS name, unnest($values) AS value",
        {"names": list(given), "values": list(given.values())},
    )
    connection.execute(
        "CREATE TABLE wanted AS SELECT recording_id, name, value FROM picked, given "
        "UNION SELECT recording_id, name, value FROM labelled SEMI JOIN picked USING (recording_id)"
    )
    twice = connection.execute(
        "SELECT recording_id, name FROM wanted GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
    ).fetchall()
    for recording_id, name in twice:
        raise ValueError(f"recording {recording_id} would get two values of {name}: give it one")
    columns = " ".join(f"WHEN '{name}' THEN {name}" for name in COLUMNS)
    connection.execute(
        f"CREATE TABLE changes AS SELECT batch, recording_id, name, CASE name {columns} ELSE labels[name] END AS old, "
        "value AS new FROM batches JOIN wanted USING (recording_id) WHERE old IS DISTINCT FROM new"
    )
    return Changed(lake, connection, asked)


@dataclass(frozen=True)
class Changed:
    """Planned changes of labels: the table `changes` of a connection, and the request in words."""

    lake: Lake
    connection: duckdb.DuckDBPyConnection
    asked: str

    def recordings(self) -> int:
        ((count,),) = self.connection.execute("SELECT count(DISTINCT recording_id) FROM changes").fetchall()
        return int(count)

    def counted(self) -> list[dict[str, Any]]:
        """How many recordings change from one value to another, by label, the most frequent change first."""
        query = "SELECT name, old, new, count(*) AS count FROM changes GROUP BY ALL ORDER BY name, count DESC, old, new"
        rows = self.connection.execute(query).fetchall()
        return [dict(zip(("name", "old", "new", "count"), row, strict=True)) for row in rows]

    def commit(self) -> None:
        """Record the changes under `labels/`, then make them, one batch at a time.

        The next call with the same request finishes a call that was killed: the remaining changes are then recorded
        already.
        """
        if self.recordings():
            self._record()
        rows = self.connection.execute("SELECT batch, recording_id, name, new FROM changes ORDER BY ALL")
        streamed = itertools.chain.from_iterable(iter(lambda: rows.fetchmany(ROWS), []))
        for batch, of_batch in itertools.groupby(streamed, key=lambda row: row[0]):
            new: dict[str, dict[str, str | None]] = defaultdict(dict)
            for _, recording_id, name, value in of_batch:
                new[recording_id][name] = value
            self.lake.change(self.lake.recordings_key(batch), partial(_relabel_rows, new=new))

    def _record(self) -> None:
        """Record the changes, unless the newest file of changes has all of them."""
        query = "SELECT recording_id, name, old, new, $asked AS asked FROM changes"
        asked, number = {"asked": self.asked}, 0
        for key in list(history_keys(self.lake))[-1:]:
            number = int(key[-14:-8]) + 1
            self.connection.register("last_changes", self.lake.read(key))
            if not self.connection.execute(f"{query} EXCEPT FROM last_changes LIMIT 1", asked).fetchall():
                return
        changes = self.connection.sql(f"{query} ORDER BY ALL", params=asked).to_arrow_table().cast(schemas.CHANGES)
        data = write_parquet_bytes(changes)
        while not self.lake.storage.put_if_absent(f"labels/{number:06d}.parquet", data):
            number += 1


def _relabel_rows(table: pa.Table, new: Mapping[str, Mapping[str, str | None]]) -> pa.Table:
    """Set labels in a table of RECORDINGS; `new` has values by recording and name, and None removes a label."""
    by_row = [new.get(recording_id, {}) for recording_id in table["recording_id"].to_pylist()]
    for number, column in enumerate(table.schema):
        values = table[column.name]
        if column.name in COLUMNS:
            changed = [row.get(column.name, value) for row, value in zip(by_row, values.to_pylist(), strict=True)]
        elif column.name == "labels":
            changed = [
                _merge_labels(dict(value or ()), row) for row, value in zip(by_row, values.to_pylist(), strict=True)
            ]
        else:
            continue
        table = table.set_column(number, column, pa.array(changed, column.type))
    return table


def _merge_labels(held: Mapping[str, str], new: Mapping[str, str | None]) -> list[tuple[str, str]] | None:
    changed = {**held, **{name: value for name, value in new.items() if name not in COLUMNS}}
    return as_column({name: value for name, value in changed.items() if value is not None})


def history_keys(lake: Lake) -> Iterator[str]:
    """The keys of the files of changes, the oldest first."""
    return (key for key in lake.storage.list("labels") if HISTORY.fullmatch(key))


def history(lake: Lake, recording_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield every change of a recording; without an id, how many recordings changed from one value to another."""
    for key in history_keys(lake):
        table = lake.read(key)
        if recording_id is not None:
            rows = table.filter(pc.equal(table["recording_id"], recording_id)).to_pylist()
        else:
            grouped = table.group_by(["name", "old", "new", "asked"], use_threads=False).aggregate([([], "count_all")])
            rows = [{**row, "count": row["count_all"]} for row in grouped.to_pylist()]
        for row in rows:
            row.pop("count_all", None)
            yield {"change": key[-14:-8], **row}

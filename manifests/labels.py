"""Labels: what people say of recordings, as columns (source, licence, language_hint) or by names of their own.

They are set when a recording is ingested and corrected by `relabel`, which keeps every change under `labels/`.
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
"""Labels that are columns of their own; all others lie in the column `labels`."""
MAX_LETTERS = 200
"""Of a value."""
HISTORY = re.compile(r"labels/\d{6}\.parquet")
ROWS = 10_000
"""Changes that are held at a time."""
COUNTED_BY = re.compile(rf"labels\.({NAME.pattern})")
"""How an option that counts by columns names a label: `labels.country`."""
RESERVED = re.compile(r"recording_id|uri|pattern|labels")
"""Names that mean something else in a file of labels."""


def checked_label(name: object, value: object) -> tuple[str, str]:
    """A label, if its name and value can be kept. Raises ValueError for any other."""
    name = checked_name(name, "the label")
    if RESERVED.fullmatch(name):
        raise ValueError(f"the label {name!r} cannot be used: this name means something else")
    if not isinstance(value, str) or not is_value(value):
        raise ValueError(
            f"{value!r:.100} cannot be the value of {name}: give 1 to {MAX_LETTERS} characters of plain text"
        )
    return name, value


def is_value(value: str) -> bool:
    """Whether a text can be the value of a label: short, and without characters that cannot be seen."""
    return 0 < len(value) <= MAX_LETTERS and value.isprintable()


def as_sql(column: str) -> str:
    """A column by which to count, as SQL: `labels.country` becomes a look into the map `labels`."""
    label = COUNTED_BY.fullmatch(column)
    return f"labels['{label[1]}']" if label else column


def as_column(labels: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """Labels by name as a value of the column `labels`: sorted, so that equal labels give equal bytes."""
    return sorted(labels.items()) or None


def relabel(lake: Lake, connection: duckdb.DuckDBPyConnection, given: Mapping[str, str | None], asked: str) -> Changed:
    """The changes that make labels of the recordings that `pick` found what is `given`, and what its file says.

    A label that is given as None is taken away. Nothing is changed before `Changed.commit`. Raises ValueError for
    labels that cannot be kept, and where a recording would get two values of one label.
    """
    for name, value in given.items():
        checked_label(name, "any" if value is None else value)
    for name, value in connection.execute("SELECT name, value FROM said GROUP BY ALL").fetchall():
        checked_label(name, value)
    connection.execute(
        "CREATE TABLE given AS SELECT unnest($names) AS name, unnest($values) AS value",
        {"names": list(given), "values": list(given.values())},
    )
    connection.execute(
        "CREATE TABLE wanted AS SELECT recording_id, name, value FROM picked, given "
        "UNION SELECT recording_id, name, value FROM said SEMI JOIN picked USING (recording_id)"
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
    """Changes of labels, in the table `changes` of a connection, and the words that asked for them."""

    lake: Lake
    connection: duckdb.DuckDBPyConnection
    asked: str

    def recordings(self) -> int:
        ((count,),) = self.connection.execute("SELECT count(DISTINCT recording_id) FROM changes").fetchall()
        return int(count)

    def counted(self) -> list[dict[str, Any]]:
        """How many recordings change from which value to which, by label, most frequent first."""
        query = "SELECT name, old, new, count(*) AS count FROM changes GROUP BY ALL ORDER BY name, count DESC, old, new"
        found = self.connection.execute(query).fetchall()
        return [dict(zip(("name", "old", "new", "count"), row, strict=True)) for row in found]

    def commit(self) -> None:
        """Write the changes down under `labels/`, then make them, a batch at a time.

        A call that was killed is finished by the next that asks for the same: what is left to change is then written
        down already.
        """
        if self.recordings():
            self._write_down()
        rows = self.connection.execute("SELECT batch, recording_id, name, new FROM changes ORDER BY ALL")
        streamed = itertools.chain.from_iterable(iter(lambda: rows.fetchmany(ROWS), []))
        for batch, of_batch in itertools.groupby(streamed, key=lambda row: row[0]):
            new: dict[str, dict[str, str | None]] = defaultdict(dict)
            for _, recording_id, name, value in of_batch:
                new[recording_id][name] = value
            self.lake.change(self.lake.recordings_key(batch), partial(_relabelled, new=new))

    def _write_down(self) -> None:
        query = "SELECT recording_id, name, old, new, $asked AS asked FROM changes"
        asked, number = {"asked": self.asked}, 0
        for key in list(history_keys(self.lake))[-1:]:
            number = int(key[-14:-8]) + 1
            self.connection.register("last_changes", self.lake.read(key))
            if not self.connection.execute(f"{query} EXCEPT FROM last_changes LIMIT 1", asked).fetchall():
                return
        told = self.connection.sql(f"{query} ORDER BY ALL", params=asked).to_arrow_table().cast(schemas.CHANGES)
        data = write_parquet_bytes(told)
        while not self.lake.storage.put_if_absent(f"labels/{number:06d}.parquet", data):
            number += 1


def _relabelled(table: pa.Table, new: Mapping[str, Mapping[str, str | None]]) -> pa.Table:
    """RECORDINGS with new values of labels by recording and name; a value of None takes a label away."""
    found = [new.get(recording_id, {}) for recording_id in table["recording_id"].to_pylist()]
    for number, column in enumerate(table.schema):
        values = table[column.name]
        if column.name in COLUMNS:
            changed = [of.get(column.name, value) for of, value in zip(found, values.to_pylist(), strict=True)]
        elif column.name == "labels":
            changed = [_own(dict(value or ()), of) for of, value in zip(found, values.to_pylist(), strict=True)]
        else:
            continue
        table = table.set_column(number, column, pa.array(changed, column.type))
    return table


def _own(held: Mapping[str, str], new: Mapping[str, str | None]) -> list[tuple[str, str]] | None:
    changed = {**held, **{name: value for name, value in new.items() if name not in COLUMNS}}
    return as_column({name: value for name, value in changed.items() if value is not None})


def history_keys(lake: Lake) -> Iterator[str]:
    """The files of changes, in the order in which they were asked for."""
    return (key for key in lake.storage.list("labels") if HISTORY.fullmatch(key))


def history(lake: Lake, recording_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Every change of a recording, or of all of them how many changed from which value to which."""
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

"""Compares the names of an ingest with the lake: packs new recordings into batches, adds names to known ones."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from manifests import labels, schemas
from manifests.lake import Lake
from manifests.merge import counted_s
from manifests.output import counted
from manifests.tables import concat_batches, write_parquet_bytes
from manifests.withdraw import tombstones, whole_files
from pipelines.inputs.entry import Notes
from pipelines.recipes.recipe import IngestConfig

ROWS = 1000
"""Rows that are in memory at a time."""
MAX_HINTS_BYTES = 16_000_000
"""The largest size of the hints of one recording. Further hints, in the order of their text, are left out."""
MAX_BATCH_BYTES = 64_000_000
"""The largest size of the hints in a batch."""
# Matches the name of a failed list, manifest or archive, or of a line or member of one. Group 1 is the whole file.
OWNER = r"(?si)^(.*?\.(?:tar|jsonl|json|txt|lst)(?:\.gz)?)(?:#.*|:\d+)?$"
UNREAD = "starts_with(recording_id, 'u')"
"""SQL that is true of rows of names whose bytes could not be read."""
NOT_NAMED = ("uris", "hints", "source", "licence", "language_hint")
NAMED = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("hint", pa.string()),
        pa.field("languages", pa.list_(pa.string())),
        pa.field("mtime_ns", pa.int64()),
        *[column for column in schemas.RECORDINGS if column.name not in NOT_NAMED],
    ]
)
"""The columns of the table `named`, with a row for each name in the inputs of this ingest. `labels` are those of its
line in a manifest, with `source` and `licence` if the recipe names these."""
KNOWN = "batch VARCHAR, recording_id VARCHAR, uri VARCHAR, status VARCHAR, " + ", ".join(
    f"{name} {'MAP(VARCHAR, VARCHAR)' if name == 'labels' else 'VARCHAR'}" for name in (*labels.COLUMNS, "labels")
)


@dataclass
class Ingested:
    """The counts of one ingest. All are counts of names, and `names` = `new` + `known` + `renamed` + `withdrawn`.

    Renamed names are new names of known bytes. Withdrawn names belong to recordings that `speechmill remove` removed.
    """

    names: int = 0
    new: int = 0
    known: int = 0
    renamed: int = 0
    failed: int = 0
    batches: int = 0
    withdrawn: int = 0
    left_out: dict[str, int] = field(default_factory=dict, compare=False)
    """Files and other things in the inputs that were left out, by suffix or reason."""
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    """Names of known recordings whose label in the lake differs from the label that this ingest gives, by label and by
    the value that the lake keeps ('' if it has none)."""

    def __str__(self) -> str:
        text = (
            f"ingest: {counted(self.names, 'name')}: {self.new:,} new, {self.renamed:,} new names of known bytes, "
            f"{self.known:,} known; {self.failed:,} unreadable"
        )
        if self.withdrawn:
            text += f"; {self.withdrawn:,} withdrawn, which were not ingested"
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in list(self.left_out.items())[:8])
            text += f"; left out {sum(self.left_out.values()):,}: {reasons}"
        for name, counts in self.kept.items():
            values = ", ".join(value or "none" for value in list(counts)[:3]) + ", ..." * (len(counts) > 3)
            text += f"\n  {sum(counts.values()):,} known with another {name}, which is kept: {values}"
            text += "; `speechmill label` changes it"
        return text


class Packing:
    """The tables `named` and `known` of one ingest.

    They are in a database on disk, because a lake may hold many names.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake, config: IngestConfig, notes: Notes) -> None:
        self.connection, self.lake, self.config, self.notes = connection, lake, config, notes
        connection.execute("SET threads = 1; SET memory_limit = '300MB'; SET preserve_insertion_order = true")
        connection.execute(f"CREATE TABLE known ({KNOWN})")
        connection.execute("CREATE TABLE replaced AS FROM known")
        connection.register("named_schema", NAMED.empty_table())
        connection.execute("CREATE TABLE named AS SELECT * FROM named_schema")
        self.number = 0
        """The number of the next batch."""
        self.rows = 0
        """The number of rows that were added to `named`."""
        self.written: set[str] = set()
        """Files of recordings that this ingest has written."""
        removed = tombstones(lake)
        self._withdrawn = {*removed["recording_id"].to_pylist(), *whole_files(removed)}

    def load_known(self) -> None:
        """Add the names of batches that are not in the table `known` yet."""
        batches = [batch for batch in self.lake.batches() if _number(batch) >= self.number]
        columns = ["recording_id", "uris", "status", *labels.COLUMNS, "labels"]
        for table in concat_batches(self.lake.read_each(batches, self.lake.recordings_key, columns)):
            self.connection.register("part", table)
            self.connection.execute("INSERT INTO known BY NAME SELECT * EXCLUDE (uris), unnest(uris) AS uri FROM part")
        self.number = max((_number(batch) + 1 for batch in batches), default=self.number)

    def failed_owners(self) -> set[str]:
        """Return the lists, manifests and archives that failures in the lake belong to, or are."""
        query = f"SELECT DISTINCT regexp_extract(uri, $owner, 1) AS owner FROM known WHERE {UNREAD} AND owner <> ''"
        return {name for (name,) in self.connection.execute(query, {"owner": OWNER}).fetchall()}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows of NAMED to the table `named`."""
        self.connection.register("part", schemas.table(rows, NAMED))
        self.connection.execute("INSERT INTO named SELECT * FROM part")
        self.rows += len(rows)

    def is_withdrawn(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of NAMED is of a recording that was withdrawn before this ingest.

        Its name is not stored.
        """
        return row["recording_id"] in self._withdrawn or row.get("sha256") in self._withdrawn

    def _leave_out_withdrawn(self, result: Ingested) -> None:
        """Remove withdrawn recordings from `named`, and count their names."""
        removed = tombstones(self.lake)  # read again, because recordings may have been withdrawn meanwhile
        self.connection.register("removed", removed)
        withdrawn = "recording_id IN (SELECT recording_id FROM removed) OR sha256 IN (SELECT unnest($files))"
        files = {"files": whole_files(removed)}
        self.connection.execute(f"CREATE TABLE withdrawn AS SELECT * FROM named WHERE {withdrawn}", files)
        count = "SELECT count(*) FROM (SELECT DISTINCT recording_id, uri FROM withdrawn)"
        ((result.withdrawn,),) = self.connection.execute(count).fetchall()
        self.connection.execute(f"DELETE FROM named WHERE {withdrawn}", files)

    def commit(self, result: Ingested) -> None:
        """Write the names in `named` to the lake, and count them."""
        self._leave_out_withdrawn(result)
        while not self._write_new(result):
            self.load_known()  # another ingest has written a batch with this number
        self.add_names(result)
        # A name that the inputs contain twice counts once.
        count = "SELECT count(*) FROM (SELECT DISTINCT recording_id, uri FROM named)"
        ((names,),) = self.connection.execute(count).fetchall()
        result.names, result.known = names + result.withdrawn, names - result.new - result.renamed
        result.kept = self._kept()

    def add_names(self, result: Ingested) -> None:
        """Add new names to known recordings, and delete obsolete failures.

        A failure is obsolete if its name or its bytes can be read now, so that another row has them. It is also
        obsolete if its list or archive was read to its end and does not name it any more.
        """
        finished: list[list[str | None]] = [[name] for name in sorted(self.notes.finished)]
        self.connection.execute("CREATE TABLE finished (owner VARCHAR)")
        self.connection.executemany("INSERT INTO finished VALUES (?)", finished or [[None]])
        self.connection.execute(
            "CREATE TABLE changes AS SELECT DISTINCT k.batch, named.recording_id, named.uri AS added FROM named "
            "JOIN (SELECT DISTINCT batch, recording_id FROM known) AS k ON k.recording_id = named.recording_id "
            "ANTI JOIN known ON known.recording_id = named.recording_id AND known.uri = named.uri "
            "UNION ALL SELECT DISTINCT known.batch, known.recording_id, NULL FROM known JOIN named "
            "ON known.uri = named.uri WHERE starts_with(known.recording_id, 'u') "
            "AND known.recording_id <> named.recording_id "
            "UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM replaced "
            # An earlier ingest was killed after it wrote a recording and before it deleted the failure.
            "UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM (FROM known WHERE status <> 'ok') "
            "SEMI JOIN (FROM known WHERE status = 'ok') AS ok USING (recording_id) "
            f"UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM (FROM known WHERE {UNREAD}) AS k "
            "SEMI JOIN finished ON finished.owner = regexp_extract(k.uri, $owner, 1) "
            "ANTI JOIN named ON named.uri = k.uri",
            {"owner": OWNER},
        )
        changed = self.connection.execute("SELECT batch, recording_id, added FROM changes ORDER BY ALL")
        streamed = itertools.chain.from_iterable(iter(lambda: changed.fetchmany(ROWS), []))
        for batch, changes in itertools.groupby(streamed, key=lambda row: row[0]):
            added: dict[str, set[str]] = defaultdict(set)
            readable_now: set[str] = set()
            for _, recording_id, uri in changes:
                (added[recording_id] if uri else readable_now).add(uri or recording_id)
            result.renamed += sum(
                len(names) for recording_id, names in added.items() if recording_id not in readable_now
            )

            def edited(table: pa.Table, added: Any = added, readable_now: Any = readable_now) -> pa.Table:
                rows = [row for row in table.to_pylist() if row["recording_id"] not in readable_now]
                named = [row | {"uris": sorted({*row["uris"], *added.get(row["recording_id"], ())})} for row in rows]
                return schemas.table(named, schemas.RECORDINGS)

            self.lake.change(self.lake.recordings_key(batch), edited)
            self.written.add(self.lake.recordings_key(batch))

    def _write_new(self, result: Ingested) -> bool:
        """Write new recordings to batches, in order of their first name.

        Recordings that the lake has only as failures are new if they can be read now. The table `replaced` holds their
        old rows.

        Returns:
            False if another ingest has written a batch with the same number. Its names must then be loaded first.
        """
        self._set_replaced()
        self._bound_hints()
        self.connection.execute(
            "CREATE OR REPLACE TABLE fresh AS SELECT recording_id, min(uri) AS first_uri, max(status) AS best, "
            "list_sort(list(DISTINCT uri)) AS uris, list_sort(list_distinct(flatten(list(languages)))) AS languages, "
            "list(DISTINCT labels) FILTER (labels IS NOT NULL) AS labels, "
            "list(DISTINCT hint ORDER BY hint) FILTER (hint IS NOT NULL) AS hints FROM named "
            "ANTI JOIN known USING (recording_id) GROUP BY recording_id"
        )
        reader = self.connection.sql(
            "SELECT m.* EXCLUDE (uri, hint, mtime_ns, languages, labels), f.uris, f.hints, f.languages, f.labels, "
            "r.uris AS old_uris "
            "FROM fresh AS f JOIN (FROM named SELECT DISTINCT ON (recording_id, status) *) AS m "
            "ON m.recording_id = f.recording_id AND m.status = f.best "
            "LEFT JOIN (SELECT recording_id, list(uri) AS uris FROM replaced GROUP BY recording_id) AS r "
            "ON r.recording_id = f.recording_id ORDER BY f.first_uri"
        ).to_arrow_reader(ROWS)
        for rows, names in self._batches(reader):
            key = self.lake.recordings_key(f"batch-{self.number:06d}")
            if not self.lake.storage.put_if_absent(key, write_parquet_bytes(schemas.table(rows, schemas.RECORDINGS))):
                return False
            self.written.add(key)
            self.number += 1
            result.batches += 1
            result.new += names
            result.failed += sum(row["status"] != "ok" for row in rows)
        return True

    def _set_replaced(self) -> None:
        """Move the failures of recordings that can be read now, and have no other row, from `known` to `replaced`."""
        self.connection.execute(
            "CREATE OR REPLACE TABLE mended AS SELECT DISTINCT recording_id FROM (FROM known WHERE status <> 'ok') "
            "SEMI JOIN (FROM named WHERE status = 'ok') AS m USING (recording_id) "
            "ANTI JOIN (FROM known WHERE status = 'ok') AS k USING (recording_id)"
        )
        self.connection.execute("INSERT INTO replaced FROM known SEMI JOIN mended USING (recording_id)")
        self.connection.execute("DELETE FROM known WHERE recording_id IN (FROM mended)")

    def _bound_hints(self) -> None:
        """Leave out the hints of a recording that exceed MAX_HINTS_BYTES."""
        self.connection.execute(
            "CREATE OR REPLACE TABLE heavy AS SELECT recording_id FROM named WHERE hint IS NOT NULL "
            f"GROUP BY recording_id HAVING sum(strlen(hint)) > {MAX_HINTS_BYTES}"
        )
        self.connection.execute(
            "UPDATE named SET hint = NULL WHERE rowid IN (SELECT row FROM (SELECT rowid AS row, "
            "sum(strlen(hint)) OVER (PARTITION BY recording_id ORDER BY hint, rowid) AS bytes "
            f"FROM named SEMI JOIN heavy USING (recording_id) WHERE hint IS NOT NULL) WHERE bytes > {MAX_HINTS_BYTES})"
        )

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield the rows of each batch, and the number of names in `named` of these recordings."""
        held: list[dict[str, Any]] = []
        held_s, held_bytes, names = 0.0, 0, 0
        for part in reader:
            for row in part.to_pylist():
                hints, languages, old_uris = row.pop("hints"), row.pop("languages"), row.pop("old_uris")
                uris = len(row["uris"])
                if old_uris:
                    row["uris"] = sorted({*row["uris"], *old_uris})
                row["hints"] = f"[{', '.join(hints)}]" if hints else None  # each hint is a JSON object
                row["language_hint"] = languages[0] if languages and len(languages) == 1 else None
                row |= self._label_columns(row.pop("labels") or [])
                duration_s, size = counted_s(row["claimed_duration_s"]), len(row["hints"] or "")
                if held and (
                    held_s + duration_s > self.config.batch_hours * 3600 or held_bytes + size > MAX_BATCH_BYTES
                ):
                    yield held, names
                    held, held_s, held_bytes, names = [], 0.0, 0, 0
                held.append(row)
                held_s, held_bytes, names = held_s + duration_s, held_bytes + size, names + uris
        if held:
            yield held, names

    def _label_columns(self, given: Sequence[Sequence[tuple[str, str]]]) -> dict[str, Any]:
        """Return the columns of labels: values on which all lines of manifests agree, or else those of the recipe."""
        values: dict[str, set[str]] = defaultdict(set)
        for name, value in itertools.chain.from_iterable(given):
            values[name].add(value)
        own = self.config.constants | {name: min(texts) for name, texts in values.items() if len(texts) == 1}
        differing = sum(len(texts) > 1 for texts in values.values())
        if differing:
            self.notes.leave_out("labels on which the lines of a recording differ", differing)
        columns = {name: own.pop(name, None) for name in ("source", "licence")}
        return columns | {"labels": labels.as_column(own)}

    def _kept(self) -> dict[str, dict[str, int]]:
        """Count the names of known recordings whose label differs from that of this ingest, by label and kept value.

        It creates the table `differing` with these recordings.
        """
        self.connection.execute("CREATE TABLE differing (recording_id VARCHAR, name VARCHAR, held VARCHAR)")
        for name in sorted({"language_hint", *self.config.constants, *self.config.labels}):
            held = name if name in labels.COLUMNS else "labels[$name]"
            stated = "list(DISTINCT labels[$name]) FILTER (labels[$name] IS NOT NULL)"
            if name == "language_hint":
                stated = "list_distinct(flatten(list(languages)))"
            self.connection.execute(
                f"INSERT INTO differing SELECT recording_id, $name, coalesce(held, '') FROM (SELECT recording_id, "
                f"{stated} AS stated, CASE WHEN len(stated) = 1 THEN stated[1] ELSE $constant END AS given "
                "FROM named GROUP BY recording_id) JOIN (SELECT DISTINCT ON (recording_id) recording_id, "
                f"{held} AS held FROM known WHERE status = 'ok') USING (recording_id) "
                "WHERE given IS NOT NULL AND held IS DISTINCT FROM given",
                {"name": name, "constant": self.config.constants.get(name)},
            )
        kept: dict[str, dict[str, int]] = defaultdict(dict)
        counted = (
            "SELECT name, held, count(*) FROM differing JOIN (SELECT DISTINCT recording_id, uri FROM named) "
            "USING (recording_id) GROUP BY ALL ORDER BY name, count(*) DESC, held"
        )
        for name, value, count in self.connection.execute(counted).fetchall():
            kept[name][value] = count
        return dict(kept)

    def settled(self) -> Iterator[tuple[str, int, int, tuple[Any, Any], list[list[str]]]]:
        """After `commit`, yield the names that need not be probed again while their files have the same size and time.

        Yields:
            The name, the size and modification time, the labels and languages from manifests, and the labels that
            differ.
        """
        # Further audio streams have names of their own.
        streams = "AND coalesce(audio_streams, 1) <= 1" * self.config.all_audio_streams
        alike = "concat(size_bytes, ' ', mtime_ns, ' ', labels::VARCHAR, ' ', coalesce(languages, [])::VARCHAR)"
        rows = self.connection.execute(
            "SELECT uri, any_value(size_bytes), any_value(mtime_ns), any_value(labels), any_value(languages), "
            "any_value(differing) FROM (SELECT * FROM named LEFT JOIN (SELECT recording_id, "
            "list([name, held] ORDER BY name) AS differing FROM differing GROUP BY recording_id) USING (recording_id) "
            "UNION ALL SELECT *, [['withdrawn', '']] FROM withdrawn) "
            f"WHERE status = 'ok' AND mtime_ns > 0 {streams} GROUP BY uri HAVING count(DISTINCT {alike}) = 1"
        )
        for uri, size_bytes, mtime_ns, own, languages, differing in itertools.chain.from_iterable(
            iter(lambda: rows.fetchmany(ROWS), [])
        ):
            yield uri, size_bytes, mtime_ns, (own and sorted(map(list, own.items())), languages), differing or []

    def failures(self, before: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """After `commit`, return a row of NAMED for each failure in the lake.

        Args:
            before: The rows of failures that this ingest has not probed, by name.
        """
        names = ", ".join(
            f'm."{name}"' for name in NAMED.names if name not in ("uri", "recording_id", "status", "hint")
        )
        reader = self.connection.sql(
            "WITH failing AS (SELECT recording_id, uri FROM (FROM known WHERE status <> 'ok') "
            "ANTI JOIN (FROM changes WHERE added IS NULL) USING (batch, recording_id) "
            "UNION SELECT recording_id, uri FROM (FROM named WHERE status <> 'ok') ANTI JOIN "
            "(SELECT recording_id FROM named WHERE status = 'ok' UNION "
            "SELECT recording_id FROM known WHERE status = 'ok') USING (recording_id)) "
            f"SELECT f.uri, f.recording_id, 'failed' AS status, {names} FROM failing AS f LEFT JOIN "
            "(SELECT DISTINCT ON (uri) * FROM named WHERE status <> 'ok') AS m "
            "ON m.uri = f.uri AND m.recording_id = f.recording_id ORDER BY f.uri"
        ).to_arrow_reader(ROWS)
        rows = [row for part in reader for row in part.to_pylist()]
        complete = [before.get(row["uri"], row) if row["mtime_ns"] is None else row for row in rows]
        return [row | {"mtime_ns": row["mtime_ns"] or 0} for row in complete]


def _number(batch: str) -> int:
    return int(batch.removeprefix("batch-"))

"""Withdraw recordings: remove them and everything derived from them from a lake, except a tombstone without names.

The tombstones under `removed/` are written first, and the rows of `recordings/` are removed last. So a withdrawal that
was killed at any moment is found and finished by the next one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import reselect, schemas
from manifests.amend import drop_recordings
from manifests.choice import folders
from manifests.labels import history_keys
from manifests.lake import Lake
from manifests.matches import forget_index, matches_key
from manifests.output import one_line, to_json
from manifests.tables import concat_batches, write_parquet_bytes

TOMBSTONES = re.compile(r"removed/\d{6}\.parquet")
HASHED = re.compile(r"runs/ingest/\d{6}\.parquet")
"""Files with the names that ingests have hashed, and their results."""
REDACTED = "[withdrawn]"
TEXTS = (".txt", ".json")
"""Files under `runs/` that may name a recording."""


def tombstones(lake: Lake) -> pa.Table:
    """All tombstones, as rows of REMOVED."""
    tables = [lake.read(key) for key in lake.storage.list("removed") if TOMBSTONES.fullmatch(key)]
    return pa.concat_tables([schemas.REMOVED.empty_table(), *tables])


def whole_files(removed: pa.Table) -> list[str]:
    """The sha256 of the files that were withdrawn as a whole. Recordings that are a part of a file have other ids."""
    rows = removed.select(["recording_id", "sha256"]).to_pylist()
    return [row["sha256"] for row in rows if row["sha256"] and row["sha256"].startswith(row["recording_id"])]


@dataclass
class Withdrawal:
    """Recordings that are to be withdrawn; nothing is changed before `commit`."""

    lake: Lake
    reason: str | None
    rows: list[dict[str, Any]]
    """For each recording: batch, recording_id, uris, sha256, claimed_duration_s, pcm_sha256, is_copy, is_withdrawn."""
    selections: list[str] = field(default_factory=list)
    """The selections that were made again."""
    datasets: list[str] = field(default_factory=list)
    """The datasets that changed."""

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(row["recording_id"] for row in self.rows)

    @property
    def copies(self) -> int:
        """How many recordings are included because their samples equal those of a requested one."""
        return sum(row["is_copy"] for row in self.rows)

    @property
    def hours(self) -> float:
        """Their duration in hours, as their headers claim."""
        return sum(row["claimed_duration_s"] or 0.0 for row in self.rows) / 3600

    def commit(self, own_run: str) -> None:
        """Remove the recordings, and renew selections that an earlier, killed withdrawal left unfinished.

        Args:
            own_run: The folder of this run, whose files are not redacted.
        """
        lake, batches = self.lake, sorted({row["batch"] for row in self.rows})
        if self.rows:
            self._write_tombstones()
            reselect.outdate(lake, batches)
            self.datasets = drop_recordings(lake, self.ids)
            self._redact_history(own_run)
            without = partial(_without, ids=pa.array(sorted(self.ids), pa.string()))
            for folder in folders(lake, "annotations"):
                for batch in batches:
                    key = f"annotations/{folder}/{batch}.parquet"
                    if lake.storage.exists(key):
                        lake.change(key, without)
            self._remove_matches()
            for batch in batches:
                lake.change(lake.recordings_key(batch), without)
        self.selections = reselect.renew(lake)

    def _remove_matches(self) -> None:
        """Remove the matches of the recordings, on both sides."""
        ids = pa.array(sorted(self.ids), pa.string())
        forget_index(self.lake)
        for fingerprint in folders(self.lake, "matches"):
            for batch in list(self.lake.matched(fingerprint)):
                self.lake.change(
                    matches_key(fingerprint, batch), lambda table: _without(_without(table, ids), ids, "other_id")
                )

    def _write_tombstones(self) -> None:
        """Write the tombstones of recordings that have none yet."""
        names = schemas.REMOVED.names
        rows = [
            {name: (row | {"reason": self.reason})[name] for name in names}
            for row in sorted(self.rows, key=lambda row: row["recording_id"])
            if not row["is_withdrawn"]
        ]
        if not rows:
            return
        data = write_parquet_bytes(schemas.table(rows, schemas.REMOVED))
        number = sum(1 for _ in self.lake.storage.list("removed"))
        while not self.lake.storage.put_if_absent(f"removed/{number:06d}.parquet", data):
            number += 1

    def _redact_history(self, own_run: str) -> None:
        """Remove their names from the history of labels and from the files of all other runs."""
        lake, ids = self.lake, pa.array(sorted(self.ids), pa.string())
        redacted = Redaction(self.ids, {uri for row in self.rows for uri in row["uris"]})
        for key in list(history_keys(lake)):
            lake.change(key, lambda table: _redacted_column(_without(table, ids), "asked", redacted))
        for key in list(lake.storage.list("runs")):
            if key.startswith(("runs/tmp/", f"{own_run}/")):
                continue
            if HASHED.fullmatch(key):
                lake.change(key, partial(_without, ids=ids))
            # These files only save time: hashes of names that need no work, and results for pieces of a recording.
            elif key.startswith("runs/ingest/") or not self.ids.isdisjoint(key.split("/")):
                lake.storage.delete(key)
            elif key.endswith(TEXTS):
                text = lake.storage.read(key).decode("utf-8", "surrogateescape")
                if (changed := redacted(text)) != text:
                    lake.storage.put(key, changed.encode("utf-8", "surrogateescape"))


class Redaction:
    """Removes ids and names of recordings from texts, in every form in which a log or JSON writes them."""

    def __init__(self, ids: Iterable[str], names: Iterable[str]) -> None:
        self._patterns = [(name, rf"(?<!\w){name}(?!\w)") for name in sorted(ids)]
        for name in sorted(
            names, key=lambda name: (-len(name), name)
        ):  # the longest first, because one name may begin with another
            forms = {name, repr(name)[1:-1], json.dumps(name)[1:-1], to_json(name)[1:-1], one_line(name)}
            # The same text within a longer path or before a further suffix is the name of another file.
            self._patterns += [(form, rf"(?<![\w/.-]){re.escape(form)}(?![\w/-]|\.\w)") for form in sorted(forms)]

    def __call__(self, text: str) -> str:
        for words, pattern in self._patterns:
            if words in text:
                text = re.sub(pattern, REDACTED, text)
        return text


def find(
    lake: Lake, connection: duckdb.DuckDBPyConnection, reason: str | None = None, keep_copies: bool = False
) -> Withdrawal:
    """Find the recordings to withdraw: those of `pick`, those of an unfinished withdrawal, and copies of both.

    Copies are recordings with the same samples; they are known only for recordings that were annotated.

    Args:
        lake: The lake of the recordings.
        connection: The result of `pick`.
        reason: Why they are withdrawn; it is kept in the tombstones.
        keep_copies: Whether copies stay in the lake.
    """
    removed = tombstones(lake)
    connection.register("removed", removed)
    connection.execute("CREATE TABLE samples (recording_id VARCHAR, pcm_sha256 VARCHAR)")
    for folder in folders(lake, "annotations"):
        stage, _, fingerprint = folder.rpartition("-")
        if stage == "signal":
            keys = partial(lake.annotation_key, stage, fingerprint)
            for table in concat_batches(
                lake.read_each(lake.annotated(stage, fingerprint), keys, ["recording_id", "pcm_sha256"])
            ):
                connection.register("part", table)
                connection.execute(
                    "INSERT INTO samples SELECT recording_id, pcm_sha256 FROM part WHERE pcm_sha256 IS NOT NULL"
                )
    connection.execute(
        "CREATE TABLE asked_for AS SELECT recording_id FROM picked UNION "
        "SELECT recording_id FROM removed SEMI JOIN batches USING (recording_id)"
    )
    same = "SELECT DISTINCT pcm_sha256 FROM samples SEMI JOIN asked_for USING (recording_id) UNION "
    same += "SELECT pcm_sha256 FROM removed WHERE pcm_sha256 IS NOT NULL"
    copies = "SELECT recording_id FROM samples WHERE false"
    if not keep_copies:
        copies = f"SELECT recording_id FROM samples SEMI JOIN ({same}) USING (pcm_sha256)"
    pcm = (
        "NULL::VARCHAR"
        if keep_copies
        else "(SELECT min(pcm_sha256) FROM samples AS s WHERE s.recording_id = l.recording_id)"
    )
    rows = connection.execute(
        f"SELECT DISTINCT b.batch, l.recording_id, r.uris, r.sha256, r.claimed_duration_s, {pcm} AS pcm_sha256, "
        "l.recording_id NOT IN (FROM asked_for) AS is_copy, "
        "l.recording_id IN (SELECT recording_id FROM removed) AS is_withdrawn "
        f"FROM (FROM asked_for UNION {copies}) AS l JOIN recordings AS r USING (recording_id) "
        "JOIN batches AS b USING (recording_id) ORDER BY b.batch, l.recording_id"
    )
    names = [column[0] for column in rows.description or []]
    return Withdrawal(lake, reason, [dict(zip(names, row, strict=True)) for row in rows.fetchall()])


def _without(table: pa.Table, ids: pa.Array, column: str = "recording_id") -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], value_set=ids)))


def _redacted_column(table: pa.Table, name: str, redacted: Redaction) -> pa.Table:
    values = [redacted(value) for value in table[name].to_pylist()]
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values, pa.string()))

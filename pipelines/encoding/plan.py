"""The plan of a dataset: which shards to make, and the recordings in each. It depends only on what the lake holds."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests.fingerprint import canonical
from manifests.lake import Lake
from manifests.ledger import committed_windows
from manifests.shards import FOLDER, ShardCommit, ShardFiles, committed
from manifests.tables import concat_batches
from pipelines.encoding.planned import Base, Planned, Shard, Source
from pipelines.recipes.recipe import EncodeConfig

if TYPE_CHECKING:
    from pipelines.units.pending import Retry

RECORDED_COLUMNS = ("window_id", "tracks", "language", "num_speakers", "repeated_share", "source", "licence", "labels")
"""Columns of a window that its shard records. If they differ in the selection, the shard is made again."""
KEPT_COLUMNS_SQL = ", ".join(RECORDED_COLUMNS).replace(
    "labels", "CASE WHEN labels IS NOT NULL THEN map_entries(labels) END"
)
"""SQL of the same columns in the selection, where labels are a map."""


class Plan:
    """Iterates over the shards to make. Recordings are in the order of a seeded hash, so any prefix is a fair sample.

    A recording is never split between new shards. A recording larger than `shard_mb` has a shard of its own.

    A dataset that grows has shards already. Such a shard is made again if the selection differs from what the shard
    records of its windows, or if `retry` selects windows in it that failed. Windows that no shard holds go into new
    shards, which get the lowest free numbers.

    It can be iterated several times. The order is kept in a temporary file, so that memory does not grow with the
    number of recordings.
    """

    def __init__(
        self,
        lake: Lake,
        selection: str,
        config: EncodeConfig,
        dataset: str = "",
        base: Base | None = None,
        same_features: Iterable[str] = (),
        retry: Retry | None = None,
        shard_s: float | None = None,
    ) -> None:
        """
        Args:
            lake: The lake.
            selection: The name of the selection.
            config: The settings of the encoder.
            dataset: The name of the dataset.
            base: The shards that the dataset has.
            same_features: Other datasets by the same encoder, whose features are copied.
            retry: Which windows that failed before are tried again.
            shard_s: Seconds of tracks in a shard; by default those of `shard_mb`.
        """
        self._arguments = lake, selection, config, dataset, base, tuple(same_features), retry, shard_s
        self._lake, self._selection, self._dataset, self._retry = lake, selection, dataset, retry
        self._base: Base = base or {}
        self._shard_seconds = shard_s or config.shard_mb * 1e6 / config.bytes_per_s
        self._folder = tempfile.TemporaryDirectory(prefix="speechmill-plan-")
        self._connection = duckdb.connect(f"{self._folder.name}/plan.duckdb")
        self._connection.execute("SET threads = 1; SET memory_limit = '100MB'")
        self._create_held()
        self._create_kept(str(config.seed))
        if any(self._base.values()):
            self._compare()
        else:
            self._connection.execute("ALTER TABLE kept RENAME TO fresh")
        self._create_sources(same_features)
        self._connection.execute("CREATE TABLE planned AS FROM fresh ORDER BY folder, place, recording_id")
        self._connection.execute("DROP TABLE fresh")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments only. The engine that iterates over it makes the same plan again."""
        return Plan, self._arguments

    def __iter__(self) -> Iterator[Shard]:
        yield from self._shards_to_remake()
        yield from self.new()

    def digest(self) -> str:
        """Return a hash of the new shards."""
        planned = hashlib.sha256()
        for shard in self.new():
            planned.update(canonical([shard.folder, shard.number, shard.recordings]).encode())
        return planned.hexdigest()[:12]

    def new(self) -> Iterator[Shard]:
        """Yield the new shards."""
        rows = self._connection.cursor().execute(
            "SELECT folder, recording_id, batch, seconds, size_s, elsewhere, from_shards FROM planned "
            "LEFT JOIN sources USING (recording_id) ORDER BY folder, place, recording_id"
        )
        streamed = itertools.chain.from_iterable(iter(lambda: rows.fetchmany(10_000), []))
        for folder, of_folder in itertools.groupby(streamed, key=lambda row: row[0]):
            taken = self._base.get(folder, frozenset())
            numbers = (number for number in itertools.count() if number not in taken)
            held: list[Planned] = []
            held_s, seconds_held, elsewhere_held = 0.0, 0.0, list[str]()
            for _, recording_id, batch, seconds, size_s, elsewhere, sources in of_folder:
                if held and held_s + size_s > self._shard_seconds:
                    yield Shard(folder, next(numbers), tuple(held), seconds_held, tuple(elsewhere_held))
                    held, held_s, seconds_held, elsewhere_held = [], 0.0, 0.0, []
                of_recording = tuple(Source(**source) for source in sources or ())
                held.append(Planned(recording_id, f"batch-{batch:06d}", of_recording))
                held_s += size_s
                seconds_held += seconds
                elsewhere_held += elsewhere
            yield Shard(folder, next(numbers), tuple(held), seconds_held, tuple(elsewhere_held))

    def _create_held(self) -> None:
        """Create the table `held`: the recordings in each shard of the base, with a hash of their recorded columns."""
        self._connection.execute(
            "CREATE TABLE held (folder VARCHAR, shard BIGINT, recording_id VARCHAR, digest UBIGINT, failed BOOLEAN)"
        )
        columns = ["recording_id", *RECORDED_COLUMNS, "status", "error"]
        for table in concat_batches(self._tables(columns)):
            self._connection.register("shard_windows", table)
            self._connection.execute(
                "INSERT INTO held SELECT split_part(batch, '/', 1), split_part(batch, '/', 2)::BIGINT, recording_id, "
                f"bit_xor(hash({', '.join(RECORDED_COLUMNS)})), {self._has_retried_windows_sql()} "
                "FROM shard_windows GROUP BY batch, recording_id"
            )

    def _has_retried_windows_sql(self) -> str:
        """Return SQL that is true of a group of windows if some of them failed and are tried again."""
        if self._retry is None:
            return "false"
        if self._retry.error_type is None:
            return "bool_or(status <> 'ok')"
        kind = self._retry.error_type.replace("'", "''")
        return f"coalesce(bool_or(split_part(error, ':', 1) = '{kind}'), false)"

    def _tables(self, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield columns of the windows of each shard of the base. Each table is named '<folder>/<number>'."""

        def read(files: ShardFiles) -> tuple[str, pa.Table]:
            commit = ShardCommit.read(self._lake.storage, f"datasets/{self._dataset}/{files.commit}")
            table = committed_windows(self._lake, self._dataset, files, commit)
            return f"{files.folder}/{files.shard}", table.select(columns)

        shards = (ShardFiles(folder, number) for folder in sorted(self._base) for number in sorted(self._base[folder]))
        return self._lake.prefetch(read, shards)

    def _create_kept(self, seed: str) -> None:
        """Create the table `kept`: each recording that has windows which the selection keeps."""
        self._connection.execute(
            "CREATE TABLE kept (folder VARCHAR, place UBIGINT, recording_id VARCHAR, batch UINTEGER, seconds DOUBLE, "
            "size_s DOUBLE, digest UBIGINT, elsewhere VARCHAR[])"
        )
        for table in self._windows(["split", "duration_s"]):
            self._connection.register("cut", table)
            self._connection.execute(
                f"INSERT INTO kept SELECT {FOLDER} AS folder, "
                "('0x' || left(sha256(concat($seed, ':', recording_id)), 16))::UBIGINT, recording_id, "
                "batch[7:]::UINTEGER, sum(duration_s), sum(duration_s * tracks), "
                f"bit_xor(hash({KEPT_COLUMNS_SQL})), [] FROM cut WHERE kept GROUP BY folder, recording_id, batch",
                {"seed": seed},
            )

    def _windows(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield columns of the windows of the selection, many batches at a time.

        Raises:
            FileNotFoundError: A batch was not selected.
        """
        batches, key = self._lake.batches(), partial(self._lake.windows_key, self._selection)
        wanted = ["recording_id", "kept", *columns, *RECORDED_COLUMNS]
        return concat_batches(self._lake.read_each(batches, key, wanted))

    def _compare(self) -> None:
        """Create the tables `fresh`, what goes into new shards, and `again`, the shards of the base to make again.

        Recordings are compared by hashes first. Windows are compared only for recordings that differ, or that are in
        several shards.
        """
        run = self._connection.execute
        run(
            "CREATE TABLE whole AS SELECT recording_id, bit_xor(digest) AS digest, count(*) AS shards FROM held "
            "GROUP BY recording_id"
        )
        run(
            "CREATE TABLE compared AS SELECT coalesce(k.recording_id, w.recording_id) AS recording_id "
            "FROM kept AS k FULL JOIN whole AS w USING (recording_id) "
            "WHERE w.recording_id IS NOT NULL AND (k.recording_id IS NULL OR k.digest <> w.digest OR w.shards > 1)"
        )
        run("CREATE TABLE fresh AS FROM kept ANTI JOIN whole USING (recording_id)")
        held, kept = (
            f"window_id, hash({columns}) AS digest" for columns in (", ".join(RECORDED_COLUMNS), KEPT_COLUMNS_SQL)
        )
        window = "recording_id VARCHAR, window_id VARCHAR, digest UBIGINT"
        run(f"CREATE TABLE kept_windows ({window}, seconds DOUBLE, size_s DOUBLE)")
        run(f"CREATE TABLE held_windows ({window}, folder VARCHAR, shard BIGINT)")
        if run("SELECT count(*) FROM compared").fetchall() != [(0,)]:
            for table in self._windows(["duration_s"]):
                self._connection.register("cut", table)
                run(
                    f"INSERT INTO kept_windows SELECT recording_id, {kept}, duration_s, duration_s * tracks "
                    "FROM (FROM cut WHERE kept) SEMI JOIN compared USING (recording_id)"
                )
            for table in concat_batches(self._tables(["recording_id", *RECORDED_COLUMNS])):
                self._connection.register("shard_windows", table)
                run(
                    f"INSERT INTO held_windows SELECT recording_id, {held}, split_part(batch, '/', 1), "
                    "split_part(batch, '/', 2)::BIGINT FROM shard_windows SEMI JOIN compared USING (recording_id)"
                )
        run(
            "CREATE TABLE again AS SELECT DISTINCT folder, shard FROM held_windows AS h "
            "LEFT JOIN kept_windows AS k USING (window_id) WHERE k.digest IS DISTINCT FROM h.digest "
            "UNION SELECT DISTINCT folder, shard FROM held WHERE failed"
        )
        # Windows that no shard holds of recordings that some shard holds.
        run(
            "INSERT INTO fresh SELECT k.folder, k.place, k.recording_id, k.batch, w.seconds, w.size_s, k.digest, "
            "coalesce(h.windows, []) FROM kept AS k JOIN (SELECT recording_id, sum(seconds) AS seconds, "
            "sum(size_s) AS size_s FROM kept_windows ANTI JOIN held_windows USING (window_id) GROUP BY recording_id) "
            "AS w USING (recording_id) LEFT JOIN (SELECT recording_id, list(window_id ORDER BY window_id) AS windows "
            "FROM held_windows SEMI JOIN kept_windows USING (window_id) GROUP BY recording_id) AS h "
            "USING (recording_id)"
        )

    def _shards_to_remake(self) -> Iterator[Shard]:
        """Yield the shards of the base to make again, with those of their windows that are still kept."""
        if not any(self._base.values()):
            return
        cursor = self._connection.cursor()
        for folder, number in cursor.execute("FROM again ORDER BY folder, shard").fetchall():
            rows = cursor.execute(
                "SELECT k.recording_id, k.batch, coalesce(w.seconds, k.seconds), coalesce(o.windows, []) FROM "
                "(FROM held WHERE folder = $folder AND shard = $shard) AS h JOIN kept AS k USING (recording_id) "
                "LEFT JOIN (SELECT recording_id, sum(seconds) AS seconds FROM kept_windows SEMI JOIN "
                "(FROM held_windows WHERE folder = $folder AND shard = $shard) AS here USING (window_id) "
                "GROUP BY recording_id) AS w USING (recording_id) "
                "LEFT JOIN (SELECT recording_id, list(window_id ORDER BY window_id) AS windows FROM kept_windows "
                "ANTI JOIN (FROM held_windows WHERE folder = $folder AND shard = $shard) AS here USING (window_id) "
                "GROUP BY recording_id) AS o USING (recording_id) ORDER BY k.place, k.recording_id",
                {"folder": folder, "shard": number},
            ).fetchall()
            itself = (Source(self._dataset, folder, number),)
            planned = tuple(Planned(recording_id, f"batch-{batch:06d}", itself) for recording_id, batch, _, _ in rows)
            elsewhere = tuple(window_id for row in rows for window_id in row[3])
            yield Shard(folder, number, planned, sum(row[2] for row in rows), elsewhere, remake=True)

    def _create_sources(self, same_features: Iterable[str]) -> None:
        """Create the table `sources`: for each recording, the shards of other datasets that hold features of it."""
        run = self._connection.execute
        run("CREATE TABLE found (recording_id VARCHAR, dataset VARCHAR, folder VARCHAR, number BIGINT)")
        for dataset in same_features:
            for table in concat_batches(_recordings_of(self._lake, dataset)):
                self._connection.register("shard_windows", table)
                run(
                    "INSERT INTO found SELECT DISTINCT recording_id, $dataset, split_part(batch, '/', 1), "
                    "split_part(batch, '/', 2)::BIGINT FROM shard_windows SEMI JOIN fresh USING (recording_id)",
                    {"dataset": dataset},
                )
        run(
            "CREATE TABLE sources AS SELECT recording_id, "
            "list({'dataset': dataset, 'folder': folder, 'number': number} "
            "ORDER BY dataset, folder, number) AS from_shards FROM found GROUP BY recording_id"
        )
        run("DROP TABLE found")


def _recordings_of(lake: Lake, dataset: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the recordings in each committed shard of a dataset of which it holds features."""

    def read(files: ShardFiles) -> tuple[str, pa.Table]:
        table = lake.read(f"datasets/{dataset}/{files.windows}", ["recording_id", "status"])
        return f"{files.folder}/{files.shard}", table.filter(pc.equal(table["status"], "ok")).select(["recording_id"])

    return lake.prefetch(read, committed(lake.storage, dataset))

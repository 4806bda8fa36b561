"""The plan of a dataset: which shards are to be made, each of which recordings. A pure function of what is kept."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests.fingerprint import canonical, fingerprint
from manifests.lake import Lake
from manifests.ledger import committed_windows
from manifests.shards import FOLDER, ShardCommit, ShardFiles, committed
from manifests.tables import joined
from pipelines.recipes.recipe import EncodeConfig

if TYPE_CHECKING:
    from pipelines.units.pending import Retry

Base = Mapping[str, frozenset[int]]
"""Numbers of shards by folder."""

TOLD = ("window_id", "tracks", "language", "num_speakers", "repeated_share", "source", "licence", "labels")
"""What a shard says of a window. Where the selection says otherwise, the shard is made again."""
KEPT = ", ".join(TOLD).replace("labels", "CASE WHEN labels IS NOT NULL THEN map_entries(labels) END")
"""The same columns of the selection, whose labels are a map, as SQL."""


class Source(NamedTuple):
    """A committed shard that holds features of windows, so that these need not be encoded again."""

    dataset: str
    folder: str
    number: int

    @property
    def files(self) -> ShardFiles:
        return ShardFiles(self.folder, self.number)


class Planned(NamedTuple):
    """A recording in a shard, and the batch that holds it."""

    recording_id: str
    batch: str
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Shard:
    """A unit of encoding: which recordings, in order."""

    folder: str
    number: int
    recordings: tuple[Planned, ...]
    seconds: float
    """Of sound in its windows."""
    elsewhere: tuple[str, ...] = ()
    """Ids of windows of these recordings that are kept, but lie in other shards of the dataset."""
    again: bool = False
    """Whether it is to be made anew although it is committed."""

    @property
    def name(self) -> str:
        return f"{self.folder}-{self.number:06d}"

    @property
    def place(self) -> tuple[bool, str, int]:
        """Where it stands in the order of a plan: shards that are made again come first."""
        return not self.again, self.folder, self.number

    @property
    def ids(self) -> list[str]:
        """The ids of its recordings."""
        return [planned.recording_id for planned in self.recordings]

    def is_like(self, other: Shard) -> bool:
        """Whether it holds the same windows as a shard of another dataset, under the same number."""
        return (self.place, self.elsewhere, self.ids) == (other.place, other.elsewhere, other.ids)

    @property
    def files(self) -> ShardFiles:
        return ShardFiles(self.folder, self.number)

    @property
    def commit_key(self) -> str:
        return self.files.commit


@dataclass(frozen=True)
class Unit:
    """What a worker encodes in one go: shards of several datasets that hold the same windows, or one shard alone."""

    shards: tuple[tuple[str, Shard], ...]
    """Each with the name of its dataset."""
    several: bool = False
    """Whether the run makes several datasets, whose shards may have one name and hold different recordings."""

    @property
    def shard(self) -> Shard:
        """The first of them: what it says of recordings and windows holds for all."""
        return self.shards[0][1]

    @property
    def name(self) -> str:
        """The name of the shard, and of several datasets a hash of the recordings."""
        return f"{self.shard.name}-{fingerprint(self.shard.ids)[:6]}" if self.several else self.shard.name


def units(planned: Mapping[str, Iterable[Shard]]) -> Iterator[Unit]:
    """The planned shards of several datasets, those that hold the same windows together."""

    several = len(planned) > 1
    rest = {dataset: iter(shards) for dataset, shards in planned.items()}
    heads = {dataset: shard for dataset, shards in rest.items() if (shard := next(shards, None))}
    while heads:
        first = min(heads.values(), key=lambda shard: shard.place)
        alike = {dataset: shard for dataset, shard in heads.items() if shard.is_like(first)}
        yield Unit(tuple(alike.items()), several)
        for dataset in alike:
            if (shard := next(rest[dataset], None)) is None:
                del heads[dataset]
            else:
                heads[dataset] = shard


class Plan:
    """Shards of whole recordings in the order of their seeded hash, so that any prefix is a fair sample.

    Of a dataset that grows, `base` names the shards that are there. They are planned `again` where the selection says
    something else of their windows than they do, or where `retry` wants windows in them that failed; windows that no
    shard holds come into new shards, which take the lowest numbers that are free. `alike` are other datasets by the
    same encoder, whose features are taken over.

    A recording is never cut between new shards; one larger than `shard_mb` has a shard to itself. Iterate it as often
    as needed: the order lies in a temporary file, so memory stays flat whatever the number of recordings.
    """

    def __init__(
        self,
        lake: Lake,
        selection: str,
        config: EncodeConfig,
        dataset: str = "",
        base: Base | None = None,
        alike: Iterable[str] = (),
        retry: Retry | None = None,
        shard_s: float | None = None,
    ) -> None:
        """`shard_s` are the seconds of tracks that a shard aims at; if not given, those of `shard_mb`."""
        self._given = lake, selection, config, dataset, base, tuple(alike), retry, shard_s
        self._lake, self._selection, self._dataset, self._retry = lake, selection, dataset, retry
        self._base: Base = base or {}
        self._shard_seconds = shard_s or config.shard_mb * 1e6 / config.bytes_per_s
        self._folder = tempfile.TemporaryDirectory(prefix="speechmill-plan-")
        self._connection = duckdb.connect(f"{self._folder.name}/plan.duckdb")
        self._connection.execute("SET threads = 1; SET memory_limit = '100MB'")
        self._add_held()
        self._add_kept(str(config.seed))
        if any(self._base.values()):
            self._compare()
        else:
            self._connection.execute("ALTER TABLE kept RENAME TO fresh")
        self._add_sources(alike)
        self._connection.execute("CREATE TABLE planned AS FROM fresh ORDER BY folder, place, recording_id")
        self._connection.execute("DROP TABLE fresh")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was made from: it is planned again, to the same shards, where an engine iterates it."""
        return Plan, self._given

    def __iter__(self) -> Iterator[Shard]:
        yield from self._again()
        yield from self.new()

    def digest(self) -> str:
        """A hash of the new shards."""
        planned = hashlib.sha256()
        for shard in self.new():
            planned.update(canonical([shard.folder, shard.number, shard.recordings]).encode())
        return planned.hexdigest()[:12]

    def new(self) -> Iterator[Shard]:
        """The shards with numbers of their own."""
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
                found = tuple(Source(**source) for source in sources or ())
                held.append(Planned(recording_id, f"batch-{batch:06d}", found))
                held_s += size_s
                seconds_held += seconds
                elsewhere_held += elsewhere
            yield Shard(folder, next(numbers), tuple(held), seconds_held, tuple(elsewhere_held))

    def _add_held(self) -> None:
        """Table `held`: each recording in each shard of the base, with a hash of what the shard says of its windows."""
        self._connection.execute(
            "CREATE TABLE held (folder VARCHAR, shard BIGINT, recording_id VARCHAR, digest UBIGINT, failed BOOLEAN)"
        )
        columns = ["recording_id", *TOLD, "status", "error"]
        for table in joined(self._tables(columns)):
            self._connection.register("shard_windows", table)
            self._connection.execute(
                "INSERT INTO held SELECT split_part(batch, '/', 1), split_part(batch, '/', 2)::BIGINT, recording_id, "
                f"bit_xor(hash({', '.join(TOLD)})), {self._wanted()} FROM shard_windows GROUP BY batch, recording_id"
            )

    def _wanted(self) -> str:
        """SQL of whether windows of a group failed in a way that is to be tried again."""
        if self._retry is None:
            return "false"
        if self._retry.error_type is None:
            return "bool_or(status <> 'ok')"
        kind = self._retry.error_type.replace("'", "''")
        return f"coalesce(bool_or(split_part(error, ':', 1) = '{kind}'), false)"

    def _tables(self, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """Columns of the table of windows of each shard of the base, named '<folder>/<number>'."""

        def read(files: ShardFiles) -> tuple[str, pa.Table]:
            commit = ShardCommit.read(self._lake.storage, f"datasets/{self._dataset}/{files.commit}")
            table = committed_windows(self._lake, self._dataset, files, commit)
            return f"{files.folder}/{files.shard}", table.select(columns)

        shards = (ShardFiles(folder, number) for folder in sorted(self._base) for number in sorted(self._base[folder]))
        return self._lake.ahead(read, shards)

    def _add_kept(self, seed: str) -> None:
        """Table `kept`: each recording of which the selection keeps windows."""
        self._connection.execute(
            "CREATE TABLE kept (folder VARCHAR, place UBIGINT, recording_id VARCHAR, batch UINTEGER, seconds DOUBLE, "
            "size_s DOUBLE, digest UBIGINT, elsewhere VARCHAR[])"
        )
        for table in self._cut(["split", "duration_s"]):
            self._connection.register("cut", table)
            self._connection.execute(
                f"INSERT INTO kept SELECT {FOLDER} AS folder, "
                "('0x' || left(sha256(concat($seed, ':', recording_id)), 16))::UBIGINT, recording_id, "
                "batch[7:]::UINTEGER, sum(duration_s), sum(duration_s * tracks), "
                f"bit_xor(hash({KEPT})), [] FROM cut WHERE kept GROUP BY folder, recording_id, batch",
                {"seed": seed},
            )

    def _cut(self, columns: list[str]) -> Iterator[pa.Table]:
        """Columns of the windows of the selection, many batches at a time; FileNotFoundError where one has none."""
        batches, key = self._lake.batches(), partial(self._lake.windows_key, self._selection)
        wanted = ["recording_id", "kept", *columns, *TOLD]
        return joined(self._lake.read_each(batches, key, wanted))

    def _compare(self) -> None:
        """Table `fresh`: what is to come into new shards; `again`: the shards of the base that are made again.

        Recordings are compared first, by hashes; windows only of those that differ, or that lie in several shards.
        """
        run = self._connection.execute
        run(
            "CREATE TABLE whole AS SELECT recording_id, bit_xor(digest) AS digest, count(*) AS shards FROM held "
            "GROUP BY recording_id"
        )
        run(
            "CREATE TABLE looked_at AS SELECT coalesce(k.recording_id, w.recording_id) AS recording_id "
            "FROM kept AS k FULL JOIN whole AS w USING (recording_id) "
            "WHERE w.recording_id IS NOT NULL AND (k.recording_id IS NULL OR k.digest <> w.digest OR w.shards > 1)"
        )
        run("CREATE TABLE fresh AS FROM kept ANTI JOIN whole USING (recording_id)")
        held, kept = (f"window_id, hash({columns}) AS digest" for columns in (", ".join(TOLD), KEPT))
        window = "recording_id VARCHAR, window_id VARCHAR, digest UBIGINT"
        run(f"CREATE TABLE kept_windows ({window}, seconds DOUBLE, size_s DOUBLE)")
        run(f"CREATE TABLE held_windows ({window}, folder VARCHAR, shard BIGINT)")
        if run("SELECT count(*) FROM looked_at").fetchall() != [(0,)]:
            for table in self._cut(["duration_s"]):
                self._connection.register("cut", table)
                run(
                    f"INSERT INTO kept_windows SELECT recording_id, {kept}, duration_s, duration_s * tracks "
                    "FROM (FROM cut WHERE kept) SEMI JOIN looked_at USING (recording_id)"
                )
            for table in joined(self._tables(["recording_id", *TOLD])):
                self._connection.register("shard_windows", table)
                run(
                    f"INSERT INTO held_windows SELECT recording_id, {held}, split_part(batch, '/', 1), "
                    "split_part(batch, '/', 2)::BIGINT FROM shard_windows SEMI JOIN looked_at USING (recording_id)"
                )
        run(
            "CREATE TABLE again AS SELECT DISTINCT folder, shard FROM held_windows AS h "
            "LEFT JOIN kept_windows AS k USING (window_id) WHERE k.digest IS DISTINCT FROM h.digest "
            "UNION SELECT DISTINCT folder, shard FROM held WHERE failed"
        )
        # Of recordings that are there already, the windows that are not.
        run(
            "INSERT INTO fresh SELECT k.folder, k.place, k.recording_id, k.batch, w.seconds, w.size_s, k.digest, "
            "coalesce(h.windows, []) FROM kept AS k JOIN (SELECT recording_id, sum(seconds) AS seconds, "
            "sum(size_s) AS size_s FROM kept_windows ANTI JOIN held_windows USING (window_id) GROUP BY recording_id) "
            "AS w USING (recording_id) LEFT JOIN (SELECT recording_id, list(window_id ORDER BY window_id) AS windows "
            "FROM held_windows SEMI JOIN kept_windows USING (window_id) GROUP BY recording_id) AS h "
            "USING (recording_id)"
        )

    def _again(self) -> Iterator[Shard]:
        """The shards of the base that are made again, of the windows in them that are still kept."""
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
            yield Shard(folder, number, planned, sum(row[2] for row in rows), elsewhere, again=True)

    def _add_sources(self, alike: Iterable[str]) -> None:
        """Table `sources`: by recording, the shards of other datasets that hold features of it."""
        run = self._connection.execute
        run("CREATE TABLE found (recording_id VARCHAR, dataset VARCHAR, folder VARCHAR, number BIGINT)")
        for dataset in alike:
            for table in joined(_recordings_of(self._lake, dataset)):
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
    """Of each committed shard of a dataset the recordings of which it holds features."""

    def read(files: ShardFiles) -> tuple[str, pa.Table]:
        table = lake.read(f"datasets/{dataset}/{files.windows}", ["recording_id", "status"])
        return f"{files.folder}/{files.shard}", table.filter(pc.equal(table["status"], "ok")).select(["recording_id"])

    return lake.ahead(read, committed(lake.storage, dataset))


def ranges(base: Base) -> dict[str, list[list[int]]]:
    """The numbers of a base as first and last of each run of them, for JSON."""
    listed: dict[str, list[list[int]]] = {}
    for folder, numbers in sorted(base.items()):
        runs = listed.setdefault(folder, [])
        for number in sorted(numbers):
            if runs and runs[-1][1] == number - 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
    return listed


def from_ranges(listed: Mapping[str, list[list[int]]]) -> Base:
    return {
        folder: frozenset(number for first, last in runs for number in range(first, last + 1))
        for folder, runs in listed.items()
    }

"""Leaks: recordings, names, samples and sound that two sides of a study share, such as the splits of a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import Choice, ChoiceError, choose
from manifests.commands import terminal
from manifests.commands.targets import lake_of
from manifests.lake import Lake
from manifests.output import counted, one_line
from manifests.selection import Selection
from manifests.shards import ShardFiles
from manifests.subsets import About, Subset, prefix, version_of, windows_of
from manifests.views import connect, matched_by, open_views, quoted

REMEDY = "name a lake, LAKE/datasets/NAME, LAKE/selections/NAME, one split of these, or the file of a subset"
ROWS = 200_000
"""Rows that are read at a time."""
KEYS = {
    "name": "SELECT recording_id, unnest(uris) AS key FROM recordings",
    "samples": "SELECT recording_id, pcm_sha256 AS key FROM signal WHERE pcm_sha256 IS NOT NULL",
}
"""SQL over the views of a lake that returns the keys by which its recordings are compared with others, by kind."""
KINDS = {
    "recording": "recordings",
    "name": "recordings with a common name",
    "samples": "recordings with equal samples",
    "sound": "recordings with common sound",
}
SHARE = 0.2
"""The share of a recording's sound that is a leak if a recording on another side has it."""
PAIRS = (
    "SELECT recording_id, other_id, least(1, sum(share)) AS share, least(1, sum(other_share)) AS other_share "
    "FROM matches GROUP BY ALL HAVING greatest(least(1, sum(share)), least(1, sum(other_share))) >= {share!r}"
)
"""SQL of the pairs of recordings of a lake with that much common sound, with the share of each that the other has."""


@dataclass(frozen=True)
class Side:
    """A set of recordings that is compared with others: those of a subset of a dataset, or of a selection."""

    name: str
    lake: Lake
    signal: str | None
    """Fingerprint of the stage `signal`, whose results contain the hash of each recording's samples."""
    subset: Subset | None = None
    """Windows of a dataset; None if it is a selection."""
    selection: str | None = None
    """Name of a selection, whose kept recordings are compared; None if it is a subset."""
    split: str | None = None
    """A split of the selection; None for all."""
    made_of: str | None = None
    """The selection by whose matches sound is compared: its own, or that of its dataset."""

    def views(self) -> duckdb.DuckDBPyConnection:
        """The recordings of its lake, what `signal` says of them, the verdicts of its selection, and matches."""
        stages = {"signal": self.signal} if self.signal else {}
        return open_views(self.lake, Choice(stages, self.selection or self.made_of), ())

    @property
    def place(self) -> tuple[str, str | None, str | None]:
        """What its views are of."""
        return self.lake.storage.root, self.signal, self.selection or self.made_of

    def splits(self) -> list[str]:
        """Return the splits of its selection that it includes."""
        assert self.selection is not None
        return [self.split] if self.split is not None else list(Selection.stored(self.lake, self.selection).splits)

    def recordings(self) -> Iterator[pa.Table]:
        """Yield tables with the ids of its recordings (`recording_id`). An id may occur more than once."""
        if self.subset is None:
            splits = ", ".join(map(quoted, self.splits()))
            query = f"SELECT recording_id FROM verdicts WHERE verdict = 'kept' AND split IN ({splits})"
            with self.views() as connection:
                for batch in connection.sql(query).to_arrow_reader(ROWS):
                    yield pa.table(batch)
            return
        tables: list[pa.Table] = []
        for table in self.lake.prefetch(self._recordings_of_shard, self.subset.rows.to_batches(1)):
            tables.append(table)
            if sum(map(len, tables)) >= ROWS or len(tables) >= 1000:
                yield pa.concat_tables(tables)
                tables = []
        if tables:
            yield pa.concat_tables(tables)

    def _recordings_of_shard(self, row: pa.RecordBatch) -> pa.Table:
        assert self.subset is not None
        files, ids = ShardFiles(row["folder"][0].as_py(), row["shard"][0].as_py()), row["ids"][0]
        windows = windows_of(self.lake, self.subset.about, files, ["recording_id", "window_id"])
        if ids.is_valid:
            windows = windows.filter(pc.is_in(windows["window_id"], value_set=ids.values))
        return pa.table({"recording_id": pc.unique(windows["recording_id"])})


def sides(names: Sequence[str], lake: str | None = None) -> list[Side]:
    """Return the sides to compare: the splits of a single name, or one side for each of several names.

    Args:
        names: Lakes, datasets, selections, splits of these, or files of subsets.
        lake: Where the datasets of subsets are now, if they have moved since the subsets were made.

    Raises:
        ChoiceError: A name is unknown, or there is only one side.
    """
    by_name = [_sides(name, lake) for name in names]
    flat = by_name[0] if len(by_name) == 1 else [_merge(of, name) for of, name in zip(by_name, names, strict=True)]
    if len(flat) < 2:
        raise ChoiceError(f"{names[0]} is a single side", "name a second one to compare it with")
    return flat


def _merge(parts: list[Side], name: str) -> Side:
    """Merge all splits of a name into one side."""
    first = parts[0]
    if first.subset is None:
        return Side(
            name, first.lake, first.signal, selection=first.selection, split=first.split if not parts[1:] else None
        )
    if not parts[1:]:
        return Side(name, first.lake, first.signal, first.subset, made_of=first.made_of)
    about = first.subset.about
    splits = [split for part in parts if part.subset for split in part.subset.about.splits]
    subset = prefix(first.lake, About(about.dataset, about.version, splits))
    return Side(name, first.lake, first.signal, subset, made_of=first.made_of)


def _sides(name: str, lake: str | None) -> list[Side]:
    """Return a side for each split of a name. A subset is one side."""
    path = name.rstrip("/")
    if path.endswith(".parquet"):
        try:
            subset = Subset.read(path)
        except FileNotFoundError as error:
            raise ChoiceError(f"there is no file {name}", REMEDY) from error
        opened = Lake.at(lake or subset.about.lake)
        subset.check(opened)
        signal, made_of = _plan_of(opened, subset.about.dataset)
        return [Side(name, opened, signal, subset, made_of=made_of)]
    root, kind, rest = _split_path(path)
    if kind is None:
        newest = choose(opened := lake_of(path))
        if newest.dataset is None and newest.selection is None:
            raise ChoiceError(f"{name} has neither a dataset nor a selection", "run `speechmill select` first")
        kind, rest = ("datasets", newest.dataset) if newest.dataset else ("selections", str(newest.selection))
    else:
        opened = lake_of(root)
    what, _, split = str(rest).partition("/")
    if kind == "selections" and not opened.storage.exists(f"selections/{what}/selection.json"):
        raise ChoiceError(f"{name}: there is no selection {what}", "`speechmill manifest selections` lists them")
    every = _of_dataset(opened, what) if kind == "datasets" else _of_selection(opened, what)
    selected = [side for side in every if split in ("", side.name)]
    if not selected:
        raise ChoiceError(f"{name}: no split {split!r}", f"choose from: {', '.join(side.name for side in every)}")
    return selected


def _split_path(path: str) -> tuple[str, str | None, str]:
    """Split a path into the lake, 'datasets' or 'selections', and the rest. The kind is None if it is only a lake."""
    absolute = path if "://" in path else os.path.abspath(path)
    for kind in ("datasets", "selections"):
        root, middle, rest = absolute.rpartition(f"/{kind}/")
        if middle and rest.count("/") <= 1:
            return root, kind, rest
    return absolute, None, ""


def _of_dataset(lake: Lake, name: str) -> list[Side]:
    version = version_of(lake, name)
    splits = pc.unique(lake.read(f"{About(name, version).folder}/shards.parquet", ["split"])["split"]).to_pylist()
    signal, made_of = _plan_of(lake, name)
    return [
        Side(split, lake, signal, prefix(lake, About(name, version, (split,))), made_of=made_of)
        for split in sorted(splits)
    ]


def _of_selection(lake: Lake, name: str) -> list[Side]:
    stored = Selection.stored(lake, name)
    signal = stored.stages.get("signal")
    return [Side(split, lake, signal, selection=name, split=split) for split in stored.splits]


def _plan_of(lake: Lake, dataset: str) -> tuple[str | None, str | None]:
    """The fingerprint of `signal` that a dataset was made by, and its selection."""
    plan = lake.read_json(f"datasets/{dataset}/plan.json")
    return plan.get("signal"), plan.get("selection")


class Keys:
    """The sides in one lake, and the names and samples of all its recordings, as 64-bit hashes.

    They are kept in tables of the DuckDB connection that reads the lake, so that no strings are copied to Python, and
    DuckDB spills to disk when memory runs out.
    """

    def __init__(self, side: Side) -> None:
        self.connection = side.views()
        self.connection.execute("CREATE TEMP TABLE members (id UBIGINT, side UTINYINT)")

    def add(self, sides: Mapping[int, Side]) -> dict[int, int]:
        """Add the recordings of sides, given by their numbers. Returns the number of recordings of each."""
        splits = {number: side.splits() for number, side in sides.items() if side.subset is None}
        if rows := [f"({quoted(split)}, {number})" for number, of_side in splits.items() for split in of_side]:
            wanted = f"(VALUES {', '.join(rows)}) AS wanted (split, side)"  # a recording has one verdict
            self.connection.execute(
                f"INSERT INTO members SELECT hash(recording_id), side FROM verdicts JOIN {wanted} USING (split) "
                "WHERE verdict = 'kept'"
            )
        for number, side in sides.items():
            if side.subset is None:
                continue
            self.connection.execute("CREATE TEMP TABLE added (id UBIGINT)")
            for ids in side.recordings():  # a recording can have windows in several shards
                self.connection.register("ids", ids)
                self.connection.execute("INSERT INTO added SELECT hash(recording_id) FROM ids")
            self.connection.execute(f"INSERT INTO members SELECT DISTINCT id, {number} FROM added; DROP TABLE added")
        return dict(self.connection.execute("SELECT side, count(*) FROM members GROUP BY side").fetchall())

    def read(self) -> None:
        """Read the names and samples of all recordings of the lake."""
        for kind, keys in KEYS.items():
            self.connection.execute(
                f"CREATE TEMP TABLE {kind} AS SELECT hash(recording_id) AS id, hash(key) AS key FROM ({keys})"
            )

    def query(self, query: str, **tables: pa.Table) -> pa.Table:
        """Run a query over these tables and the additional `tables`."""
        for name, table in tables.items():
            self.connection.register(name, table)
        return self.connection.sql(query).to_arrow_table()


def leaks(compared: Sequence[Side], show: int, share: float = SHARE) -> dict[str, Any]:
    """Find what two or more sides have in common: recordings, names, samples, and pairs that share sound.

    A name, or a hash of samples, is a leak if different recordings on two sides have it. Keys are first compared by
    64-bit hashes. Those that match are then read again and compared in full.

    Args:
        compared: The sides.
        show: How many leaks of each kind to list.
        share: Two recordings of one lake share sound if at least this share of one of them lies in the other, by the
            matches of the lake.

    Returns:
        The JSON document that docs/json.md describes.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(connect())
        connection.execute("CREATE TYPE kind AS ENUM ('recording', 'name', 'samples', 'sound')")
        connection.execute("CREATE TABLE named (lake UTINYINT, recording_id VARCHAR, kind kind, key VARCHAR)")
        lakes = {side.place: side for side in compared}
        keys = {place: Keys(side) for place, side in lakes.items()}
        sizes: dict[int, int] = {}
        for key, of_lake in keys.items():
            stack.enter_context(of_lake.connection)
            sizes |= of_lake.add({number: side for number, side in enumerate(compared) if side.place == key})
            of_lake.read()
        counts_of_sides = [sizes.get(number, 0) for number in range(len(compared))]
        # A leak has a recording outside the largest side. Looking up only these is faster.
        of_few = f"FROM members WHERE side <> {counts_of_sides.index(max(counts_of_sides))}"
        few = _concat(of_lake.query(f"SELECT DISTINCT id {of_few}") for of_lake in keys.values())
        connection.execute("CREATE TABLE near (lake UTINYINT, kind kind, key UBIGINT, id UBIGINT, side UTINYINT)")
        near = "INSERT INTO near SELECT $lake, $kind, key, id, side FROM batch"
        for kind in KEYS:
            looked_up = f"SELECT DISTINCT key FROM {kind} SEMI JOIN (SELECT id {of_few}) USING (id)"
            suspected = _concat(of_lake.query(looked_up) for of_lake in keys.values())
            having = f"SELECT key, id, side FROM ({kind} SEMI JOIN suspected USING (key)) JOIN members USING (id)"
            for place, of_lake in enumerate(keys.values()):
                connection.register("batch", of_lake.query(having, suspected=suspected))
                connection.execute(near, {"lake": place, "kind": kind})
        for place, of_lake in enumerate(keys.values()):
            same = of_lake.query("SELECT id AS key, id, side FROM members SEMI JOIN few USING (id)", few=few)
            connection.register("batch", same)
            connection.execute(near, {"lake": place, "kind": "recording"})
        connection.execute(
            "CREATE TABLE candidates AS SELECT kind, key FROM near GROUP BY kind, key "
            "HAVING bit_count(bit_or(1::UBIGINT << side)) > 1 AND (kind = 'recording' OR min(id) <> max(id))"
        )
        without = "SELECT id FROM members ANTI JOIN samples USING (id)"
        unhashed = _concat(of_lake.query(without) for of_lake in keys.values())
        if connection.execute("SELECT count(*) FROM candidates").fetchall() != [(0,)]:
            _read_candidates(connection, compared, lakes)
        connection.execute(
            "CREATE TABLE found AS SELECT kind, key, list(DISTINCT side ORDER BY side) AS sides, "
            "list(DISTINCT recording_id ORDER BY recording_id) AS recordings FROM named "
            "JOIN (SELECT DISTINCT lake, id, side FROM near) AS of ON named.lake = of.lake AND hash(recording_id) = id "
            "GROUP BY ALL HAVING count(DISTINCT side) > 1 AND (kind = 'recording' OR count(DISTINCT recording_id) > 1)"
        )
        _add_shared_sound(connection, list(keys.values()), share)
        counts = dict(connection.execute("SELECT kind, count(*) FROM found GROUP BY kind").fetchall())
        first = connection.execute(
            "SELECT kind, key, sides, recordings FROM (SELECT *, CASE WHEN kind = 'sound' THEN "
            "-split_part(key, '%', 1)::INTEGER ELSE 0 END AS place FROM found) "
            "QUALIFY row_number() OVER (PARTITION BY kind ORDER BY place, key) <= $1 ORDER BY kind, place, key",
            [show],
        ).fetchall()
    return {
        "sides": [
            {"name": side.name, "lake": side.lake.storage.root, "recordings": count}
            for side, count in zip(compared, counts_of_sides, strict=True)
        ],
        "unmatched": sum(not matched_by(side.lake, side.selection or side.made_of) for side in compared),
        "unhashed": pc.count_distinct(unhashed.column(0)).as_py(),
        "counts": {kind: counts.get(kind, 0) for kind in KINDS},
        "leaks": [
            {"kind": kind, "key": key, "sides": [compared[number].name for number in on], "recordings": recordings}
            for kind, key, on, recordings in first
        ],
    }


def _add_shared_sound(connection: duckdb.DuckDBPyConnection, keys: Sequence[Keys], share: float) -> None:
    """Add to `found` the pairs of recordings on two sides that share sound."""
    connection.execute("CREATE TABLE pairs (recording_id VARCHAR, other_id VARCHAR, share DOUBLE, other_share DOUBLE)")
    for one in keys:
        connection.register("batch", one.query(PAIRS.format(share=float(share))))
        connection.execute("INSERT INTO pairs FROM batch")
    named = "SELECT recording_id FROM pairs UNION SELECT other_id FROM pairs"
    ids = connection.sql(f"SELECT DISTINCT hash(recording_id) AS id FROM ({named})").to_arrow_table()
    connection.execute("CREATE TABLE sided (id UBIGINT, side UTINYINT)")
    for one in keys:
        connection.register("batch", one.query("FROM members SEMI JOIN wanted USING (id)", wanted=ids))
        connection.execute("INSERT INTO sided FROM batch")
    connection.execute(
        "INSERT INTO found SELECT 'sound', concat(round(100 * greatest(share, other_share))::INTEGER, '% of ', "
        "CASE WHEN share >= other_share THEN recording_id ELSE other_id END), "
        "list_sort(list_distinct([a.side, b.side])), list_sort([recording_id, other_id]) "
        "FROM (SELECT DISTINCT * FROM pairs) JOIN sided AS a ON a.id = hash(recording_id) "
        "JOIN sided AS b ON b.id = hash(other_id) WHERE a.side <> b.side"
    )


def _concat(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables)


def _read_candidates(
    connection: duckdb.DuckDBPyConnection, compared: Sequence[Side], lakes: Mapping[tuple[Any, ...], Side]
) -> None:
    """Read the keys whose hashes are among the candidates again, in full."""
    places = {key: place for place, key in enumerate(lakes)}
    for side in compared:
        for ids in side.recordings():
            connection.register("ids", ids)
            connection.execute(
                "INSERT INTO named SELECT DISTINCT $lake, recording_id, 'recording', recording_id FROM ids "
                "WHERE hash(recording_id) IN (SELECT key FROM candidates WHERE kind = 'recording')",
                {"lake": places[side.place]},
            )
    insert = (
        "INSERT INTO named SELECT $lake, recording_id, $kind, key FROM batch "
        "WHERE hash(key) IN (SELECT key FROM candidates WHERE kind = $kind::kind)"
    )
    for key, side in lakes.items():
        with side.views() as views:
            for kind, keys in KEYS.items():
                for batch in views.sql(keys).to_arrow_reader(ROWS):
                    connection.register("batch", pa.table(batch))
                    connection.execute(insert, {"lake": places[key], "kind": kind})


def render(document: Mapping[str, Any]) -> None:
    """Print the document of `leaks` as text."""
    rows = [[side["name"], side["recordings"], side["lake"]] for side in document["sides"]]
    terminal.table(["side", "recordings", "lake"], rows)
    for kind, count in document["counts"].items():
        terminal.echo(f"{KINDS[kind]} on two sides: {count:,}")
        of_kind = [leak for leak in document["leaks"] if leak["kind"] == kind]
        for leak in of_kind:
            others = "" if kind == "recording" else f": {', '.join(leak['recordings'])}"
            terminal.echo(f"  {one_line(leak['key'])} in {' and '.join(leak['sides'])}{others}")
        if count > len(of_kind):
            terminal.echo(f"  and {count - len(of_kind):,} more; --show lists more of them")
    if document["unmatched"]:
        terminal.echo(
            f"{counted(document['unmatched'], 'side')} without matches: recordings were not compared by sound"
        )
    if document["unhashed"]:
        unhashed = counted(document["unhashed"], "recording")
        terminal.echo(f"{unhashed} without a hash of the samples, which were not compared")

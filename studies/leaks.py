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
from manifests.lake import Lake
from manifests.look import terminal
from manifests.look.targets import lake_of
from manifests.output import one_line
from manifests.selection import Selection
from manifests.shards import ShardFiles
from manifests.subsets import About, Subset, prefix, version_of, windows_of
from manifests.views import connect, matched_by, open_views, quoted

REMEDY = "name a lake, LAKE/datasets/NAME, LAKE/selections/NAME, one split of these, or the file of a subset"
ROWS = 200_000
"""Rows that are compared at a time."""
KEYS = {
    "name": "SELECT recording_id, unnest(uris) AS key FROM recordings",
    "samples": "SELECT recording_id, pcm_sha256 AS key FROM signal WHERE pcm_sha256 IS NOT NULL",
}
"""SQL over the views of a lake: what its recordings may share with others, by kind."""
KINDS = {
    "recording": "the same recording",
    "name": "recordings of one name",
    "samples": "recordings of equal samples",
    "sound": "recordings that share sound",
}
SHARE = 0.2
"""Of a recording: so much of its sound in one on another side is a leak."""
PAIRS = (
    "SELECT recording_id, other_id, least(1, sum(share)) AS share, least(1, sum(other_share)) AS other_share "
    "FROM matches GROUP BY ALL HAVING greatest(least(1, sum(share)), least(1, sum(other_share))) >= {share!r}"
)
"""SQL of the pairs of recordings of a lake that share so much sound, with the share of each that the other holds."""


@dataclass(frozen=True)
class Side:
    """Recordings that may have none in common with another side."""

    name: str
    lake: Lake
    signal: str | None
    """Fingerprint of the results of `signal`, which know the samples of recordings by their hash."""
    subset: Subset | None = None
    """Windows of a dataset, or"""
    selection: str | None = None
    """the kept recordings of a selection, and"""
    split: str | None = None
    """of these one split; None for all."""
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
        """The splits of its selection that it has."""
        assert self.selection is not None
        return [self.split] if self.split is not None else list(Selection.stored(self.lake, self.selection).splits)

    def recordings(self) -> Iterator[pa.Table]:
        """The ids of its recordings (`recording_id`), some at a time; one may come several times."""
        if self.subset is None:
            splits = ", ".join(map(quoted, self.splits()))
            query = f"SELECT recording_id FROM verdicts WHERE verdict = 'kept' AND split IN ({splits})"
            with self.views() as connection:
                for batch in connection.sql(query).to_arrow_reader(ROWS):
                    yield pa.table(batch)
            return
        held: list[pa.Table] = []
        for table in self.lake.ahead(self._of_shard, self.subset.rows.to_batches(1)):
            held.append(table)
            if sum(map(len, held)) >= ROWS or len(held) >= 1000:
                yield pa.concat_tables(held)
                held = []
        if held:
            yield pa.concat_tables(held)

    def _of_shard(self, row: pa.RecordBatch) -> pa.Table:
        assert self.subset is not None
        files, ids = ShardFiles(row["folder"][0].as_py(), row["shard"][0].as_py()), row["ids"][0]
        windows = windows_of(self.lake, self.subset.about, files, ["recording_id", "window_id"])
        if ids.is_valid:
            windows = windows.filter(pc.is_in(windows["window_id"], value_set=ids.values))
        return pa.table({"recording_id": pc.unique(windows["recording_id"])})


def sides(names: Sequence[str], lake: str | None = None) -> list[Side]:
    """The sides to compare: the splits of what one name names, or what each of several names names.

    `lake` is where the datasets of subsets are, if not where they were when the subsets were made. Raises ChoiceError.
    """
    found = [_sides(name, lake) for name in names]
    flat = found[0] if len(found) == 1 else [_as_one(one, name) for one, name in zip(found, names, strict=True)]
    if len(flat) < 2:
        raise ChoiceError(f"{names[0]} is one side: nothing to compare it with", "name another one besides")
    return flat


def _as_one(parts: list[Side], name: str) -> Side:
    """All splits of a name as one side."""
    first = parts[0]
    if first.subset is None:
        return Side(
            name, first.lake, first.signal, selection=first.selection, split=first.split if not parts[1:] else None
        )
    if not parts[1:]:
        return Side(name, first.lake, first.signal, first.subset, made_of=first.made_of)
    about = first.subset.about
    splits = [split for one in parts if one.subset for split in one.subset.about.splits]
    subset = prefix(first.lake, About(about.dataset, about.version, splits))
    return Side(name, first.lake, first.signal, subset, made_of=first.made_of)


def _sides(name: str, lake: str | None) -> list[Side]:
    """The splits that a name names, each a side; a subset is one side."""
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
    root, kind, rest = _divided(path)
    if kind is None:
        found = choose(opened := lake_of(path))
        if found.dataset is None and found.selection is None:
            raise ChoiceError(f"{name} has neither a dataset nor a selection", "run `speechmill select` first")
        kind, rest = ("datasets", found.dataset) if found.dataset else ("selections", str(found.selection))
    else:
        opened = lake_of(root)
    what, _, split = str(rest).partition("/")
    if kind == "selections" and not opened.storage.exists(f"selections/{what}/selection.json"):
        raise ChoiceError(f"{name}: there is no selection {what}", "`speechmill manifest selections` lists them")
    made = _of_dataset(opened, what) if kind == "datasets" else _of_selection(opened, what)
    chosen = [one for one in made if split in ("", one.name)]
    if not chosen:
        raise ChoiceError(f"{name}: no split {split!r}", f"there is: {', '.join(one.name for one in made)}")
    return chosen


def _divided(path: str) -> tuple[str, str | None, str]:
    """The lake, 'datasets' or 'selections', and what follows; None for the kind where a path names a lake alone."""
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
    """The sides that lie in one lake, with the names and samples of all its recordings, as hashes of 64 bits.

    They stay in tables of the connection that reads the lake: strings do not leave it, and beyond its memory it spills.
    """

    def __init__(self, side: Side) -> None:
        self.connection = side.views()
        self.connection.execute("CREATE TEMP TABLE met (id UBIGINT, side UTINYINT)")

    def add(self, sides: Mapping[int, Side]) -> dict[int, int]:
        """Add the recordings of sides by their numbers, and return how many each has."""
        splits = {number: side.splits() for number, side in sides.items() if side.subset is None}
        if rows := [f"({quoted(split)}, {number})" for number, of_side in splits.items() for split in of_side]:
            wanted = f"(VALUES {', '.join(rows)}) AS wanted (split, side)"  # a recording has one verdict
            self.connection.execute(
                f"INSERT INTO met SELECT hash(recording_id), side FROM verdicts JOIN {wanted} USING (split) "
                "WHERE verdict = 'kept'"
            )
        for number, side in sides.items():
            if side.subset is None:
                continue
            self.connection.execute("CREATE TEMP TABLE given (id UBIGINT)")
            for ids in side.recordings():  # a recording has windows in several shards
                self.connection.register("ids", ids)
                self.connection.execute("INSERT INTO given SELECT hash(recording_id) FROM ids")
            self.connection.execute(f"INSERT INTO met SELECT DISTINCT id, {number} FROM given; DROP TABLE given")
        return dict(self.connection.execute("SELECT side, count(*) FROM met GROUP BY side").fetchall())

    def read(self) -> None:
        """Read the keys of all recordings of the lake."""
        for kind, keys in KEYS.items():
            self.connection.execute(
                f"CREATE TEMP TABLE {kind} AS SELECT hash(recording_id) AS id, hash(key) AS key FROM ({keys})"
            )

    def ask(self, query: str, **given: pa.Table) -> pa.Table:
        """The answer to a query over these tables and those that are given."""
        for name, table in given.items():
            self.connection.register(name, table)
        return self.connection.sql(query).to_arrow_table()


def leaks(compared: Sequence[Side], show: int, share: float = SHARE) -> dict[str, Any]:
    """What is on two or more of these sides: how many recordings, names, samples and pairs of recordings that share
    sound, and the first `show` of each.

    A name or a hash of samples counts where different recordings on two sides have it. Two recordings of one lake
    share sound where at least `share` of one of them lies in the other by the matches of the lake. Keys are compared
    by 64 bits of a hash first; those that meet are then read again and compared as they are.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(connect())
        connection.execute("CREATE TYPE kind AS ENUM ('recording', 'name', 'samples', 'sound')")
        connection.execute("CREATE TABLE named (lake UTINYINT, recording_id VARCHAR, kind kind, key VARCHAR)")
        lakes = {side.place: side for side in compared}
        keys = {place: Keys(side) for place, side in lakes.items()}
        counted: dict[int, int] = {}
        for key, one in keys.items():
            stack.enter_context(one.connection)
            counted |= one.add({number: side for number, side in enumerate(compared) if side.place == key})
            one.read()
        held = [counted.get(number, 0) for number in range(len(compared))]
        # What meets has a recording on another side than the largest: few keys are looked up among many.
        of_few = f"FROM met WHERE side <> {held.index(max(held))}"
        few = _together(one.ask(f"SELECT DISTINCT id {of_few}") for one in keys.values())
        connection.execute("CREATE TABLE near (lake UTINYINT, kind kind, key UBIGINT, id UBIGINT, side UTINYINT)")
        near = "INSERT INTO near SELECT $lake, $kind, key, id, side FROM batch"
        for kind in KEYS:
            looked_up = f"SELECT DISTINCT key FROM {kind} SEMI JOIN (SELECT id {of_few}) USING (id)"
            suspected = _together(one.ask(looked_up) for one in keys.values())
            having = f"SELECT key, id, side FROM ({kind} SEMI JOIN suspected USING (key)) JOIN met USING (id)"
            for place, one in enumerate(keys.values()):
                connection.register("batch", one.ask(having, suspected=suspected))
                connection.execute(near, {"lake": place, "kind": kind})
        for place, one in enumerate(keys.values()):
            same = one.ask("SELECT id AS key, id, side FROM met SEMI JOIN few USING (id)", few=few)
            connection.register("batch", same)
            connection.execute(near, {"lake": place, "kind": "recording"})
        connection.execute(
            "CREATE TABLE meeting AS SELECT kind, key FROM near GROUP BY kind, key "
            "HAVING bit_count(bit_or(1::UBIGINT << side)) > 1 AND (kind = 'recording' OR min(id) <> max(id))"
        )
        unhashed = _together(one.ask("SELECT id FROM met ANTI JOIN samples USING (id)") for one in keys.values())
        if connection.execute("SELECT count(*) FROM meeting").fetchall() != [(0,)]:
            _name(connection, compared, lakes)
        connection.execute(
            "CREATE TABLE found AS SELECT kind, key, list(DISTINCT side ORDER BY side) AS sides, "
            "list(DISTINCT recording_id ORDER BY recording_id) AS recordings FROM named "
            "JOIN (SELECT DISTINCT lake, id, side FROM near) AS of ON named.lake = of.lake AND hash(recording_id) = id "
            "GROUP BY ALL HAVING count(DISTINCT side) > 1 AND (kind = 'recording' OR count(DISTINCT recording_id) > 1)"
        )
        _hear(connection, list(keys.values()), share)
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
            for side, count in zip(compared, held, strict=True)
        ],
        "unmatched": sum(not matched_by(side.lake, side.selection or side.made_of) for side in compared),
        "unhashed": pc.count_distinct(unhashed.column(0)).as_py(),
        "counts": {kind: counts.get(kind, 0) for kind in KINDS},
        "leaks": [
            {"kind": kind, "key": key, "sides": [compared[number].name for number in on], "recordings": recordings}
            for kind, key, on, recordings in first
        ],
    }


def _hear(connection: duckdb.DuckDBPyConnection, keys: Sequence[Keys], share: float) -> None:
    """Add to `found` the pairs of recordings on two sides that share sound."""
    connection.execute("CREATE TABLE pairs (recording_id VARCHAR, other_id VARCHAR, share DOUBLE, other_share DOUBLE)")
    for one in keys:
        connection.register("batch", one.ask(PAIRS.format(share=float(share))))
        connection.execute("INSERT INTO pairs FROM batch")
    named = "SELECT recording_id FROM pairs UNION SELECT other_id FROM pairs"
    ids = connection.sql(f"SELECT DISTINCT hash(recording_id) AS id FROM ({named})").to_arrow_table()
    connection.execute("CREATE TABLE sided (id UBIGINT, side UTINYINT)")
    for one in keys:
        connection.register("batch", one.ask("FROM met SEMI JOIN wanted USING (id)", wanted=ids))
        connection.execute("INSERT INTO sided FROM batch")
    connection.execute(
        "INSERT INTO found SELECT 'sound', concat(round(100 * greatest(share, other_share))::INTEGER, '% of ', "
        "CASE WHEN share >= other_share THEN recording_id ELSE other_id END), "
        "list_sort(list_distinct([a.side, b.side])), list_sort([recording_id, other_id]) "
        "FROM (SELECT DISTINCT * FROM pairs) JOIN sided AS a ON a.id = hash(recording_id) "
        "JOIN sided AS b ON b.id = hash(other_id) WHERE a.side <> b.side"
    )


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables)


def _name(
    connection: duckdb.DuckDBPyConnection, compared: Sequence[Side], lakes: Mapping[tuple[Any, ...], Side]
) -> None:
    """Read the keys that meet again, as they are."""
    places = {key: place for place, key in enumerate(lakes)}
    for side in compared:
        for ids in side.recordings():
            connection.register("ids", ids)
            connection.execute(
                "INSERT INTO named SELECT DISTINCT $lake, recording_id, 'recording', recording_id FROM ids "
                "WHERE hash(recording_id) IN (SELECT key FROM meeting WHERE kind = 'recording')",
                {"lake": places[side.place]},
            )
    meeting = (
        "INSERT INTO named SELECT $lake, recording_id, $kind, key FROM batch "
        "WHERE hash(key) IN (SELECT key FROM meeting WHERE kind = $kind::kind)"
    )
    for key, side in lakes.items():
        with side.views() as views:
            for kind, keys in KEYS.items():
                for batch in views.sql(keys).to_arrow_reader(ROWS):
                    connection.register("batch", pa.table(batch))
                    connection.execute(meeting, {"lake": places[key], "kind": kind})


def render(found: Mapping[str, Any]) -> None:
    """What was found, for people."""
    rows = [[side["name"], side["recordings"], side["lake"]] for side in found["sides"]]
    terminal.table(["side", "recordings", "lake"], rows)
    for kind, count in found["counts"].items():
        terminal.echo(f"{KINDS[kind]} on two sides: {count:,}")
        of_kind = [leak for leak in found["leaks"] if leak["kind"] == kind]
        for leak in of_kind:
            others = "" if kind == "recording" else f": {', '.join(leak['recordings'])}"
            terminal.echo(f"  {one_line(leak['key'])} in {' and '.join(leak['sides'])}{others}")
        if count > len(of_kind):
            terminal.echo(f"  and {count - len(of_kind):,} more; --show names more of them")
    if found["unmatched"]:
        terminal.echo(f"{found['unmatched']:,} sides have no matches: their recordings were not compared by sound")
    if found["unhashed"]:
        terminal.echo(f"{found['unhashed']:,} recordings have no hash of their samples: these were not compared")

"""Groups of recordings with the same sound, by equal samples and by matches, and which recording of each group is kept.

Two recordings that each lie in the other for the most part are copies, and copies of copies are one group. A recording
that lies in a longer one for the most part is a part of it, and belongs to the group of one such recording alone:
neither a passage that many recordings hold, nor a recording of that passage alone, links these to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from manifests.lake import Lake
from manifests.matches import matches_key
from manifests.selection import Selection
from manifests.tables import concat_batches

SHORTER, NARROWER = 0.005, 0.05
"""Two durations whose difference is at most this share of the longer one count as equal, and likewise bandwidths."""
STEPS_PER_S = 4
"""Where recordings share sound is kept in whole steps of time: the ends of a match are no more exact than a step."""
LINKS = (
    "SELECT number, other, share, other_share FROM (SELECT number, other, least(1, sum(share)) AS share, "
    "least(1, sum(other_share)) AS other_share FROM shared GROUP BY number, other) "
    "WHERE greatest(share, other_share) >= $1 ORDER BY ALL"
)
"""SQL of the pairs of recordings of which one lies in the other for the most part, with the share of each that does."""
SAME_SAMPLES = (
    "SELECT s.rowid AS number, first FROM samples AS s JOIN (SELECT pcm_sha256, min(rowid) AS first FROM samples "
    "GROUP BY pcm_sha256 HAVING count(*) > 1) USING (pcm_sha256) WHERE s.rowid <> first ORDER BY ALL"
)
"""SQL of the recordings whose samples were met before, with the recording in which they were met first."""


@dataclass(frozen=True)
class Member:
    """A recording of a group, with what decides which recording of the group is kept."""

    number: int
    """Its place in the order in which recordings were met."""
    recording_id: str
    batch: str
    pcm_sha256: str
    duration_s: float
    bandwidth_hz: float
    bytes_per_s: float


@dataclass
class Group:
    """Recordings that are copies of one another, and the groups that are parts of one of these recordings."""

    members: list[Member]
    parent: Group | None = None
    parts: list[Group] = field(default_factory=list)

    @property
    def best(self) -> Member:
        """The longest member. Of several that count as equally long it is the one with the most bandwidth; of several
        with the same bandwidth the one with the most bytes a second; of equal ones the one that was met first."""
        longest_s = max(member.duration_s for member in self.members)
        left = [member for member in self.members if member.duration_s >= (1 - SHORTER) * longest_s]
        widest_hz = max(member.bandwidth_hz for member in left)
        left = [member for member in left if member.bandwidth_hz >= (1 - NARROWER) * widest_hz]
        return min(left, key=lambda member: (-member.bytes_per_s, member.number))

    def everyone(self) -> list[Member]:
        """Its own members, then those of its parts, of their parts and so on, to any depth."""
        found, left = list[Member](), [self]
        while left:
            group = left.pop()
            found += group.members
            left += reversed(group.parts)
        return found


def find(connection: duckdb.DuckDBPyConnection, lake: Lake, selection: Selection, batches: Sequence[str]) -> None:
    """Find the duplicates among the recordings of some batches, and leave these tables in `connection`:

    - `samples` (batch, recording_id, pcm_sha256, duration_s, bandwidth_hz): every recording that was decoded, in the
      order in which they were met. The number of a recording is its `rowid` there.
    - `copies` (batch, recording_id, keeper): each duplicate, with the recording that is kept instead.
    - `draws` (batch, recording_id, drawn_by): each kept recording of a group, with the hash that draws the split of the
      group: the hash of the samples of its member that was met first. Empty where equal samples alone tell duplicates,
      since they all have one hash.
    - With matches also `shared` (see `_read_matches`) and `standing` (number, leader, place): each recording of a
      group, with the numbers of the member that is kept and of the member that was met first.
    """
    connection.execute(
        "CREATE TABLE samples (batch VARCHAR, recording_id VARCHAR, pcm_sha256 VARCHAR, duration_s DOUBLE, "
        "bandwidth_hz DOUBLE); CREATE TABLE copies (batch VARCHAR, recording_id VARCHAR, keeper VARCHAR); "
        "CREATE TABLE draws (batch VARCHAR, recording_id VARCHAR, drawn_by VARCHAR); "
        "CREATE TABLE standing (number BIGINT, leader BIGINT, place BIGINT)"
    )
    columns = ["recording_id", "pcm_sha256", "duration_s", "bandwidth_hz"]
    stage = "signal", selection.stages["signal"]
    for signal in concat_batches(lake.read_each(batches, partial(lake.annotation_key, *stage), columns)):
        connection.register("signal_hashes", signal)
        connection.execute(
            "INSERT INTO samples SELECT batch, recording_id, pcm_sha256, duration_s, bandwidth_hz FROM signal_hashes "
            "WHERE pcm_sha256 IS NOT NULL"
        )
    if selection.matches is None:
        connection.execute(
            f"INSERT INTO copies SELECT s.batch, s.recording_id, f.recording_id FROM ({SAME_SAMPLES}) AS same "
            "JOIN samples AS s ON s.rowid = number JOIN samples AS f ON f.rowid = first ORDER BY s.batch"
        )
        return
    _read_matches(connection, lake, selection.matches, batches)
    _keep_best(connection, _groups(connection, lake, selection.duplicate_share, batches))


def _read_matches(connection: duckdb.DuckDBPyConnection, lake: Lake, mark: str, batches: Sequence[str]) -> None:
    """Table `shared`, a row for each stretch that two recordings share.

    `number` and `other` are their numbers, of which the other one was met first; `low` to `high` and `other_low` to
    `other_high` say where the stretch lies in each, in steps; the shares are those of MATCHES.
    """
    columns = ["recording_id", "other_id", "start_s", "end_s", "other_start_s", "other_end_s", "share", "other_share"]
    typed = ", ".join(f"{name} {'VARCHAR' if name.endswith('_id') else 'DOUBLE'}" for name in columns)
    connection.execute(f"CREATE TABLE found ({typed})")
    for part in concat_batches(lake.read_each(batches, partial(matches_key, mark), columns)):
        connection.register("matches_read", part)
        connection.execute(f"INSERT INTO found SELECT {', '.join(columns)} FROM matches_read")
    ends = ("start_s", "end_s", "other_start_s", "other_end_s")
    low, high, other_low, other_high = (f"floor({end} * {STEPS_PER_S} + 0.5)::INTEGER" for end in ends)
    connection.execute(
        f"CREATE TABLE shared AS SELECT a.rowid AS number, b.rowid AS other, {low} AS low, {high} AS high, "
        f"{other_low} AS other_low, {other_high} AS other_high, share, other_share FROM found "
        "JOIN samples AS a USING (recording_id) JOIN samples AS b ON b.recording_id = other_id; DROP TABLE found"
    )


def _groups(
    connection: duckdb.DuckDBPyConnection, lake: Lake, least_share: float, batches: Sequence[str]
) -> list[Group]:
    """The groups of several recordings."""
    connection.execute("CREATE TABLE sizes (recording_id VARCHAR, size_bytes BIGINT)")
    for part in concat_batches(lake.read_each(batches, lake.recordings_key, ["recording_id", "size_bytes"])):
        connection.register("sizes_read", part)
        connection.execute("INSERT INTO sizes SELECT recording_id, size_bytes FROM sizes_read")
    links = connection.execute(LINKS, [least_share]).fetchall()
    links += [(number, first, 1.0, 1.0) for number, first in connection.execute(SAME_SAMPLES).fetchall()]
    return grouped(_members(connection, {number for link in links for number in link[:2]}), links, least_share)


def _members(connection: duckdb.DuckDBPyConnection, numbers: Iterable[int]) -> dict[int, Member]:
    connection.register("linked", pa.table({"number": pa.array(sorted(numbers), pa.int64())}))
    rows = connection.execute(
        "SELECT number, recording_id, batch, pcm_sha256, coalesce(duration_s, 0), coalesce(bandwidth_hz, 0), "
        "coalesce(size_bytes / nullif(duration_s, 0), 0) FROM linked JOIN samples ON samples.rowid = number "
        "LEFT JOIN sizes USING (recording_id) ORDER BY number"
    ).fetchall()
    return {row[0]: Member(*row) for row in rows}


def grouped(
    members: dict[int, Member], links: Sequence[tuple[int, int, float, float]], least_share: float
) -> list[Group]:
    """The groups of several recordings by links, each with the groups that are parts of it.

    A link names two recordings by their numbers, and the share of each that lies in the other one.
    """
    leader = {number: number for number in members}

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for one, other, share, other_share in links:
        if min(share, other_share) >= least_share:
            first, second = sorted((lead(one), lead(other)))
            leader[second] = first
    groups: dict[int, Group] = {}
    for number, member in sorted(members.items()):
        groups.setdefault(lead(number), Group([])).members.append(member)
    best = {leading: group.best.number for leading, group in groups.items()}
    wholes: dict[int, tuple[float, int]] = {}
    for one, other, share, other_share in links:
        part, whole, held = (one, other, share) if share >= other_share else (other, one, other_share)
        leading, over = lead(part), lead(whole)
        longer = members[best[over]].duration_s > members[best[leading]].duration_s
        if leading != over and part == best[leading] and longer:
            wholes[leading] = min(wholes.get(leading, (0.0, 0)), (-held, whole))
    for leading, (_, whole) in sorted(wholes.items()):
        groups[leading].parent = groups[lead(whole)]
        groups[lead(whole)].parts.append(groups[leading])
    roots = [group for group in groups.values() if group.parent is None]
    return [root for root in roots if len(root.everyone()) > 1]


def _keep_best(connection: duckdb.DuckDBPyConnection, groups: Iterable[Group]) -> None:
    """Fill the tables `copies`, `draws` and `standing`: of each group the best recording is kept."""
    rows: dict[str, list[tuple[Any, ...]]] = {"copies": [], "draws": [], "standing": []}
    for group in groups:
        best, everyone = group.best, group.everyone()
        rows["copies"] += [(one.batch, one.recording_id, best.recording_id) for one in everyone if one != best]
        first = min(everyone, key=lambda one: one.number)
        rows["draws"].append((best.batch, best.recording_id, first.pcm_sha256))
        rows["standing"] += [(one.number, best.number, first.number) for one in everyone]
    for table, made in rows.items():
        if made:
            connection.register("made", pa.table([list(column) for column in zip(*made, strict=True)], list("abc")))
            connection.execute(f"INSERT INTO {table} FROM made ORDER BY a")

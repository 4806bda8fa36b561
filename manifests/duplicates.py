"""Groups of recordings with the same sound, by equal samples and by matches, and which of each group is kept.

Two recordings that each lie in the other for the most part are copies, and copies of copies are one group. A recording
that lies in a longer one for the most part is a part of it, and belongs to the group of one such recording alone:
neither a passage that many recordings hold, nor a recording of that passage alone, links these to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from manifests.lake import Lake
from manifests.matches import matches_key
from manifests.tables import joined

if TYPE_CHECKING:
    from manifests.selection import Selection

SHORTER, NARROWER = 0.005, 0.05
"""Lengths, and bandwidths, that differ by no more are equal."""
SHARED = (
    "SELECT recording_id, other_id, least(1, sum(share)) AS share, least(1, sum(other_share)) AS other_share "
    "FROM found GROUP BY recording_id, other_id"
)


@dataclass(frozen=True)
class Member:
    """A recording of a group. The best one is longest, then has most bandwidth, then most bytes a second, but for
    SHORTER and NARROWER."""

    number: int
    """In the order in which recordings were met."""
    recording_id: str
    batch: str
    pcm_sha256: str
    duration_s: float
    bandwidth_hz: float
    bytes_per_s: float


@dataclass
class Group:
    """Copies of one another, and groups of which the best recording is a part of one of these."""

    members: list[Member]
    parent: Group | None = None
    parts: list[Group] = field(default_factory=list)

    @property
    def best(self) -> Member:
        longest_s = max(member.duration_s for member in self.members)
        left = [member for member in self.members if member.duration_s >= (1 - SHORTER) * longest_s]
        widest_hz = max(member.bandwidth_hz for member in left)
        left = [member for member in left if member.bandwidth_hz >= (1 - NARROWER) * widest_hz]
        return min(left, key=lambda member: (-member.bytes_per_s, member.number))

    def everyone(self) -> list[Member]:
        return [*self.members, *(member for part in self.parts for member in part.everyone())]


def find(
    connection: duckdb.DuckDBPyConnection, lake: Lake, selection: Selection, batches: Sequence[str]
) -> list[Group]:
    """The groups of several recordings; table `samples` (batch, recording_id, pcm_sha256, duration_s, bandwidth_hz) is
    of all recordings in the order in which they were met."""
    assert selection.matches is not None
    _read(connection, lake, selection.matches, batches)
    links = connection.execute(
        f"SELECT a.rowid, b.rowid, share, other_share FROM ({SHARED}) AS s "
        "JOIN samples AS a ON a.recording_id = s.recording_id JOIN samples AS b ON b.recording_id = s.other_id "
        f"WHERE greatest(share, other_share) >= {float(selection.duplicate_share)!r} ORDER BY ALL"
    ).fetchall()
    links += connection.execute(
        "SELECT s.rowid, first, 1, 1 FROM samples AS s JOIN (SELECT pcm_sha256, min(rowid) AS first FROM samples "
        "GROUP BY pcm_sha256 HAVING count(*) > 1) USING (pcm_sha256) WHERE s.rowid <> first ORDER BY ALL"
    ).fetchall()
    members = _members(connection, {number for link in links for number in link[:2]})
    return grouped(members, links, selection.duplicate_share)


def _read(connection: duckdb.DuckDBPyConnection, lake: Lake, mark: str, batches: Sequence[str]) -> None:
    """Tables `found`, of all matches, and `sizes`, the bytes of recordings."""
    connection.execute("CREATE TABLE found (recording_id VARCHAR, other_id VARCHAR, share DOUBLE, other_share DOUBLE)")
    columns = ["recording_id", "other_id", "share", "other_share"]
    for part in joined(lake.read_each(batches, partial(matches_key, mark), columns)):
        connection.register("matches_read", part)
        connection.execute("INSERT INTO found SELECT recording_id, other_id, share, other_share FROM matches_read")
    connection.execute("CREATE TABLE sizes (recording_id VARCHAR, size_bytes BIGINT)")
    for part in joined(lake.read_each(batches, lake.recordings_key, ["recording_id", "size_bytes"])):
        connection.register("sizes_read", part)
        connection.execute("INSERT INTO sizes SELECT recording_id, size_bytes FROM sizes_read")


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
    """Groups by links: two numbers of members and the share of each that lies in the other; parts with their wholes."""
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

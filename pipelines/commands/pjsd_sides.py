"""The sides of `speechmill study pjsd`: phones of a lake, of a part of it, or of sound that is recognised first.

A side is counted out: which recordings were meant, which of them failed, have no phones, or were not drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from manifests.choice import ChoiceError
from manifests.look.targets import Target, resolve
from manifests.sql import reading
from manifests.windows import union
from runtime.errors import SpeechmillError
from studies.ngrams import Corpus

if TYPE_CHECKING:
    from pipelines.recipes.recipe import Recipe

STAGES = ("vad", "phonemes")
"""What sound is measured by."""
FETCHED = 64
"""Recordings whose phones are fetched at a time."""


@dataclass(frozen=True)
class Part:
    """Which phones of a lake are meant."""

    where: str = "true"
    """SQL condition over recordings and all that was measured of them; with a selection over their verdicts, too."""
    windows: str | None = None
    """SQL condition over windows of the selection: only phones that begin inside these are meant."""
    selection: str | None = None
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Fingerprints of stages that were measured with several settings."""


@dataclass(frozen=True)
class Side:
    """A corpus with what it was made of; recordings add up: meant = used + failed + without phones + not drawn."""

    name: str
    corpus: Corpus
    recogniser: str
    """Name and fingerprint: phones of different ones cannot be compared."""
    stage: str
    """Fingerprint of the stage, which voice activity has a part in."""
    meant: int
    failed: int
    """Recordings without a result of the stage: they failed, or were not annotated yet."""
    without_phones: int
    not_drawn: int
    """Recordings beyond the number of phones that is looked at."""

    def as_dict(self) -> dict[str, Any]:
        """What JSON tells of the side."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "corpus"}
        stretches = len(set(self.corpus.stretch_of.tolist()))
        return told | {"used": len(self.corpus.clips), "phones": len(self.corpus.phones), "stretches": stretches}


def lake_of(name: str, part: Part) -> Target | None:
    """The lake, or the part of one, that `name` names; None where it names sound. Raises ChoiceError as `resolve`."""
    try:
        target = resolve(name, part.selection, None, part.stages)
    except ChoiceError:
        if "://" in name and not (part.selection or part.stages):  # whether sound is there, ingest tells
            return None
        raise
    return target if target.lake else None


def of_lake(name: str, target: Target, part: Part, phones: int, seed: int = 0) -> Side:
    """The recordings of a lake that `part` means, drawn by a hash of their ids until they have so many phones.

    Equal seeds draw alike from any lake, so that a part and its whole share recordings. Memory grows with `phones`.
    Raises SpeechmillError where the lake has no phonemes, or those of several recognisers.
    """
    choice = target.choice
    if "phonemes" not in choice.stages:
        if several := choice.several.get("phonemes"):
            what = f"{name}: phonemes were measured with several settings: {', '.join(several)}"
            raise SpeechmillError(what, f"name one: --stage phonemes={several[0]}")
        what = f"{name} has no phonemes"
        raise SpeechmillError(what, f"measure them: speechmill annotate phonemes --lake {name}")
    if part.windows is not None and choice.selection is None:
        raise SpeechmillError(f"{name} has no selection, whose windows are asked for", "run `speechmill select` first")
    with target.connect() as connection:
        _draw(connection, part, "judged" if choice.selection else "annotations", phones, seed)
        counts = connection.execute(
            "SELECT count(*), count(*) FILTER (recogniser IS NULL), count(*) FILTER (phones = 0), "
            "count(*) FILTER (phones > 0 AND NOT drawn), list(DISTINCT recogniser) FILTER (recogniser IS NOT NULL) "
            "FROM pool"
        ).fetchall()[0]
        corpus = Corpus.of(_clips(connection, part.windows is not None))
    meant, failed, without, not_drawn, recognisers = counts
    if not recognisers:
        what = f"{name}: none of the {meant:,} recordings that are meant has phonemes"
        raise SpeechmillError(what, "loosen the condition, or annotate the lake first")
    if len(recognisers) > 1:
        raise SpeechmillError(
            f"{name} has phones of several recognisers: {', '.join(sorted(recognisers))}",
            "delete the folder of the stage and annotate again",
        )
    return Side(name, corpus, recognisers[0], choice.stages["phonemes"], meant, failed, without, not_drawn)


def _draw(connection: duckdb.DuckDBPyConnection, part: Part, table: str, phones: int, seed: int) -> None:
    """Make the tables `pool`, of the recordings that are meant, and `spans`, of the windows if these are asked for."""
    asked = f"SELECT recording_id, phones, recogniser FROM {table} WHERE ({part.where})"
    order = f"md5(recording_id || '{int(seed)}'), recording_id"
    if part.windows is not None:
        spans = (
            "SELECT recording_id, list([start_s, start_s + duration_s]) AS spans "
            f"FROM windows WHERE ({part.windows}) GROUP BY recording_id"
        )
        connection.execute(f"CREATE TEMP TABLE spans AS {reading(connection, spans)}")
        asked = f"SELECT * FROM ({asked}) SEMI JOIN spans USING (recording_id)"
    connection.execute(
        "CREATE TEMP TABLE pool AS SELECT *, coalesce(sum(phones) OVER "
        f"(ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < {int(phones)} AS drawn "
        f"FROM ({reading(connection, asked)})"
    )


def _clips(connection: duckdb.DuckDBPyConnection, in_windows: bool) -> Iterator[tuple[str, list[list[str]]]]:
    """The stretches of every recording that was drawn and has phones, in order of ids."""
    spans = "spans" if in_windows else "NULL"
    join = "JOIN spans USING (recording_id)" if in_windows else ""
    found = connection.execute(
        f"SELECT recording_id, stretches, {spans} FROM phonemes JOIN pool USING (recording_id) {join} "
        "WHERE drawn AND pool.phones > 0 ORDER BY recording_id"
    )
    while rows := found.fetchmany(FETCHED):
        for recording_id, stretches, windows in rows:
            inside = None if windows is None else union([(start, end) for start, end in windows])
            yield recording_id, [part for stretch in stretches for part in within(stretch, inside)]


def within(stretch: Mapping[str, Any], spans: Sequence[tuple[float, float]] | None) -> list[list[str]]:
    """The phones of a stretch of speech, in parts that each begin inside one of the spans (start_s, end_s).

    All of them in one part where there are no spans.
    """
    if spans is None:
        return [stretch["phones"]]
    phones = list(zip(stretch["phones"], stretch["starts_ms"], strict=True))
    parts = [[phone for phone, at_ms in phones if start <= at_ms / 1000 < end] for start, end in spans]
    return [part for part in parts if part]


def narrowed(recipe: Recipe) -> Recipe:
    """A recipe with the stages alone that phonemes need. Raises SpeechmillError where it has no phonemes."""
    if "phonemes" not in recipe.stages:
        raise SpeechmillError(f"the recipe {recipe.name} has no phonemes", "add --set annotate.phonemes={}")
    stages = {name: settings for name, settings in recipe.stages.items() if name in STAGES}
    return dataclasses.replace(recipe, stages=stages)

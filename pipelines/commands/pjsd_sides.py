"""The two sides of `speechmill study pjsd`: phones of a lake, of a part of it, or of sound that is recognised first.

Every recording of a side is accounted for: it was used, failed, has no phones, or was not drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from manifests.choice import ChoiceError
from manifests.commands.targets import Target, resolve
from manifests.sql import read_only
from manifests.windows import union
from runtime.errors import SpeechmillError
from studies.ngrams import Corpus

if TYPE_CHECKING:
    from pipelines.recipes.recipe import Recipe

STAGES = ("vad", "phonemes")
"""The stages that sound goes through."""
FETCHED = 64
"""Number of recordings whose phones are fetched at a time."""


@dataclass(frozen=True)
class Part:
    """The part of a lake whose phones are compared."""

    where: str = "true"
    """SQL condition over the view `recordings`."""
    windows: str | None = None
    """SQL condition over the view `windows`: only phones that begin inside such windows are used."""
    selection: str | None = None
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Fingerprints of stages that were measured with several settings."""


@dataclass(frozen=True)
class Side:
    """A corpus and the counts of its recordings: meant = used + failed + without phones + not drawn."""

    name: str
    corpus: Corpus
    recogniser: str
    """Name and fingerprint. Phones of different recognisers cannot be compared."""
    stage: str
    """Fingerprint of the stage `phonemes`, which depends on the settings of voice activity detection."""
    meant: int
    failed: int
    """Recordings without a result of the stage: they failed, or were not annotated yet."""
    without_phones: int
    not_drawn: int
    """Recordings that were not needed to reach the requested number of phones."""

    def as_dict(self) -> dict[str, Any]:
        """The side as JSON shows it."""
        described = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "corpus"
        }
        stretches = len(set(self.corpus.stretch_of.tolist()))
        return described | {"used": len(self.corpus.clips), "phones": len(self.corpus.phones), "stretches": stretches}


def open_part(name: str, part: Part) -> Target | None:
    """The lake, or the part of one, called `name`; None where it names sound. Raises ChoiceError as `resolve` does."""
    try:
        target = resolve(name, part.selection, None, part.stages)
    except ChoiceError:
        if "://" in name and not (part.selection or part.stages):  # ingest finds out whether there is sound
            return None
        raise
    return target if target.lake else None


def side_of_lake(name: str, target: Target, part: Part, phones: int, seed: int = 0) -> Side:
    """Draw recordings of `part` of a lake, by a hash of their ids, until they have `phones` phones.

    Equal seeds draw the same recordings from any lake, so that a part and its whole share recordings. Memory grows with
    `phones`. Raises SpeechmillError where the lake has no phonemes, or those of several recognisers.
    """
    choice = target.choice
    if "phonemes" not in choice.stages:
        if several := choice.several.get("phonemes"):
            what = f"{name}: phonemes were measured with several settings: {', '.join(several)}"
            raise SpeechmillError(what, f"name one: --stage phonemes={several[0]}")
        what = f"{name} has no phonemes"
        raise SpeechmillError(what, f"measure them: speechmill annotate phonemes --lake {name}")
    if part.windows is not None and choice.selection is None:
        raise SpeechmillError(f"{name} has no selection, so that it has no windows", "run `speechmill select` first")
    with target.connect() as connection:
        _draw(connection, part, "recordings", phones, seed)
        counts = connection.execute(
            "SELECT count(*), count(*) FILTER (recogniser IS NULL), count(*) FILTER (phones = 0), "
            "count(*) FILTER (phones > 0 AND NOT drawn), list(DISTINCT recogniser) FILTER (recogniser IS NOT NULL) "
            "FROM pool"
        ).fetchall()[0]
        corpus = Corpus.of(_clips(connection, part.windows is not None))
    meant, failed, without, not_drawn, recognisers = counts
    if not recognisers:
        what = f"{name}: none of the {meant:,} recordings of this part has phonemes"
        raise SpeechmillError(what, "loosen the condition, or annotate the lake first")
    if len(recognisers) > 1:
        raise SpeechmillError(
            f"{name} has phones of several recognisers: {', '.join(sorted(recognisers))}",
            "delete the folder of the stage and annotate again",
        )
    return Side(name, corpus, recognisers[0], choice.stages["phonemes"], meant, failed, without, not_drawn)


def _draw(connection: duckdb.DuckDBPyConnection, part: Part, table: str, phones: int, seed: int) -> None:
    """Create the table `pool` of the recordings of the part and, if it has a condition on windows, their `spans`."""
    asked = f"SELECT recording_id, phones, recogniser FROM {table} WHERE ({part.where})"
    order = f"md5(recording_id || '{int(seed)}'), recording_id"
    if part.windows is not None:
        spans = (
            "SELECT recording_id, list([start_s, start_s + duration_s]) AS spans "
            f"FROM windows WHERE ({part.windows}) GROUP BY recording_id"
        )
        connection.execute(f"CREATE TEMP TABLE spans AS {read_only(connection, spans)}")
        asked = f"SELECT * FROM ({asked}) SEMI JOIN spans USING (recording_id)"
    connection.execute(
        "CREATE TEMP TABLE pool AS SELECT *, coalesce(sum(phones) OVER "
        f"(ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < {int(phones)} AS drawn "
        f"FROM ({read_only(connection, asked)})"
    )


def _clips(connection: duckdb.DuckDBPyConnection, in_windows: bool) -> Iterator[tuple[str, list[list[str]]]]:
    """The stretches of phones of every drawn recording that has phones, in order of ids."""
    spans = "spans" if in_windows else "NULL"
    join = "JOIN spans USING (recording_id)" if in_windows else ""
    found = connection.execute(
        f"SELECT recording_id, stretches, {spans} FROM phonemes JOIN pool USING (recording_id) {join} "
        "WHERE drawn AND pool.phones > 0 ORDER BY recording_id"
    )
    while rows := found.fetchmany(FETCHED):
        for recording_id, stretches, windows in rows:
            inside = None if windows is None else union([(start, end) for start, end in windows])
            yield recording_id, [part for stretch in stretches for part in phones_in_spans(stretch, inside)]


def phones_in_spans(stretch: Mapping[str, Any], spans: Sequence[tuple[float, float]] | None) -> list[list[str]]:
    """The phones of a stretch of speech that begin inside each span (start_s, end_s), one list for each span.

    Without spans, all phones in one list.
    """
    if spans is None:
        return [stretch["phones"]]
    phones = list(zip(stretch["phones"], stretch["starts_ms"], strict=True))
    parts = [[phone for phone, at_ms in phones if start <= at_ms / 1000 < end] for start, end in spans]
    return [part for part in parts if part]


def with_phoneme_stages(recipe: Recipe) -> Recipe:
    """The recipe with only the stages that phonemes need. Raises SpeechmillError where it has no phonemes."""
    if "phonemes" not in recipe.stages:
        raise SpeechmillError(f"the recipe {recipe.name} has no phonemes", "add --set annotate.phonemes={}")
    stages = {name: settings for name, settings in recipe.stages.items() if name in STAGES}
    return dataclasses.replace(recipe, stages=stages)

"""The amount of training data in a dataset of a lake, from the ledger and the list of shards of a version."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import folders
from manifests.existing import check_lake
from manifests.lake import Lake
from manifests.versions import versions
from runtime.errors import SpeechmillError
from studies.laws.grid import Sound

REPEATED = ("repeated_context_tokens", "repeated_continuation_tokens")


def sound_of_dataset(
    place: str, dataset: str, version: int | None, split: str, patch: int, count_context: bool, encoder: str | None
) -> Sound:
    """Return the rates and amounts of one split of a dataset, by default of its newest version.

    Raises:
        SpeechmillError: The lake, dataset, version, split or patch size does not exist, or another encoder made the
            dataset.
    """
    lake = Lake.at(place)
    check_lake(lake, place)
    names = folders(lake, "datasets")
    if dataset not in names:
        raise SpeechmillError(f"no dataset {dataset} in {place}", f"choose from: {', '.join(names) or 'none'}")
    published = versions(lake, dataset)
    if version is None:
        chosen = published[-1] if published else None
    else:
        chosen = next((record for record in published if record.version == version), None)
    if chosen is None:
        numbers = ", ".join(str(record.version) for record in published) or "none"
        raise SpeechmillError(
            f"no version {version or ''} of {dataset} in {place}".replace("  ", " "),
            f"there are versions: {numbers}; `speechmill encode` finishes one",
        )
    folder = f"datasets/{dataset}/{chosen.folder}"
    ledger = lake.read(f"{folder}/ledger.parquet")
    shards = lake.read(f"{folder}/shards.parquet")
    made_by = str(ledger["encoder"][0]) if len(ledger) else ""
    if encoder is not None and encoder not in (made_by, made_by.partition("-")[0]):
        raise SpeechmillError(
            f"{dataset} was made by {made_by}, not by {encoder}", "use another --dataset, or leave out --encoder"
        )
    splits = sorted(set(ledger["split"].to_pylist()))
    if split not in splits:
        raise SpeechmillError(f"{dataset} has no split {split}", f"--split takes: {', '.join(splits) or 'none'}")
    rows = _where(ledger, split=split, patch=patch)
    if not len(rows):
        raise SpeechmillError(f"{dataset} counts no tokens of {patch} frames", "--patch takes 1 to 6")
    hours, frames = _sum(rows, "hours"), _sum(rows, "frames")
    context, continuation = _sum(rows, "context_tokens"), _sum(rows, "continuation_tokens")
    tokens = context + continuation if count_context else continuation
    repeated = _sum(rows, "repeated_continuation_tokens")
    repeated += _sum(rows, "repeated_context_tokens") if count_context else 0
    if not hours or not tokens:
        raise SpeechmillError(f"the split {split} of {dataset} has no tokens", "choose another one with --split")
    return Sound(
        frames / hours,
        tokens / hours,
        tokens / (context + continuation),
        _sum(_where(shards, split=split), "array_bytes") / frames,
        patch,
        tokens,
        repeated if all(rows[name].null_count == 0 for name in REPEATED) else None,
        f"datasets/{dataset} version {chosen.version}, split {split}, encoder {made_by}: {hours:,.4g} hours",
    )


def _where(table: pa.Table, **values: object) -> pa.Table:
    for name, value in values.items():
        table = table.filter(pc.equal(table[name], value))
    return table


def _sum(table: pa.Table, column: str) -> float:
    return float(pc.sum(table[column]).as_py() or 0)

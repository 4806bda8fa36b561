"""Choose the selection, the dataset and the results of stages that a command reads: those it names, or the newest.

Stages that the selection did not read are chosen too, if it is clear which of their results are meant. So everything
that was measured can be queried, whatever was selected last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from manifests import schemas
from manifests.lake import Lake
from manifests.names import LONGEST_OF_FOLDER, checked_name

FIRST = {"selections": "selection.json", "datasets": "plan.json"}
"""The file of a selection or a dataset that is written first."""


class ChoiceError(ValueError):
    """A requested part of the lake is missing or ambiguous; `remedy` lists the parts that exist."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Choice:
    """The fingerprint of each stage, the selection and the dataset that a command reads."""

    stages: Mapping[str, str] = field(default_factory=dict)
    selection: str | None = None
    dataset: str | None = None
    others: Mapping[str, str | None] = field(default_factory=dict)
    """The stages in `stages` that the selection did not read, each with the newest selection that did, if any."""
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stages that are not in `stages` because they were measured with several settings, and neither a selection nor an
    option says which of their fingerprints is meant."""
    made_of: str | None = None
    """The selection from which the dataset was made; it may differ from `selection` if both were named."""
    newest_of: int = 0
    """The number of selections of which this is the newest; 0 if the selection or its dataset was named."""

    @property
    def own(self) -> dict[str, str]:
        """The stages that the selection read, or that were named."""
        return {stage: fingerprint for stage, fingerprint in self.stages.items() if stage not in self.others}

    def as_dict(self) -> dict[str, Any]:
        """The choice as commands print it in JSON."""
        return {
            "selection": self.selection,
            "dataset": self.dataset,
            "stages": dict(self.stages),
            "other_stages": dict(self.others),
        }


def choose(
    lake: Lake, selection: str | None = None, dataset: str | None = None, stages: Mapping[str, str] | None = None
) -> Choice:
    """Choose what is named, and otherwise the newest selection, the dataset made from it and the stages that it read.

    For a stage that this selection did not read, the fingerprint is that of the newest selection that read it, or the
    only one in the lake.

    Raises:
        ChoiceError: The lake has no selection, dataset or fingerprint of a given name; or it has no selection and a
            stage has several fingerprints.
    """
    named = stages or {}
    selections, datasets = folders(lake, "selections"), folders(lake, "datasets")
    _check("selection", selection, selections)
    _check("dataset", dataset, datasets)
    by_stage = _fingerprints(lake)
    for stage, fingerprint in named.items():
        existing = [f"{stage}-{fingerprint}" for stage in by_stage for fingerprint in by_stage[stage]]
        _check(f"fingerprint of stage {stage}", f"{stage}-{fingerprint}", existing)
    made_of = {name: _made_of(lake, name) for name in datasets}
    newest_of = 0
    if selection is None and dataset is not None and (origin := made_of[dataset]) is not None:
        if origin not in selections:
            what = f"the dataset {dataset} was made from the selection {origin}, which is not in the lake"
            raise ChoiceError(what, "run `speechmill select` with its recipe again, or name another with --selection")
        selection = origin
    if selection is None:
        by_age = _by_age(lake, "selections", selections)
        selection, newest_of = next(iter(by_age), None), len(by_age)
    if dataset is None:
        dataset = next(iter(_by_age(lake, "datasets", [name for name in datasets if made_of[name] == selection])), None)
    own = {**(stages_read(lake, selection) if selection else {}), **named}
    others = _others(lake, selection, own, by_stage)
    several = {
        stage: fingerprints for stage, fingerprints in by_stage.items() if stage not in own and stage not in others
    }
    if selection is None:
        for stage, fingerprints in several.items():
            raise ChoiceError(
                f"stage {stage} was measured with several settings: {', '.join(fingerprints)}",
                f"name one: --stage {stage}={fingerprints[0]}",
            )
    chosen = own | {stage: fingerprint for stage, (fingerprint, _) in others.items()}
    return Choice(
        {stage: chosen[stage] for stage in schemas.STAGES if stage in chosen},
        selection,
        dataset,
        {stage: reader for stage, (_, reader) in others.items()} if selection else {},
        several,
        dataset and made_of[dataset],
        newest_of,
    )


def selections_of(lake: Lake) -> list[dict[str, Any]]:
    """List the selections, the newest first: when each was made, what it keeps, its stages, and its datasets.

    Counts are null if `select` did not finish. The first one that it finished is the default of commands.
    """
    names = folders(lake, "selections")
    finished = _by_age(lake, "selections", names)
    written = _written(lake, "selections", names)
    datasets = {name: _made_of(lake, name) for name in folders(lake, "datasets")}
    rows = []
    for name in sorted(written, key=lambda name: (-written[name], name)):
        recordings = windows = {"count": None, "hours": None}
        if name in finished:
            funnel = lake.read_json(f"selections/{name}/funnel.json", "recordings", "windows")
            recordings, windows = funnel["recordings"]["kept"], funnel["windows"]["kept"]
        row: dict[str, Any] = {
            "selection": name,
            "recipe": name.rpartition("-")[0] or name,
            "made": datetime.fromtimestamp(written[name] // 10**9, UTC).isoformat(),
            "default": name == next(iter(finished), None),
        }
        row |= {"recordings": recordings["count"], "windows": windows["count"], "hours": windows["hours"]}
        row |= {
            "stages": stages_read(lake, name),
            "datasets": [dataset for dataset, origin in datasets.items() if origin == name],
        }
        rows.append(row)
    return rows


def folders(lake: Lake, prefix: str) -> list[str]:
    """Names of the folders directly under `prefix`, sorted."""
    selector = pafs.FileSelector(prefix, allow_not_found=True)
    infos = lake.storage.filesystem().get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)


def stages_read(lake: Lake, selection: str) -> dict[str, str]:
    """The stages that a selection read, each with its fingerprint, in the order in which stages run."""
    stored = lake.read_json(f"selections/{selection}/selection.json", "stages")["stages"]
    return {stage: stored[stage] for stage in schemas.STAGES if stage in stored}


def measured_in(lake: Lake, stage: str) -> list[tuple[str, str | None]]:
    """Pairs of a fingerprint of a stage and a selection that read it; the selection is None if none did."""
    pairs: list[tuple[str, str | None]] = []
    names = _by_age(lake, "selections", folders(lake, "selections"))
    read = {name: stages_read(lake, name).get(stage) for name in names}
    for fingerprint in _fingerprints(lake).get(stage, []):
        pairs += [(fingerprint, name) for name in names if read[name] == fingerprint] or [(fingerprint, None)]
    return pairs


def _check(what: str, name: str | None, known: list[str]) -> None:
    if name is None:
        return
    try:
        checked_name(name, what, LONGEST_OF_FOLDER)
    except ValueError as error:
        raise ChoiceError(str(error), f"there is: {', '.join(known) or 'none'}") from error
    if name not in known:
        raise ChoiceError(f"no {what} {name!r}", f"there is: {', '.join(known) or 'none'}")


def _made_of(lake: Lake, dataset: str) -> str | None:
    """The selection of a dataset, as its plan names it; None without a plan."""
    try:
        plan = lake.read_json(f"datasets/{dataset}/plan.json", "selection")
    except FileNotFoundError:
        return None
    return str(plan["selection"])


def _written(lake: Lake, prefix: str, names: Iterable[str], file: str | None = None) -> dict[str, int]:
    """When a file of each of these folders was written, in ns; folders without that file are left out."""
    names = list(names)
    infos = lake.storage.filesystem().get_file_info([f"{prefix}/{name}/{file or FIRST[prefix]}" for name in names])
    there = zip(names, infos, strict=True)
    return {name: info.mtime_ns or 0 for name, info in there if info.type == pafs.FileType.File}


def _by_age(lake: Lake, prefix: str, names: Iterable[str]) -> list[str]:
    """Sort folders by when their first file was written, the newest first, without unfinished selections."""
    written = _written(lake, prefix, names)
    if prefix == "selections":
        finished = _written(lake, prefix, written, "funnel.json")
        written = {name: written[name] for name in finished}
    return sorted(written, key=lambda name: (written[name], name), reverse=True)


def _fingerprints(lake: Lake) -> dict[str, list[str]]:
    """The fingerprints of each stage that has results in the lake."""
    by_stage: dict[str, list[str]] = {}
    for name in folders(lake, "annotations"):
        stage, _, fingerprint = name.rpartition("-")
        if stage in schemas.STAGES:
            by_stage.setdefault(stage, []).append(fingerprint)
    return by_stage


def _others(
    lake: Lake, selection: str | None, own: Mapping[str, str], by_stage: Mapping[str, list[str]]
) -> dict[str, tuple[str, str | None]]:
    """Fingerprints of measured stages that are not in `own`, each with the newest selection that read it."""
    missing = {stage: fingerprints for stage, fingerprints in by_stage.items() if stage not in own}
    others: dict[str, tuple[str, str | None]] = {}
    if missing and selection is not None:
        for name in _by_age(lake, "selections", folders(lake, "selections")):
            for stage, fingerprint in stages_read(lake, name).items():
                if fingerprint in missing.get(stage, []):
                    others.setdefault(stage, (fingerprint, name))
    only = {stage: (fingerprints[0], None) for stage, fingerprints in missing.items() if len(fingerprints) == 1}
    return only | others

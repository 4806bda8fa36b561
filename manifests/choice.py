"""Which selection, dataset and results of stages of a lake are looked at: what is named, else the newest.

A stage that the selection did not read is looked at too, where it is known which of its results are meant, so that
what was measured is found whatever was selected last.
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
    """What was asked for is not in the lake, or there are several; `remedy` lists what there is."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Choice:
    """Which fingerprint of each stage, which selection and which dataset of a lake are looked at."""

    stages: Mapping[str, str] = field(default_factory=dict)
    selection: str | None = None
    dataset: str | None = None
    others: Mapping[str, str | None] = field(default_factory=dict)
    """The stages among `stages` that the selection did not read, each with a selection that did, if there is one."""
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Fingerprints of the stages that are not looked at: they were measured with several settings, and no selection
    and no option says which of them is meant."""
    made_of: str | None = None
    """The selection that the dataset was made of, which may be another one where both were named."""
    newest_of: int = 0
    """Of how many selections this is the newest; 0 where it was named, by itself or by its dataset."""

    @property
    def own(self) -> dict[str, str]:
        """The stages that the selection read, or that were named."""
        return {stage: mark for stage, mark in self.stages.items() if stage not in self.others}

    def as_dict(self) -> dict[str, Any]:
        """The choice as the JSON of a command tells it."""
        return {
            "selection": self.selection,
            "dataset": self.dataset,
            "stages": dict(self.stages),
            "other_stages": dict(self.others),
        }


def choose(
    lake: Lake, selection: str | None = None, dataset: str | None = None, stages: Mapping[str, str] | None = None
) -> Choice:
    """What is named, and for the rest the newest selection, the dataset made of it and the stages it read.

    A stage that it did not read is looked at as the newest selection that did read it, or as the only fingerprint
    that there is. Raises ChoiceError, with what there is, for a name that the lake lacks, and without any selection
    for a stage with several fingerprints.
    """
    named = stages or {}
    selections, datasets = folders(lake, "selections"), folders(lake, "datasets")
    _check("selection", selection, selections)
    _check("dataset", dataset, datasets)
    marks = _marks(lake)
    for stage, mark in named.items():
        known = [f"{stage}-{mark}" for stage in marks for mark in marks[stage]]
        _check(f"fingerprint of stage {stage}", f"{stage}-{mark}", known)
    made_of = {name: _made_of(lake, name) for name in datasets}
    newest_of = 0
    if selection is None and dataset is not None and (of := made_of[dataset]) is not None:
        if of not in selections:
            what = f"the dataset {dataset} was made of the selection {of}, which is not in the lake"
            raise ChoiceError(what, "run `speechmill select` with its recipe again, or name another with --selection")
        selection = of
    if selection is None:
        by_age = _by_age(lake, "selections", selections)
        selection, newest_of = next(iter(by_age), None), len(by_age)
    if dataset is None:
        dataset = next(iter(_by_age(lake, "datasets", [name for name in datasets if made_of[name] == selection])), None)
    own = {**(stages_read(lake, selection) if selection else {}), **named}
    others = _others(lake, selection, own, marks)
    several = {stage: found for stage, found in marks.items() if stage not in own and stage not in others}
    if selection is None:
        for stage, found in several.items():
            raise ChoiceError(
                f"stage {stage} was measured with several settings: {', '.join(found)}",
                f"name one: --stage {stage}={found[0]}",
            )
    chosen = own | {stage: mark for stage, (mark, _) in others.items()}
    return Choice(
        {stage: chosen[stage] for stage in schemas.STAGES if stage in chosen},
        selection,
        dataset,
        {stage: holder for stage, (_, holder) in others.items()} if selection else {},
        several,
        dataset and made_of[dataset],
        newest_of,
    )


def selections_of(lake: Lake) -> list[dict[str, Any]]:
    """Every selection, the newest first: when it was made, what it keeps, its stages, and the datasets made of it.

    Counts are null where selecting did not come to its end. Of those that did, the first is looked at by default.
    """
    names = folders(lake, "selections")
    finished = _by_age(lake, "selections", names)
    written = _written(lake, "selections", names)
    datasets = {name: _made_of(lake, name) for name in folders(lake, "datasets")}
    found = []
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
        row |= {"stages": stages_read(lake, name), "datasets": [one for one, of in datasets.items() if of == name]}
        found.append(row)
    return found


def folders(lake: Lake, prefix: str) -> list[str]:
    """Names of the folders right under `prefix`, in order."""
    selector = pafs.FileSelector(prefix, allow_not_found=True)
    infos = lake.storage.filesystem().get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)


def stages_read(lake: Lake, selection: str) -> dict[str, str]:
    """The stages that a selection read, each with its fingerprint, in the order of the stages."""
    stored = lake.read_json(f"selections/{selection}/selection.json", "stages")["stages"]
    return {stage: stored[stage] for stage in schemas.STAGES if stage in stored}


def measured_in(lake: Lake, stage: str) -> list[tuple[str, str | None]]:
    """Every fingerprint of a stage with each selection that read it, None where none did."""
    found: list[tuple[str, str | None]] = []
    names = _by_age(lake, "selections", folders(lake, "selections"))
    read = {name: stages_read(lake, name).get(stage) for name in names}
    for mark in _marks(lake).get(stage, []):
        found += [(mark, name) for name in names if read[name] == mark] or [(mark, None)]
    return found


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
    """The selection of a dataset, as its plan says."""
    try:
        plan = lake.read_json(f"datasets/{dataset}/plan.json", "selection")
    except FileNotFoundError:
        return None
    return str(plan["selection"])


def _written(lake: Lake, prefix: str, names: Iterable[str], file: str | None = None) -> dict[str, int]:
    """When a file of each of these folders was written, in ns; those that lack it are left out."""
    names = list(names)
    infos = lake.storage.filesystem().get_file_info([f"{prefix}/{name}/{file or FIRST[prefix]}" for name in names])
    there = zip(names, infos, strict=True)
    return {name: info.mtime_ns or 0 for name, info in there if info.type == pafs.FileType.File}


def _by_age(lake: Lake, prefix: str, names: Iterable[str]) -> list[str]:
    """Folders by when their first file was written, the youngest first; no selection that did not come to its end."""
    written = _written(lake, prefix, names)
    if prefix == "selections":
        finished = _written(lake, prefix, written, "funnel.json")
        written = {name: written[name] for name in finished}
    return sorted(written, key=lambda name: (written[name], name), reverse=True)


def _marks(lake: Lake) -> dict[str, list[str]]:
    """The fingerprints of each stage that the lake holds results of."""
    marks: dict[str, list[str]] = {}
    for name in folders(lake, "annotations"):
        stage, _, mark = name.rpartition("-")
        if stage in schemas.STAGES:
            marks.setdefault(stage, []).append(mark)
    return marks


def _others(
    lake: Lake, selection: str | None, own: Mapping[str, str], marks: Mapping[str, list[str]]
) -> dict[str, tuple[str, str | None]]:
    """Fingerprints of stages that were measured and are not `own`, each with the newest selection that read it."""
    missing = {stage: found for stage, found in marks.items() if stage not in own}
    others: dict[str, tuple[str, str | None]] = {}
    if missing and selection is not None:
        for name in _by_age(lake, "selections", folders(lake, "selections")):
            for stage, mark in stages_read(lake, name).items():
                if mark in missing.get(stage, []):
                    others.setdefault(stage, (mark, name))
    only = {stage: (found[0], None) for stage, found in missing.items() if len(found) == 1}
    return only | others

"""`speechmill report`: the page of manifests.report.report with excerpts of the sound, written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from manifests.choice import ChoiceError, choose
from manifests.install import install
from manifests.lake import Lake
from manifests.whole import whole
from runtime.errors import MissingExtraError, SpeechmillError


def report_lake(
    lake: Lake,
    dataset: str | None,
    selection: str | None,
    stages: Mapping[str, str],
    output: str | None,
    samples: int,
    no_audio: bool,
) -> tuple[Path, int]:
    """Write the report and return its path and its size in bytes. SpeechmillError where there is nothing to tell of."""
    try:
        from manifests.report.report import Report
    except ImportError as error:
        raise MissingExtraError(f"a report needs {error.name}", install(["report"])) from error
    if next(lake.batches(), None) is None:
        what = f"there is no recording in {lake.storage.root}"
        raise SpeechmillError(what, "name a lake that `speechmill ingest` has filled")
    try:
        choice = choose(lake, selection, dataset, stages)
    except ChoiceError as error:
        raise SpeechmillError(str(error), error.remedy) from error
    cut = None
    if not no_audio:
        from pipelines.snippets import snippet  # takes seconds to import

        cut = partial(snippet, config=lake.config)
    page = Report(lake, choice).build(samples, cut)
    name = choice.dataset or Path(lake.storage.root).name
    path = Path(output or f"{name}-report.html")
    data = page.encode()
    with whole(path) as unfinished:
        unfinished.write_bytes(data)
    return path, len(data)

"""`speechmill report`: the page of manifests.report.report with excerpts of the sound, written to a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from manifests.lake import Lake
from manifests.views import ChoiceError, choose
from pipelines.errors import MissingExtraError, SpeechmillError


def report_lake(
    lake: Lake, dataset: str | None, selection: str | None, output: str | None, samples: int, no_audio: bool
) -> tuple[Path, int]:
    """Write the report and return its path and its size in bytes. SpeechmillError where there is nothing to tell of."""
    try:
        from manifests.report.report import Report
    except ImportError as error:
        raise MissingExtraError(f"a report needs {error.name}", "pip install 'speechmill[report]'") from error
    if next(lake.batches(), None) is None:
        what = f"there is no recording in {lake.storage.root}"
        raise SpeechmillError(what, "name a lake that `speechmill ingest` has filled")
    try:
        choice = choose(lake, selection, dataset)
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
    path.write_bytes(data)
    return path, len(data)

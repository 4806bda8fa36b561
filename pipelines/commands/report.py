"""`speechmill report`: writes the page of manifests.report.report with excerpts of the sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.base import Encoder
from manifests.choice import ChoiceError, choose
from manifests.install import install
from manifests.lake import Lake
from manifests.output import say
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
    roundtrips: int = 0,
) -> tuple[Path, int]:
    """Write the report and return its path and its size in bytes.

    For at most `roundtrips` recordings, the page also plays the sound decoded from their features, if the encoder of
    the dataset has a decoder. Raises SpeechmillError for an empty lake.
    """
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
        from pipelines.commands.snippets import RoundTrips, snippet  # the import takes seconds

        encoder = _encoder_of(lake, choice.dataset) if roundtrips and choice.dataset else None
        trips = RoundTrips(encoder, roundtrips, lake.config) if encoder else None

        def cut(row: Mapping[str, Any], start_s: float, kept: bool) -> dict[str, Any]:
            return snippet(row, start_s, lake.config) | (trips(row, start_s) if trips and kept else {})

    page = Report(lake, choice).build(samples, cut)
    name = choice.dataset or Path(lake.storage.root).name
    path = Path(output or f"{name}-report.html")
    data = page.encode()
    with whole(path) as unfinished:
        unfinished.write_bytes(data)
    return path, len(data)


def _encoder_of(lake: Lake, dataset: str) -> Encoder | None:
    """The encoder of a dataset, set up; None if it has no decoder or cannot be loaded on this machine."""
    from pipelines.encoding.dataset import encoder_of

    try:
        encoder = encoder_of(lake, dataset)
        if not encoder.has_decoder:
            return None
        encoder.setup()
    except SpeechmillError as error:
        say(f"no round trips: {error}; remedy: {error.remedy}", error=True)
        return None
    return encoder

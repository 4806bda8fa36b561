"""`manifest validate --deep`: checks that the files of recordings still have the bytes that were ingested."""

from __future__ import annotations

from collections.abc import Iterator

from manifests.exchange.validate import Problem
from manifests.lake import Lake
from pipelines.audio.reach import Recording, check_size, verify_sha256
from runtime.errors import SpeechmillError, UnreachableAudioError


def check_sources(lake: Lake) -> Iterator[Problem]:
    """Hash the file behind every URI of every recording of a lake. Yields a problem for each whose bytes differ.

    URIs that cannot be reached are counted in one note, since their bytes are unknown.
    """
    lost, first = 0, ""

    def check(name: tuple[str, Recording, str]) -> tuple[str, Recording, SpeechmillError | None]:
        key, recording, uri = name
        try:
            check_size(uri, recording["size_bytes"], lake.config)
            verify_sha256(uri, recording["sha256"], lake.config)
        except SpeechmillError as error:
            return key, recording, error
        return key, recording, None

    names = (
        (lake.recordings_key(batch), recording, uri)
        for batch, table in lake.recordings(["recording_id", "uris", "sha256", "size_bytes", "status"])
        for recording in table.to_pylist()
        if recording["status"] == "ok"
        for uri in recording["uris"]
    )
    for key, recording, error in lake.prefetch(check, names):
        if isinstance(error, UnreachableAudioError):
            lost, first = lost + 1, first or str(error)
        elif error:
            yield Problem(key, str(error), error.remedy, 1, recording["recording_id"])
    if lost:
        what = f"{lost:,} names of recordings cannot be reached, so that their bytes were not compared; first: {first}"
        yield Problem("recordings", what, "make them reachable if you need them again", note=True)

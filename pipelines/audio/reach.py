"""The bytes of a recording under whichever of its names still holds them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.audio.files import stat_file
from pipelines.audio.hashing import check_sha256, sha256_of
from runtime.errors import ChangedAudioError, SpeechmillError, UnreachableAudioError
from runtime.failures import Failure, Kind, failed_row, kind_of, to_failure

Result = TypeVar("Result")
Recording = Mapping[str, Any]
"""A row of RECORDINGS."""
FEW = 3
"""Recordings of a unit that are named where it is not committed: all may have gone at once."""


def first_readable(recording: Recording, read: Callable[[str], Result], config: StorageConfig) -> Result:
    """What `read` makes of the first name of a recording under which its bytes are found.

    `read` proves the bytes that it has read. Where it fails in another way, they are proven here: an error of the
    recording counts only if it was met in the recording's own bytes. Raises UnreachableAudioError where some name
    cannot be reached and no other one holds the bytes, ChangedAudioError where all names hold other bytes, and whatever
    else `read` raises.
    """
    lost: list[SpeechmillError] = []
    for uri in recording["uris"]:
        try:
            check_size(uri, recording["size_bytes"], config)
            try:
                return read(uri)
            except Exception as error:
                if kind_of(error) is Kind.RECORDING and not isinstance(error, ChangedAudioError):
                    prove(uri, recording["sha256"], config)
                raise
        except (UnreachableAudioError, ChangedAudioError) as error:
            lost.append(error)
    raise next((error for error in lost if isinstance(error, UnreachableAudioError)), lost[-1])


def unreachable(recording: Recording, config: StorageConfig) -> UnreachableAudioError | None:
    """Why a recording cannot be had at present, or None; asks for the sizes of its files and reads none of them."""
    errors: list[UnreachableAudioError] = []
    for uri in recording["uris"]:
        try:
            check_size(uri, recording["size_bytes"], config)
        except UnreachableAudioError as error:
            errors.append(error)
        except SpeechmillError:
            continue  # other bytes, or no file that could be opened: reading it tells more
        else:
            return None
    return errors[0] if errors else None


def unreachable_among(recordings: Iterable[Recording], lake: Lake, stage: str) -> list[Failure]:
    """The first few of some recordings that cannot be had at present, as failures of `stage`."""
    asked = lake.ahead(lambda recording: (recording, unreachable(recording, lake.config)), recordings)
    found = ((recording["recording_id"], error) for recording, error in asked if error)
    return [to_failure(failed_row(recording_id, error), stage) for recording_id, error in itertools.islice(found, FEW)]


def check_size(uri: str, size_bytes: int | None, config: StorageConfig) -> None:
    """Raise ChangedAudioError where a file is not as long as it was when it was ingested, and as `stat_file`."""
    found = stat_file(uri, config).size_bytes
    if size_bytes is not None and found != size_bytes:
        raise ChangedAudioError(f"{uri!r}: {found:,} bytes, {size_bytes:,} when it was ingested")


def prove(uri: str, sha256: str, config: StorageConfig) -> None:
    """Raise ChangedAudioError unless the bytes of a recording have this hex digest; reads all of them."""
    check_sha256(uri, sha256_of(uri, config), sha256)

"""The bytes of a recording, read under the first of its names that still holds them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT, stat_file
from pipelines.audio.hashing import check_sha256, sha256_of
from runtime.errors import ChangedAudioError, SpeechmillError, UnreachableAudioError
from runtime.failures import Failure, Kind, failed_row, kind_of, to_failure

Result = TypeVar("Result")
Recording = Mapping[str, Any]
"""A row of RECORDINGS."""
MAX_REPORTED = 3
"""Unreachable recordings that are reported of an uncommitted unit, since all of them may be gone at once."""


def first_readable(recording: Recording, read: Callable[[str], Result], config: StorageConfig) -> Result:
    """Call `read` with the first name of a recording under which its bytes are found, and return its result.

    Args:
        recording: A row of RECORDINGS.
        read: Reads the recording under a name, and verifies the sha256 of the bytes that it has read. If it fails in
            another way, the bytes are verified here: an error of the recording counts only if the bytes are those of
            the recording.
        config: How storage is accessed.

    Raises:
        UnreachableAudioError: A name is unreachable, and no other name holds the bytes.
        ChangedAudioError: All names hold other bytes.
        Exception: Whatever else `read` raises.
    """
    errors: list[SpeechmillError] = []
    for uri, error in _checked_names(recording, config):
        try:
            if error is not None:
                raise error
            try:
                return read(uri)
            except Exception as failure:
                if kind_of(failure) is Kind.RECORDING and not isinstance(failure, ChangedAudioError):
                    verify_sha256(uri, recording["sha256"], config)
                raise
        except (UnreachableAudioError, ChangedAudioError) as failure:
            errors.append(failure)
    raise next((error for error in errors if isinstance(error, UnreachableAudioError)), errors[-1])


def first_available_uri(recording: Recording, config: StorageConfig = DEFAULT) -> str:
    """Return the first name of a recording whose file still has its size. The file is not read.

    Raises:
        SpeechmillError: No name has such a file. It is the error of the last name.
    """
    for uri, error in _checked_names(recording, config):
        if error is None:
            return uri
    assert error is not None
    raise error


def unreachable_error(recording: Recording, config: StorageConfig) -> UnreachableAudioError | None:
    """Return why a recording is unreachable at present, or None if it is not. No file is read."""
    unreachable: list[UnreachableAudioError] = []
    for _, error in _checked_names(recording, config):
        if error is None:
            return None
        if isinstance(error, UnreachableAudioError):  # reading tells more of any other error, such as another size
            unreachable.append(error)
    return unreachable[0] if unreachable else None


def find_unreachable(recordings: Iterable[Recording], lake: Lake, stage: str) -> list[Failure]:
    """Return the first few recordings that are unreachable at present, as failures of `stage`."""
    checked = lake.prefetch(lambda recording: (recording, unreachable_error(recording, lake.config)), recordings)
    failed = (failed_row(recording["recording_id"], error) for recording, error in checked if error)
    return [to_failure(row, stage) for row in itertools.islice(failed, MAX_REPORTED)]


def _checked_names(recording: Recording, config: StorageConfig) -> Iterator[tuple[str, SpeechmillError | None]]:
    """Yield each name of a recording, with the error if its file is unreachable or has another size."""
    for uri in recording["uris"]:
        try:
            check_size(uri, recording["size_bytes"], config)
        except SpeechmillError as error:
            yield uri, error
        else:
            yield uri, None


def check_size(uri: str, size_bytes: int | None, config: StorageConfig = DEFAULT) -> None:
    """Compare the size of a file with the size when it was ingested; None is any size.

    Raises:
        ChangedAudioError: The sizes differ.
        SpeechmillError: Whatever `stat_file` raises.
    """
    found = stat_file(uri, config).size_bytes
    if size_bytes is not None and found != size_bytes:
        raise ChangedAudioError(f"{uri!r}: {found:,} bytes, {size_bytes:,} when it was ingested")


def verify_sha256(uri: str, sha256: str, config: StorageConfig) -> None:
    """Read all bytes of a recording, and raise ChangedAudioError unless they have this sha256 (hex digits)."""
    check_sha256(uri, sha256_of(uri, config), sha256)

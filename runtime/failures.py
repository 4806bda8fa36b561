"""Kinds of failures. Only this module decides what an error means for a run, and how a failure is recorded."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from manifests.corrupt import CorruptFileError
from manifests.storage import StorageError
from runtime.errors import (
    MissingExtraError,
    RecipeError,
    SpeechmillError,
    UnreachableAudioError,
)

SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the operating system when the disk, file handles or memory run out."""
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate memory", "bad_alloc",
    "bad allocation",
)  # fmt: skip
"""Words with which PyTorch, ONNX Runtime and CTranslate2 report a failed allocation, in errors of no class of its own.

ONNX Runtime's errors are not even RuntimeErrors."""


class Kind(Enum):
    """What an error means for the run in which it is raised."""

    RECORDING = "recording"
    """The error concerns one recording: it becomes the failed row of that recording, and the run continues."""
    UNREACHABLE = "unreachable"
    """The bytes of a recording are unavailable. Its unit of work is not committed, so that the same command retries it;
    all other units continue."""
    RUN = "run"
    """The error concerns the storage, the machine or the recipe. The run stops, and the same command resumes it."""


def kind_of(error: BaseException) -> Kind:
    """Classify an error. An error without a sign of another kind is attributed to the current recording."""
    if not isinstance(error, Exception) or _is_out_of_resources(error):
        return Kind.RUN
    if isinstance(error, UnreachableAudioError):
        return Kind.UNREACHABLE
    if isinstance(error, StorageError | CorruptFileError | RecipeError | MissingExtraError):
        return Kind.RUN
    # After such an error every call to the device fails in this process, so no other recording could be processed.
    if not isinstance(error, SpeechmillError) and "cuda error" in str(error).lower():
        return Kind.RUN
    return Kind.RECORDING


def _is_out_of_resources(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that the disk, file handles or memory have run out."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SCARCE):
        return True
    # Messages of our own errors quote names of files, which may contain any words.
    if not isinstance(error, SpeechmillError) and any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return True
    return error.__cause__ is not None and _is_out_of_resources(error.__cause__)


@dataclass(frozen=True)
class Failure:
    """A recording that a step could not finish, as a worker reports it to the driver."""

    recording_id: str
    stage: str
    error_type: str
    error: str
    remedy: str = ""

    @property
    def reason(self) -> str:
        return f"{self.stage}: {self.error_type}"


def failed_row(recording_id: str, error: Exception) -> dict[str, Any]:
    """Make the failed row of a recording, with the columns BASE of `manifests.schemas`."""
    name, remedy = type(error).__name__, "report it with this message and the recording"
    if isinstance(error, SpeechmillError):
        remedy = error.remedy
        if error.transient:
            remedy += f"; then run the same command again with --retry-failed {name}"
    return {
        "recording_id": recording_id,
        "status": "failed",
        "error_type": name,
        "error": str(error) or name,
        "remedy": remedy,
    }


def to_failure(row: Mapping[str, Any], stage: str) -> Failure:
    """Convert a failed row to a Failure, as workers report it to the driver."""
    return Failure(row["recording_id"], stage, row["error_type"], row["error"], row["remedy"] or "")

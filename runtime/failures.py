"""Kinds of failure. This module alone decides what an error means for a run, and how a failure is written down."""

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
"""Errors of the operating system that say that the machine has run out of something."""
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate memory", "bad_alloc",
    "bad allocation",
)  # fmt: skip
"""Words with which PyTorch, ONNX Runtime and CTranslate2 report a failed allocation, in errors of no class of its own.

ONNX Runtime's errors are not even RuntimeErrors."""


class Kind(Enum):
    """What an error means for the run in which it was raised."""

    RECORDING = "recording"
    """The fault of one recording: it becomes the failed row of that recording, and the run goes on."""
    UNREACHABLE = "unreachable"
    """The bytes of a recording cannot be had at present. Its unit of work is not committed, so that the same command
    tries it again; all other units go on."""
    RUN = "run"
    """No recording's fault: the storage, the machine or the recipe. The run stops, and the same command resumes it."""


def kind_of(error: BaseException) -> Kind:
    """Sort an error. Whatever has no sign of another kind is taken for the fault of the recording at hand."""
    if not isinstance(error, Exception) or _scarce(error):
        return Kind.RUN
    if isinstance(error, UnreachableAudioError):
        return Kind.UNREACHABLE
    if isinstance(error, StorageError | CorruptFileError | RecipeError | MissingExtraError):
        return Kind.RUN
    # After such an error every call to the device fails in this process, so no later recording could be done.
    if not isinstance(error, SpeechmillError) and "cuda error" in str(error).lower():
        return Kind.RUN
    return Kind.RECORDING


def _scarce(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that the machine has run out of something."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SCARCE):
        return True
    # The words of our own errors quote names of files, which may be any words.
    if not isinstance(error, SpeechmillError) and any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return True
    return error.__cause__ is not None and _scarce(error.__cause__)


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
    """The failed row of a recording: the columns BASE of `manifests.schemas`."""
    name, remedy = type(error).__name__, "report it with this message and the recording"
    if isinstance(error, SpeechmillError):
        remedy = error.remedy
        if error.passing:
            remedy += f"; then run the same command again with --retry-failed {name}"
    return {
        "recording_id": recording_id,
        "status": "failed",
        "error_type": name,
        "error": str(error) or name,
        "remedy": remedy,
    }


def to_failure(row: Mapping[str, Any], stage: str) -> Failure:
    """The failure that a failed row describes, as workers report it to the driver."""
    return Failure(row["recording_id"], stage, row["error_type"], row["error"], row["remedy"] or "")

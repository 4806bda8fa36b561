"""Errors that a person can act on: what is wrong, with which file, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class SpeechmillError(Exception):
    """Something a user did or has; `remedy` says what to do. Shown without a traceback."""

    remedy = ""
    exit_code = 1
    """What the command ends with: 2 for wrong options, as they are on the command line, else 1."""
    passing = False
    """Whether the same recording may well succeed another time: its failed row then says how to try it again."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy or type(self).remedy


class UnreadableAudioError(SpeechmillError):
    """A file that cannot be opened or decoded as sound."""

    remedy = "check that the file is complete and plays; convert it with ffmpeg if its codec is unusual"


class UnreachableAudioError(UnreadableAudioError):
    """The bytes of a recording cannot be had at present: missing, denied, or on a server that does not answer."""

    remedy = "make the file reachable again under its name"
    passing = True


class ChangedAudioError(UnreadableAudioError):
    """The bytes under a recording's name are no longer those that its id is the hash of."""

    remedy = "put the original file back; or ingest again, which makes the new bytes a recording of their own"
    passing = True


class DecodeLimitError(UnreadableAudioError):
    """A recording that costs more time, memory or length than the table [decode] of the recipe allows."""


class DecoderDiedError(UnreadableAudioError):
    """A recording at which the process that decodes crashed or was killed, and again in a fresh process."""

    remedy = "convert it with ffmpeg, or leave it out; if memory ran out, use fewer workers or lower decode.memory_gb"
    passing = True


class OutOfMemoryError(OSError, MemoryError):
    """The machine lacks the memory or the processes to decode at all: the machine's fault, so the run stops."""

    def __init__(self, message: str, remedy: str = "give the machine more memory, or use fewer workers") -> None:
        super().__init__(message)
        self.remedy = remedy


class MissingExtraError(SpeechmillError):
    """An optional package is not installed; the remedy is the pip command that brings it.

    Several of them are told as one by what each needs, and by the extras and bare requirements that bring it.
    """

    needs: Sequence[str] = ()
    extras: Sequence[str] = ()
    bare: Sequence[str] = ()


class WaitingError(SpeechmillError):
    """Batches or shards that were not committed, because recordings in them cannot be had at present."""


class RecipeError(SpeechmillError):
    """A recipe that does not make sense."""


class UnknownRecipeError(RecipeError):
    """A name that is neither a shipped recipe nor a file."""


class OverrideError(RecipeError):
    """A `--set` that does not make sense, alone or together with its recipe, which is right without it."""

    exit_code = 2

"""Errors for users: what is wrong, with which file, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class SpeechmillError(Exception):
    """An error that the user can correct, as `remedy` says. It is shown without a traceback."""

    remedy = ""
    exit_code = 1
    """The exit code of the command: 2 for wrong options, otherwise 1."""
    transient = False
    """Whether the same recording may succeed later; its failed row then says how to retry it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy or type(self).remedy


class UnreadableAudioError(SpeechmillError):
    """A file cannot be opened or decoded as audio."""

    remedy = "check that the file is complete and plays; convert it with ffmpeg if its codec is unusual"


class UnreachableAudioError(UnreadableAudioError):
    """The bytes of a recording are unavailable: the file is missing or denied, or its server does not answer."""

    remedy = "make the file reachable again under its name"
    transient = True


class ChangedAudioError(UnreadableAudioError):
    """The bytes under the name of a recording have changed, so its id is not their hash any more."""

    remedy = "restore the original file; or ingest again, which makes the new bytes a new recording"
    transient = True


class DecodeLimitError(UnreadableAudioError):
    """A recording is longer, or takes more time or memory to decode, than the table [decode] of the recipe allows."""


class DecoderDiedError(UnreadableAudioError):
    """The decoder process crashed or was killed at a recording, and again in a new process."""

    remedy = "convert it with ffmpeg, or leave it out; if memory ran out, use fewer workers or lower decode.memory_gb"
    transient = True


class OutOfMemoryError(OSError, MemoryError):
    """The machine has too little memory, or too few processes, to decode any recording, so the run stops."""

    def __init__(self, message: str, remedy: str = "give the machine more memory, or use fewer workers") -> None:
        super().__init__(message)
        self.remedy = remedy


class MissingExtraError(SpeechmillError):
    """An optional package is not installed; the remedy is the pip command that installs it.

    Several of these errors can be reported as one, with `needs`, `extras` and `bare` of all of them.
    """

    needs: Sequence[str] = ()
    extras: Sequence[str] = ()
    bare: Sequence[str] = ()


class WaitingError(SpeechmillError):
    """Batches or shards were not committed, because recordings in them are unavailable."""


class RecipeError(SpeechmillError):
    """A recipe is not valid."""


class UnknownRecipeError(RecipeError):
    """A name is neither a shipped recipe nor a file."""


class OverrideError(RecipeError):
    """A `--set` is not valid by itself or together with its recipe, which is valid without it."""

    exit_code = 2

"""How a command ends that could not do its work: words for people on stderr, for programs a document, an exit code."""

from __future__ import annotations

import errno
import io
import itertools
import sys
import traceback
from typing import NoReturn

import click

from manifests.output import say, to_json
from pipelines.progress.console import public
from runtime.errors import SpeechmillError

INTERRUPTED = "run the same command again to resume"
BUG = "report it with the lines on stderr"


def end(error: BaseException) -> NoReturn:
    """Tell what stopped a command, and leave with its exit code; a traceback only where it is a mistake of ours."""
    if not isinstance(error, click.ClickException | click.Abort | KeyboardInterrupt | SpeechmillError | OSError):
        error = _damage(error) or error
    if isinstance(error, click.ClickException):
        shown = io.StringIO()
        error.show(shown)
        say(public(shown.getvalue()), error=True, end="")
        _leave(error, error.format_message(), getattr(error, "remedy", "see --help"), error.exit_code)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        say(f"interrupted: {INTERRUPTED}", error=True)
        _leave(error, "interrupted", INTERRUPTED, 130)
    if isinstance(error, SpeechmillError | OSError):
        say(f"error: {_inset(str(error))}\nremedy: {_inset(_remedy(error))}", error=True)
        _leave(error, str(error), _remedy(error), getattr(error, "exit_code", 1))
    say(public("".join(traceback.format_exception(error))), error=True, end="")  # it may quote a name
    _leave(error, str(error), BUG, 1)


def _leave(error: BaseException, message: str, remedy: str, exit_code: int) -> NoReturn:
    """Exit; under --json the error is the one document on stdout."""
    if "--json" in itertools.takewhile(lambda word: word != "--", sys.argv[1:]):
        cause = error.__cause__ if isinstance(error, click.ClickException) else None
        told = {"type": type(cause or error).__name__, "message": public(message), "remedy": public(remedy)}
        say(to_json({"error": told | {"exit_code": exit_code}}, indent=1))
    sys.exit(exit_code)


def _damage(error: BaseException) -> Exception | None:
    """What looks like a mistake of ours may have been met in a damaged file."""
    corrupt = sys.modules.get("manifests.corrupt")
    damage: Exception | None = corrupt.damaged(error) if corrupt else None
    return damage


def _inset(text: str) -> str:
    """Lines of which only the first begins where ours do: a name in an error cannot pose as a line of ours."""
    return public(text).replace("\n", "\n  ")


def _remedy(error: SpeechmillError | OSError) -> str:
    if hasattr(error, "remedy"):
        return str(error.remedy)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again: what is committed stays"
    return "check the disk and the path"

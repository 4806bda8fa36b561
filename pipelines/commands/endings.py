"""How a failed command ends: a message on stderr, an exit code and, with --json, an error document on stdout."""

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
    """Print the error that stopped a command and exit with its code. Only a bug of speechmill prints a traceback."""
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
    say(
        public("".join(traceback.format_exception(error))), error=True, end=""
    )  # a traceback may quote a file name with control characters
    _leave(error, str(error), BUG, 1)


def _leave(error: BaseException, message: str, remedy: str, exit_code: int) -> NoReturn:
    """Exit. With --json, first print the error as the only document on stdout."""
    if "--json" in itertools.takewhile(lambda word: word != "--", sys.argv[1:]):
        cause = error.__cause__ if isinstance(error, click.ClickException) else None
        document = {"type": type(cause or error).__name__, "message": public(message), "remedy": public(remedy)}
        say(to_json({"error": document | {"exit_code": exit_code}}, indent=1))
    sys.exit(exit_code)


def _damage(error: BaseException) -> Exception | None:
    """The damaged file behind an error that looks like a bug, or None."""
    corrupt = sys.modules.get("manifests.corrupt")
    damage: Exception | None = corrupt.damaged(error) if corrupt else None
    return damage


def _inset(text: str) -> str:
    """Indent all lines but the first, so that a file name with line breaks cannot imitate output of speechmill."""
    return public(text).replace("\n", "\n  ")


def _remedy(error: SpeechmillError | OSError) -> str:
    if hasattr(error, "remedy"):
        return str(error.remedy)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again: what is committed stays"
    return "check the disk and the path"

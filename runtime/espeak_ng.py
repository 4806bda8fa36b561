"""The program espeak-ng: what it writes for a text in IPA."""

from __future__ import annotations

import re
import shutil
import subprocess

from runtime.errors import SpeechmillError

TEXT_CHARACTERS = 10_000
"""Of one text: what lies beyond is not read."""
TIMEOUT_S = 60.0


def program() -> str:
    """Where espeak-ng lies. Raises SpeechmillError where it is not installed."""
    found = shutil.which("espeak-ng")
    if not found:
        raise SpeechmillError("the program espeak-ng is not installed", "apt-get install espeak-ng")
    return found


def one_line(text: str) -> str:
    """A text as espeak-ng is given it: between [[ and ]] it would take phonemes by name instead of words."""
    return re.sub(r"[\[\]\s]+", " ", text[:TEXT_CHARACTERS]).strip()


def read(text: str, voice: str, remedy: str) -> str:
    """What `espeak-ng --ipa --sep=_` writes for a text that `one_line` has made, or for several, an empty line apart.

    Raises SpeechmillError, with the remedy of the caller where espeak-ng refuses the voice, and where it does not come
    to an end.
    """
    command = [program(), "-q", "-v", voice, "--ipa", "--sep=_", "--stdin"]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        what = f"espeak-ng did not read {len(text):,} characters within {TIMEOUT_S:g} s"
        raise SpeechmillError(what, "run it again with fewer workers on this machine") from error
    if done.returncode:
        what = f"espeak-ng with the voice {voice!r} ended with {done.returncode}: {done.stderr[-300:]}"
        raise SpeechmillError(what, remedy)
    return done.stdout

"""Transcribe texts to IPA with the program espeak-ng."""

from __future__ import annotations

import re
import shutil
import subprocess

from runtime.errors import SpeechmillError

TEXT_CHARACTERS = 10_000
"""Longest text; the rest of a longer one is ignored."""
TIMEOUT_S = 60.0


def program() -> str:
    """The path of espeak-ng. Raises SpeechmillError if it is not installed."""
    path = shutil.which("espeak-ng")
    if not path:
        raise SpeechmillError("the program espeak-ng is not installed", "apt-get install espeak-ng")
    return path


def one_line(text: str) -> str:
    """Prepare a text for espeak-ng, which would read names of phonemes between [[ and ]] instead of words."""
    return re.sub(r"[\[\]\s]+", " ", text[:TEXT_CHARACTERS]).strip()


def read(text: str, voice: str, remedy: str) -> str:
    """Return what `espeak-ng --ipa --sep=_` writes.

    Args:
        text: A text that `one_line` has prepared, or several ones separated by empty lines.
        voice: A voice of espeak-ng.
        remedy: The remedy of the error if espeak-ng refuses the voice.

    Raises:
        SpeechmillError: espeak-ng refuses the voice, or it does not finish within TIMEOUT_S.
    """
    command = [program(), "-q", "-v", voice, "--ipa", "--sep=_", "--stdin"]
    try:
        result = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        what = f"espeak-ng did not read {len(text):,} characters within {TIMEOUT_S:g} s"
        raise SpeechmillError(what, "run it again with fewer workers on this machine") from error
    if result.returncode:
        what = f"espeak-ng with the voice {voice!r} ended with {result.returncode}: {result.stderr[-300:]}"
        raise SpeechmillError(what, remedy)
    return result.stdout

"""Makes text safe to print and to log: without secrets, and without control characters of a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from manifests.output import printable
from runtime.credentials import redact_credentials

WORD = re.compile(r"\S+")
OPTION = re.compile(r"(?P<name>-{0,2}[A-Za-z][\w.-]*)(=(?P<value>.*))?", re.DOTALL)
SECRET = re.compile(r"(?i)passw|secret|token|credential|(?<![a-z])(key|auth|jwt|sas)(?![a-z])")
"""Matches the names of options whose values are secrets."""
HIDDEN = "***"


def public(text: str) -> str:
    """Return text that may be shown and stored: without passwords or signatures in URLs, and printable."""
    if "://" in text:
        text = WORD.sub(lambda word: redact_credentials(word[0]), text)
    return printable(text)


def public_command(words: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command that may be stored: URLs as in `public`, and no values of secret options.

    >>> list(public_command(["--s3_secret_access_key", "abc", "--set", "storage.profile=me", "--token=abc"]))
    ['--s3_secret_access_key', '***', '--set', 'storage.profile=me', '--token=***']
    """
    hide_next = False
    for word in words:
        option = OPTION.fullmatch(word)
        if hide_next and not word.startswith("-"):
            yield HIDDEN
            hide_next = False
            continue
        secret = option is not None and SECRET.search(option["name"].rpartition(".")[2]) is not None
        hide_next = secret and word.startswith("-") and "=" not in word
        yield f"{option['name']}={HIDDEN}" if option and secret and option["value"] else public(word)

"""Lines for people: to the terminal, to a run's log, without secrets and without what would steer a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from manifests.output import printable
from runtime.credentials import redact_credentials

WORD = re.compile(r"\S+")
OPTION = re.compile(r"(?P<name>-{0,2}[A-Za-z][\w.-]*)(=(?P<value>.*))?", re.DOTALL)
SECRET = re.compile(r"(?i)passw|secret|token|credential|(?<![a-z])(key|auth|jwt|sas)(?![a-z])")
"""What the name of an option has where its value is a secret."""
HIDDEN = "***"


def public(text: str) -> str:
    """Lines as they may be shown and kept: no password or signature of a URL, nothing that a terminal would obey."""
    if "://" in text:
        text = WORD.sub(lambda word: redact_credentials(word[0]), text)
    return printable(text)


def public_command(words: Iterable[str]) -> Iterator[str]:
    """The words of a command as they may be kept: URLs as in `public`, and no value of an option that is a secret.

    >>> list(public_command(["--s3_secret_access_key", "abc", "--set", "storage.profile=me", "--token=abc"]))
    ['--s3_secret_access_key', '***', '--set', 'storage.profile=me', '--token=***']
    """
    hide = False
    for word in words:
        option = OPTION.fullmatch(word)
        if hide and not word.startswith("-"):
            yield HIDDEN
            hide = False
            continue
        secret = option is not None and SECRET.search(option["name"].rpartition(".")[2]) is not None
        hide = secret and word.startswith("-") and "=" not in word
        yield f"{option['name']}={HIDDEN}" if option and secret and option["value"] else public(word)

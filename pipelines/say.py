"""Lines for people: to the terminal, to a run's log, without secrets and without what would steer a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from manifests.output import printable

WORD = re.compile(r"\S+")
OPTION = re.compile(r"(?P<name>-{0,2}[A-Za-z][\w.-]*)(=(?P<value>.*))?", re.DOTALL)
HIDDEN = "***"


def public(text: str) -> str:
    """Lines as they may be shown and kept: no password or signature of a URL, nothing that a terminal would obey."""
    from pipelines.audio.files import secretless  # it needs modules that need this one

    if "://" in text:
        text = WORD.sub(lambda word: secretless(word[0]), text)
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
        secret = option is not None and _is_secret(option["name"].rpartition(".")[2].lstrip("-"))
        hide = secret and word.startswith("-") and "=" not in word
        yield f"{option['name']}={HIDDEN}" if option and secret and option["value"] else public(word)


def _is_secret(name: str) -> bool:
    """Whether an option of this name holds a secret: a parameter of a URL would be one."""
    from pipelines.audio.files import secretless

    url = f"https://host/?{name}=value"
    return secretless(url) != url

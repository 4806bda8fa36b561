"""Escape text that is printed to a terminal, a pipe or a log, so that it cannot control the terminal.

File names, labels in manifests and answers of servers are untrusted. Their control characters (such as ESC), characters
that change the writing direction, other invisible characters and lone surrogates are printed as escapes.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click

UNSEEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
"""Unicode categories of control and format characters, surrogates, and line and paragraph separators."""
IN_WORDS = "\u00ad\u200c\u200d"
"""Format characters that occur in words: the soft hyphen and the zero-width joiner and non-joiner."""


def printable(text: str) -> str:
    r"""Escape everything that a terminal would interpret, except line feeds and tabs.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return _escaped(text, IN_WORDS + "\n\t")


def one_line(text: str) -> str:
    r"""Escape as `printable` does, and line feeds and tabs, too: a file name must not look like a line of output.

    >>> one_line("a.wav\nremedy: none")
    'a.wav\\x0aremedy: none'
    """
    return _escaped(text, IN_WORDS)


def to_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON in which the characters that `printable` escapes are written as escapes of JSON."""
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if _is_unseen(c) and c != "\n" else c for c in text)


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "channel"), counted(2000, "row")
    ('1 channel', '2,000 rows')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print lines for people, to standard error if `error` is set."""
    click.echo(printable(text) + end, nl=False, err=error)


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():  # the usual case, and fast
        return text
    return "".join(_escape(c) if _is_unseen(c) and c not in kept else c for c in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""Text that goes out to a terminal, a pipe or a log: what a name or a server put into it cannot steer a terminal.

Names of files, labels of manifests and answers of servers are in the hands of others. Their control characters (ESC
among them), characters that change the direction of writing, other invisible ones, and halves of surrogate pairs are
shown as escapes.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click

UNSEEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
"""Unicode's categories of control and format characters, surrogates, and separators of lines and paragraphs."""
NEEDED = "\u00ad\u200c\u200d"
"""Format characters that words are spelled with: the soft hyphen, and those that part and join letters."""


def printable(text: str) -> str:
    r"""Text of several lines: everything that a terminal would obey is escaped, but for line feeds and tabs.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return _escaped(text, NEEDED + "\n\t")


def one_line(text: str) -> str:
    r"""As `printable`, line feeds and tabs too: for a name, which must not look like a line of ours.

    >>> one_line("a.wav\nremedy: none")
    'a.wav\\x0aremedy: none'
    """
    return _escaped(text, NEEDED)


def to_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON whose strings are readable, but for what `printable` escapes: JSON's own escapes stand there."""
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if _is_unseen(c) and c != "\n" else c for c in text)


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "channel"), counted(2000, "row")
    ('1 channel', '2,000 rows')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print lines for people, to standard error where they tell of an `error`."""
    click.echo(printable(text) + end, nl=False, err=error)


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():  # the usual case, at the speed of C
        return text
    return "".join(_escape(c) if _is_unseen(c) and c not in kept else c for c in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

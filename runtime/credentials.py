"""Texts without the passwords and signatures of the URLs in them."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote

# The scheme's length is bounded so that no text takes a time that is quadratic in its length.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://")
USER = re.compile(r"(://)[^/?#\\\s\"'<>]*@")
QUERY = re.compile(r"[?&;#]")
SECRET_WORDS = frozenset(["auth", "hmac", "jwt", "key", "pass", "pwd", "sas", "sig", "sign"])
"""A query parameter is a secret if one of the words of its name is one of these: `Key-Pair-Id`, `x_sig`, `apiKey`."""
# fmt: off
SECRET_PARTS = (
    "accesskey", "apikey", "authoriz", "bearer", "credential", "jwt", "passphrase", "passw", "secret", "sessid",
    "sessionid", "signature", "token",
)
# fmt: on
"""A query parameter is a secret if its name holds one of these, whatever stands between their letters."""


def redact_credentials(text: str) -> str:
    """A URI, a word of a command or any text, without the passwords and signatures of the URLs in it.

    A URL loses the user before its host. It loses its query and fragment if the name of one of their parameters is
    that of a secret, or if the value of one is a URL that holds a secret itself.
    """
    starts = [match.start() for match in URL.finditer(text)] if "://" in text else []
    if not starts:
        return text
    urls = (_redact_url(text[start:stop]) for start, stop in itertools.pairwise([*starts, len(text)]))
    return text[: starts[0]] + "".join(urls)


def _redact_url(url: str) -> str:
    url = USER.sub(r"\1", url, count=1)
    if url[:5].lower() == "s3://":  # a key may hold any character, and has no query
        return url
    before, *parameters = QUERY.split(url)
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        inner = unquote(value)
        if (equals and _is_secret(unquote(name))) or (inner != value and redact_credentials(inner) != inner):
            return before
    return url


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", name)]
    joined = "".join(words)
    return not SECRET_WORDS.isdisjoint([*words, joined]) or any(part in joined for part in SECRET_PARTS)

"""Remove the passwords and signatures of URLs from texts."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote

# The length of the scheme is bounded; otherwise a text could take time that is quadratic in its length.
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
"""A query parameter is a secret if its name, without punctuation, contains one of these."""


def redact_credentials(text: str) -> str:
    """Remove the passwords and signatures of all URLs in a text.

    The user before the host is removed. The query and fragment are removed if the name of one of their parameters is
    that of a secret, or if its value is a URL with a secret.
    """
    starts = [match.start() for match in URL.finditer(text)] if "://" in text else []
    if not starts:
        return text
    urls = (_redact_url(text[start:stop]) for start, stop in itertools.pairwise([*starts, len(text)]))
    return text[: starts[0]] + "".join(urls)


def _redact_url(url: str) -> str:
    url = USER.sub(r"\1", url, count=1)
    if url[:5].lower() == "s3://":  # a key may have any character, and there is no query
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

"""Parses URLs as browsers do, and decides which IP addresses are public.

A URL comes from a crawled list or from a server that redirects, so nothing about it is trusted.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

PORTS = {"http": 80, "https": 443}
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
PATH_SAFE = "".join(set(PRINTABLE) - set('"#<>?^`{}'))
QUERY_SAFE = "".join(set(PRINTABLE) - set("\"#'<>"))
"""Characters that the URL Standard does not encode (url.spec.whatwg.org, percent-encode sets). `%` is one of them, so
that encoded text is not encoded twice."""
IDNA_DEVIATIONS = re.compile("[\u00df\u03c2\u200c\u200d]")
"""Characters that Python's codec maps to another host than browsers do (UTS 46, section 7)."""

PRIVATE_IPV4 = [
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's agent for each virtual machine
        "192.80.8.124/32",  # the metadata server of Equinix Metal
    )
]
"""Networks that are not public: the special-purpose registry of the IANA, multicast, reserved space, and two cloud
services whose addresses look public. All other metadata services of clouds are within these networks."""
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All addresses that are allocated to the public internet. The others are unassigned, local, mapped or translated."""
PRIVATE_IPV6 = [
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20")
]
"""Networks within PUBLIC_IPV6 that are not public: Teredo and other protocols, documentation, 6to4, AS112, 6bone."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses by which an IPv6-only network reaches IPv4 (RFC 6052). They end with an IPv4 address, which decides."""
ISATAP = 0x0000_5EFE
"""The value of bits 32 to 63 (from the last one, one bit ignored) of an address that ends with an IPv4 one (RFC
5214)."""


class RefusedError(Exception):
    """A URL or the answer of its server is refused; `remedy` says what to do. A retry would not help."""

    def __init__(self, what: str, remedy: str = "check the address, or leave it out") -> None:
        super().__init__(what)
        self.remedy = remedy


class Target(NamedTuple):
    """The parts of a URL that a request needs. All of them are ASCII without blanks and control characters."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        """The host as the header `Host` and messages have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.name}{self.path}"


def parse_url(url: str) -> Target:
    """Parse a URL as browsers do: blanks and letters outside ASCII are encoded. Raises RefusedError."""
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        secret = "@" in parts.netloc
        if not host.isascii() and not IDNA_DEVIATIONS.search(host):
            host = host.encode("idna").decode("ascii")
        path = quote(parts.path or "/", PATH_SAFE, errors="surrogateescape")
        query = quote(parts.query, QUERY_SAFE, errors="surrogateescape")
    except ValueError as error:  # UnicodeError is one; its message may show a password
        raise RefusedError("this is no valid URL: its host, its port or its characters are wrong") from error
    if scheme not in PORTS:
        raise RefusedError(f"it leads to the scheme {scheme[:40]!r}", "only http:// and https:// are followed")
    if secret:
        raise RefusedError("it leads to a URL with a user's name or a password", "serve it without secrets in the URL")
    labels = host.removesuffix(".").split(".")
    if not re.fullmatch(r"[!-~]{1,253}", host) or not all(0 < len(label) < 64 for label in labels):
        raise RefusedError("its host is no valid name", "check the address; write a name outside ASCII as xn--...")
    port = PORTS[scheme] if port is None else port
    if not port:
        raise RefusedError("port 0 cannot be asked")
    return Target(scheme, host, port, f"{path}?{query}" if parts.query else path)


def redirected(base: Target, location: str) -> Target:
    """Return the target of a redirect. Raises RefusedError.

    Args:
        base: The URL that redirects.
        location: The header `Location`, with a character for each byte. As in browsers, the bytes are UTF-8, `\\` means
            `/`, and bytes that are not UTF-8 are sent as they are.
    """
    text = location.encode("latin-1").decode("utf-8", "surrogateescape")
    before, mark, query = text.partition("?")
    try:
        url = urljoin(base.url, before.replace("\\", "/") + mark + query)
    except ValueError as error:
        raise RefusedError("it redirects to what is no valid URL") from error
    target = parse_url(url)
    if base.scheme == "https" and target.scheme == "http":
        raise RefusedError("it redirects from HTTPS to HTTP")
    return target


def is_public(address: str) -> bool:
    """Return whether an IP address is public. It is not if no list of public networks has it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in PRIVATE_IPV4)
    inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in NAT64:
        return is_public(str(inner))
    if (int(ip) >> 32) & 0xFDFF_FFFF == ISATAP and not is_public(str(inner)):
        return False
    return ip in PUBLIC_IPV6 and not any(ip in network for network in PRIVATE_IPV6)

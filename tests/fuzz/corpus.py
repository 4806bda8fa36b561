"""Inputs that broke a rule once, or are of a kind that breaks readers elsewhere, as small as they could be made."""

from __future__ import annotations

import gzip
from typing import Any

from fuzz import sounds, words
from fuzz.plans import AT_ONCE, CHUNKED, FOUND, MOVED, NEMO, OK, PARTIAL, PLAIN, RANGED, RECORDING, object_of
from fuzz.scenes import Plan

WAV: Any = ("wav", [])


def _list(*names: bytes) -> Plan:
    return {"names": list(names), "on_disk": False, "edits": []}


def _lines(*lines: bytes, packed: list[Any] | None = None) -> Plan:
    """Each line makes a row of its own, be it a failed one; a list that breaks off makes one where it does."""
    return {"lines": [(line, 1) for line in lines], "edits": [], "gzip": packed, "at_least": 1}


def _nemo(**changed: bytes) -> bytes:
    return object_of(NEMO | {name.encode(): value for name, value in changed.items()})


def _recording(**changed: bytes) -> bytes:
    return object_of(RECORDING | {name.encode(): value for name, value in changed.items()})


def _little(number: int, width: int) -> bytes:
    return number.to_bytes(width, "little")


def _archive(*members: tuple[Any, ...], edits: Any = (), at_least: int = 1) -> Plan:
    """`at_least` so many names are met of it: what is lost is told by a failed row."""
    return {"members": [(*member, {})[:4] for member in members], "edits": list(edits), "at_least": at_least}


def _answers(*answers: tuple[Any, ...], tail: bytes = b"") -> Plan:
    return {"answers": [(*answer, AT_ONCE)[:4] for answer in answers], "tail": tail}


def _sounds(*damaged: tuple[str, list[Any]]) -> Plan:
    return {"sounds": list(damaged)}


def _with(headers: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(known, value if known == name else said) for known, said in headers]


MEMBER = (b"0", b"a<n>.wav", WAV)
BLANKS = gzip.compress(b" " * (1 << 20), 9, mtime=0)
OPENED = gzip.compress(b'{"audio_filepath": "', mtime=0)
SPARSE = b"00000000000\x0000000000200\0"
TERABYTE = b"\x80\0\0\0\0\0\1\0\0\0\0\0"
VALUES = words.HEADER_VALUES
BRIEF = [value for value in VALUES if value not in (b" 7 ", b"+7", b"1", b"7, 7")]

NAMES: dict[str, Plan] = {
    "hosts that cannot be": _list(*(b"http://" + host + b"/<n>.wav" for host in words.HOSTS)),
    "schemes that are not known": _list(*(scheme + b"://<n>.wav" for scheme in words.SCHEMES)),
    "buckets that cannot be": _list(b"s3://", *(b"s3://" + bucket + b"<n>.wav" for bucket in words.BUCKETS)),
    "odd parts of names": _list(*(part + b"<n>.wav" for part in words.PARTS_OF_NAMES)),
    "odd parts of URLs": _list(*(b"http://127.0.0.1:1/" + part + b"<n>.wav" for part in words.PARTS_OF_NAMES)),
    "odd queries": _list(*(b"http://127.0.0.1:1/<n>.wav" + query for query in words.QUERIES)),
    "members at offsets that cannot be": _list(
        *(b"t.tar#<n>.wav:" + offset + b"+1" for offset in words.OFFSETS),
        *(b"t.tar#<n>.wav:1+" + offset for offset in words.OFFSETS),
    ),
    "paths beyond what a system takes": _list(b"a" * 300 + b"<n>.wav", b"a/" * 3000 + b"<n>.wav"),
    "passwords": _list(b"HTTP://u:pw@127.0.0.1:1/<n>.wav", b"https://u:pw@127.0.0.1:1/<n>.wav?token=x"),
    "lists that are not UTF-8": _list(
        b"\xff<n>.wav", b"\xe9t\xe9<n>.wav", b"\xef\xbb\xbf<n>.wav", b"\xed\xa0\x80<n>.wav"
    ),
    "odd names on a disk": {
        "names": [part + b"<n>.wav" for part in words.PARTS_OF_NAMES if b"\0" not in part and len(part) < 200],
        "on_disk": True,
        "edits": [],
    },
}

MANIFESTS: dict[str, Plan] = {
    "names of other types": _lines(*(_nemo(audio_filepath=value) for value in words.JSON)),
    "sources of other types": _lines(*(_recording(sources=value) for value in words.JSON)),
    "source names of other types": _lines(
        *(_recording(sources=b'[{"type": "file", "channels": [0], "source": ' + value + b"}]") for value in words.JSON)
    ),
    "languages of other types": _lines(*(_nemo(lang=value) for value in words.JSON)),
    "supervisions of other types": _lines(*(_nemo(supervisions=value) for value in words.JSON)),
    "languages of supervisions of other types": _lines(
        *(_nemo(supervisions=b'[{"language": ' + value + b"}]") for value in words.JSON)
    ),
    "texts of other types": _lines(*(_nemo(text=value) for value in words.JSON)),
    "lines that are no objects": _lines(*(value for value in words.JSON if value)),
    "lines that are no manifest": _lines(b"{}", b'{"sources": []}', b'{"tracks": [5]}', b'{"recording": 5}', b"[{}]"),
    "a byte order mark": _lines(b"\xef\xbb\xbf" + _nemo(), _nemo()),
    "a torn last line": _lines(_nemo(), _nemo()[:-7]),
    "brackets without end": _lines(b"[" * 100_000, b'{"a":' * 50_000),
    "a gzip cut short": _lines(_nemo(), _nemo(), packed=[("cut", 60)]),
    "no gzip": _lines(_nemo(), packed=[("put", 0, b"{}")]),
    "a gzip with a wrong checksum": _lines(_nemo(), packed=[("flip", -5, 0)]),
    "a gzip with garbage inside": _lines(_nemo(), packed=[("put", 12, b"\xff\xff\xff")]),
    "a gzip with garbage behind": _lines(_nemo(), packed=[("tail", 120, 100)]),
    "a line of 400 MB in 0.4 MB of gzip": _lines(
        _nemo(), packed=[("insert", 0, BLANKS), ("repeat", 0, len(BLANKS), 400)]
    ),
    "a string of 400 MB in 0.4 MB of gzip": _lines(
        b'"}', packed=[("insert", 0, BLANKS), ("repeat", 0, len(BLANKS), 400), ("insert", 0, OPENED)]
    ),
}

ARCHIVES: dict[str, Plan] = {
    "sidecars of any kind": _archive(
        *(
            member
            for number, body in enumerate([*words.JSON, b"[" * 200_000])
            for member in ((b"0", b"%d.json" % number, body), (b"0", b"%d.wav" % number, WAV))
        )
    ),
    "languages of sidecars": _archive(
        *(
            member
            for number, value in enumerate(words.JSON)
            for member in ((b"0", b"%d.json" % number, _nemo(lang=value)), (b"0", b"%d.wav" % number, WAV))
        )
    ),
    "members with odd names": _archive(
        *((b"0", part.replace(b"\0", b"")[:80] + b"<n>.wav", WAV) for part in words.PARTS_OF_NAMES),
        *((b"0", name, WAV) for name in (b"a\n<n>.wav", b"/<n>.wav", b"a:0+1<n>.wav", b"a#b.tar#<n>.wav")),
    ),
    "a sparse member": _archive((b"S", b"a<n>.wav", WAV, {"sparse": SPARSE, "real_size": b"00000060000\0"}), MEMBER),
    "an extended header of a terabyte": _archive(MEMBER, (b"x", b"p", b"", {"size": TERABYTE}), MEMBER),
    "3,000 long names in a chain": _archive(*[(b"L", b"././@LongLink", b"a")] * 3000, MEMBER),
    "a wrong checksum": _archive(MEMBER, (b"0", b"a<n>.wav", WAV, {"checksum": b"0000001\0"}), MEMBER, at_least=2),
    "joined archives": _archive(MEMBER, MEMBER, edits=[("insert", 13_824, bytes(10_240))], at_least=2),
    "an archive cut inside a member": _archive(MEMBER, MEMBER, edits=[("cut", 20_000)], at_least=2),
    "an archive cut between members": _archive(MEMBER, MEMBER, edits=[("cut", 13_824)], at_least=2),
    "an archive cut inside a header": _archive(MEMBER, MEMBER, edits=[("cut", 14_000)], at_least=2),
    "no archive": _archive(MEMBER, edits=[("put", 0, b"hello")]),
    "an empty archive": _archive(MEMBER, edits=[("cut", 0)]),
} | {
    f"{kind} {number}": _archive(MEMBER, member, MEMBER, at_least=2)
    for kind, members in {
        "a size of a member": [(b"0", b"b<n>.wav", WAV, {"size": value}) for value in words.TAR_NUMBERS],
        "a record of an extended header": [(b"x", b"p", value) for value in words.PAX_RECORDS],
    }.items()
    for number, member in enumerate(members)
}

ANSWERS: dict[str, Plan] = {
    "redirects to anywhere": _answers(*((FOUND, _with(MOVED, b"Location", value), b"") for value in VALUES)),
    "lengths of any kind": _answers(*((OK, _with(PLAIN, b"Content-Length", value), WAV) for value in VALUES)),
    "ranges of any kind": _answers(*((PARTIAL, _with(RANGED, b"Content-Range", value), WAV) for value in VALUES)),
    "dates of any kind": _answers(*((PARTIAL, _with(RANGED, b"Last-Modified", value), WAV) for value in VALUES)),
    "codings of any kind": _answers(*((OK, [(b"Transfer-Encoding", value)], WAV) for value in VALUES)),
    "pauses of any kind": _answers(*((b"HTTP/1.1 503 Busy", [(b"Retry-After", value)], b"") for value in BRIEF)),
    "status lines of any kind": _answers(*((status, PLAIN, WAV) for status in words.STATUSES)),
    "chunks of any kind": _answers(*((OK, CHUNKED, body) for body in words.BODIES)),
    "a status line without end": _answers((b"HTTP/1.1 200 " + b"x" * 1000, [], b"", (25, 0.02, 5000))),
    "headers without end": _answers((OK, [(b"X", b"x" * 20)], b"", (1, 0.05, 0)), (OK, [(b"X", b"1")] * 400, b"")),
    "100 Continue without end": _answers((b"HTTP/1.1 100 Continue", [], b"", (25, 0.0, 50_000))),
    "trailers without end": _answers((OK, CHUNKED, b"5\r\nhello\r\n0\r\na: b\r\n", (6, 0.02, 5000))),
    "a body without end": _answers((OK, [], WAV, (1000, 0.001, 50_000))),
}

CONTAINERS: dict[str, Plan] = {
    "a codec that FFmpeg does not know": _sounds(
        ("wav", [("put", 20, b"\xfe\xff")]), ("wav", [("put", 34, b"\0\0")]), ("avi_pcm", [("put", 20, b"\xfe\xff")])
    ),
    "zeros behind a header": _sounds(
        *((name, [("cut", 60), ("tail", 0, 1 << 22)]) for name in ("wav", "aiff", "caf", "w64", "mp4_aac", "mkv_opus"))
    ),
    "claims of ages": _sounds(
        ("rf64", [("put", 28, b"\0" * 7 + b"\x40")]), ("w64", [("put", 16, b"\xff" * 7 + b"\x7f")])
    ),
    "rates": _sounds(*(("wav", [("put", 24, _little(rate, 4))]) for rate in (0, 1, 4, 7, 100, 767_999, 1 << 31))),
    "channels": _sounds(*(("wav", [("put", 22, _little(count, 2))]) for count in (0, 63, 64, 65, 65535))),
    "samples that are not finite": _sounds(
        *(("wav_float", [("put", 4000, _little(bits, 4))]) for bits in (0x7FC00000, 0x7F800000, 0x7F7FFFFF, 0xFF7FFFFF))
    ),
    "every kind cut short": _sounds(*((name, [("cut", at)]) for name in sounds.NAMES for at in (1000, -400))),
}

CORPUS: dict[str, tuple[str, Plan]] = {
    name: (target, plan)
    for target, plans in {
        "names": NAMES,
        "manifests": MANIFESTS,
        "archives": ARCHIVES,
        "answers": ANSWERS,
        "containers": CONTAINERS,
    }.items()
    for name, plan in plans.items()
}

"""Hypothesis strategies that draw plans: mostly right in form, wrong in one or a few places, so that they get far."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz import sounds
from fuzz.scenes import TAR_FIELDS, Plan

INTERESTING = [0, 1, 2, 3, 7, 8, 15, 16, 64, 127, 128, 255, 256, 4095, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 44100,
               0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip
"""Numbers at which sizes and counts go wrong."""
offsets = st.one_of(st.integers(0, 64), st.integers(0, 1024), st.integers(0, 1 << 17))
lengths = st.one_of(st.integers(1, 16), st.integers(1, 4096), st.integers(1, 1 << 16))
some_bytes = st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0", b"\n", b"\r\n"]))

damage: SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("flip"), offsets, st.integers(0, 7)),
    st.tuples(st.just("put"), offsets, some_bytes),
    st.tuples(st.just("cut"), offsets),
    st.tuples(st.just("insert"), offsets, some_bytes),
    st.tuples(st.just("drop"), offsets, lengths),
    st.tuples(st.just("repeat"), offsets, lengths, st.integers(2, 40)),
    st.tuples(st.just("tail"), st.sampled_from([0, 0xFF, 0x20, 0x30]), st.integers(1, 1 << 20)),
)
"""An edit of any bytes."""
rarely = st.lists(damage, max_size=2) | st.just([])


# --- names -----------------------------------------------------------------------------------------------------------

odd_text = st.one_of(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12).map(str.encode),
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from([b"\0", b"..", b"%", b"%00", b"%ZZ", b"#", b"?", b"\x1b[31m", b"\xff", b"\xef\xbb\xbf", b"*", b"[a", b" ",
                     b"\xe2\x80\xae", b"\xc2\x85", b"\xe2\x80\xa8", "é".encode(), b"~", b"$HOME", b"-", b"a" * 300]),  # fmt: skip
)
# No host here is ever looked up: an address, or what cannot be a name.
hosts = st.sampled_from([b"127.0.0.1:1", b"[::1", b"[::1]:1", b"[", b"]", b"127.0.0.1:99999", b"127.0.0.1:abc", b"127.0.0.1:-1",
                         b"a..b", b".", b"a" * 70, b"\xe2\x84\x80.x", b"", b":1", b"@", b"user:pw@127.0.0.1:1", b"[fe80::1%25x]:1",
                         b"0x7f.1:1", b"2130706433:1", b"127.0.0.1:1:1", b"[v1.x]", b"127.0.0.1\\:1", b"\0", b"127.0.0.1:\xd9\xa1"])  # fmt: skip
schemes = st.sampled_from([b"http", b"HTTP", b"https", b"Https", b"ftp", b"file", b"data", b"concat", b"", b"gs", b"h t"])


@st.composite
def _name(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(["path", "path", "url", "url", "member", "s3"]))
    if form == "path":
        return b"/".join(draw(st.lists(odd_text, min_size=1, max_size=3))) + b"<n>.wav"
    if form == "url":
        query = draw(st.sampled_from([b"", b"?a=b c", b"?title=caf\xc3\xa9", b"?token=x", b"#x", b"?X-Amz-Signature=x", b"?%"]))
        return draw(schemes) + b"://" + draw(hosts) + b"/" + draw(odd_text) + b"<n>.wav" + query
    if form == "s3":  # no bucket that could be asked for
        return b"s3://" + draw(st.sampled_from([b"", b"/", b"\0/", b"../", b"A B/", b"[/", b"%/"])) + b"<n>.wav"
    numbers = st.sampled_from([b"0", b"44", b"99999999999999999999", b"9" * 400, b"-1", "٣".encode(), "²".encode(), b"1e3", b""])
    return b"<n>.tar#" + draw(odd_text) + b":" + draw(numbers) + b"+" + draw(numbers)


def _fits_a_folder(name: bytes) -> bool:
    return b"/" not in name and b"\0" not in name and len(name) < 200


_on_disk = st.lists(st.builds(lambda text: text + b"<n>.wav", odd_text.filter(_fits_a_folder)), min_size=1, max_size=8)
names = st.one_of(
    st.fixed_dictionaries({"names": st.lists(_name(), min_size=1, max_size=8), "on_disk": st.just(False), "edits": rarely}),
    st.fixed_dictionaries({"names": _on_disk, "on_disk": st.just(True), "edits": st.just([])}),
)

# --- manifests -------------------------------------------------------------------------------------------------------

raw_values = st.one_of(
    st.sampled_from([b"null", b"true", b"5", b"-1", b"1e999", b"NaN", b"-Infinity", b"[]", b"{}", b'""', b'[""]', b"[null]", b"[5]",
                     b'{"language": 5}', b'[{"language": ["en"]}]', b'"\\ud800"', b'"\\ud800.wav"', b'"a\\u0000b"', b'"\xff"', b"9" * 5000,
                     b"1" * 400, b"[" * 20000, b"[" * 900 + b"]" * 900, b'{"a":' * 3000, b'"' + b"x" * 70000 + b'"', b"'x'", b"", b'"\\x"',
                     b'"' + "\u202e".encode() + b'"', b'"\x1b[2J"', b'["en", "fr"]', b'"en"', b'{"en": 1}', b"0.1", b"1" + b"0" * 30]),  # fmt: skip
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
)
SOURCE = b'{"type": "file", "channels": [0], "source": "l<n>.wav"}'
NEMO = {b"audio_filepath": b'"n<n>.wav"', b"duration": b"1.5", b"text": b'"hello"', b"lang": b'"en"', b"offset": b"0.25"}
RECORDING = {b"id": b'"r<n>"', b"sources": b"[" + SOURCE + b"]", b"sampling_rate": b"16000", b"num_samples": b"6400",
             b"duration": b"0.4", b"channel_ids": b"[0]"}  # fmt: skip
SUPERVISION = b'{"id": "s", "recording_id": "r<n>", "start": 0, "duration": 0.4, "channel": 0, "language": "en", "text": "x"}'


def _object(fields: dict[bytes, bytes]) -> bytes:
    return b"{" + b", ".join(b'"' + name + b'": ' + value for name, value in fields.items()) + b"}"


CUT = {b"id": b'"c<n>"', b"start": b"0", b"duration": b"0.4", b"channel": b"0", b"supervisions": b"[" + SUPERVISION + b"]",
       b"recording": _object(RECORDING), b"type": b'"MonoCut"'}  # fmt: skip
MIXED = {b"id": b'"m<n>"', b"type": b'"MixedCut"', b"tracks": b'[{"cut": ' + _object(CUT) + b', "offset": 0}]'}
FORMS = [NEMO, RECORDING, CUT, MIXED]


@st.composite
def _line(draw: st.DrawFn) -> tuple[bytes, int]:
    """A line of a manifest and how many recordings it names for certain: one if nothing in it was changed."""
    fields = dict(draw(st.sampled_from(FORMS)))
    changed = draw(st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True))
    for name in changed:
        if draw(st.integers(0, 3)):
            fields[name] = draw(raw_values)
        else:
            del fields[name]
    line = _object(fields)
    if draw(st.integers(0, 9)) == 0:
        line, changed = draw(st.one_of(raw_values, st.binary(max_size=30))), [b""]
    line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return (line if line.strip() else b"{}"), 0 if changed else 1


manifests = st.fixed_dictionaries(
    {
        "lines": st.lists(_line(), min_size=1, max_size=6),
        "edits": rarely,
        "gzip": st.one_of(st.none(), st.none(), st.just([]), st.lists(damage, min_size=1, max_size=2)),
    }
)

# --- archives --------------------------------------------------------------------------------------------------------

tar_kinds = st.sampled_from([b"0", b"0", b"0", b"5", b"1", b"2", b"S", b"x", b"g", b"L", b"K", b"7", b"\0", b"V", b"M", b"X", b"Z"])
tar_numbers = st.sampled_from([b"", b"0", b"00000000001\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + b"\0" * 3 + b"\x7f" * 8,
                               b"-1", b"99999999999", b"\x80\0\0\0\0\0\0\0\0\0\x10\0", b"xyz", b"           \0"])  # fmt: skip
pax = st.sampled_from([b"30 mtime=1e400\n", b"18 size=99999999\n", b"25 path=../../<n>.wav\n", b"11 size=-1\n", b"999999 a=b\n",
                       b"0 a=b\n", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"19 path=a\xff\xfe.wav\n", b"x", b"12 path=\0\0\n",
                       b"26 GNU.sparse.map=0,9,9,9\n", b"25 GNU.sparse.size=999999\n", b"20 hdrcharset=X-Y\n", b"9" * 5000 + b" a=b\n"])  # fmt: skip
member_bodies = st.one_of(
    st.tuples(st.sampled_from(["wav", "flac", "mp3"]), st.just([])),
    st.tuples(st.just("wav"), st.lists(damage, min_size=1, max_size=1)),
    st.just(b""),
)


@st.composite
def _member(draw: st.DrawFn) -> tuple[bytes, bytes, Any, dict[str, bytes]]:
    told = {}
    if draw(st.integers(0, 3)) == 0:
        for name in draw(st.lists(st.sampled_from(sorted(TAR_FIELDS)), min_size=1, max_size=2, unique=True)):
            told[name] = draw(tar_numbers if TAR_FIELDS[name][1] in (8, 12) else st.binary(max_size=20))
    if draw(st.integers(0, 3)) == 0:  # a sidecar
        return b"0", b"<n>.json", draw(st.one_of(raw_values, _line().map(lambda pair: pair[0]))), told
    kind = draw(tar_kinds)
    if kind in b"xgX":
        return kind, b"PaxHeader", draw(st.one_of(pax, st.binary(max_size=40))), told
    if kind in b"LK":
        return kind, b"././@LongLink", draw(odd_text) + b"<n>.wav\0", told
    text = draw(odd_text.filter(lambda name: b"\0" not in name and len(name) < 90))
    return kind, text + b"<n>.wav", draw(member_bodies), told


archives = st.fixed_dictionaries({"members": st.lists(_member(), min_size=1, max_size=6), "edits": rarely})

# --- answers ---------------------------------------------------------------------------------------------------------

RANGED = [(b"Content-Range", b"bytes {start}-{last}/{size}"), (b"Content-Length", b"{length}"), (b"ETag", b'"x"'),
          (b"Last-Modified", b"Tue, 24 Nov 2026 10:00:00 GMT")]  # fmt: skip
PLAIN = [(b"Content-Length", b"{size}"), (b"Last-Modified", b"Tue, 24 Nov 2026 10:00:00 GMT")]
CHUNKED = [(b"Transfer-Encoding", b"chunked")]
MOVED = [(b"Location", b"{url}/0.wav"), (b"Content-Length", b"0")]
statuses = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 302 Found", b"HTTP/1.1 308 x", b"HTTP/1.1 416 x",
                            b"HTTP/1.1 503 Busy", b"HTTP/1.1 429 x", b"HTTP/1.1 404 \x1b[31mRED", b"HTTP/1.1 100 Continue", b"HTTP/1.0 200",
                            b"HTTP/9.9 200 OK", b"HTTP/1.1 999999 x", b"HTTP/1.1 -1 x", b"HTTP/1.1", b"ICY 200 OK", b"", b"\xff\xfe",
                            b"HTTP/1.1 204 x", b"HTTP/1.1 304 x", b"HTTP/1.1 101 x", b"HTTP/1.1 401 x", b"HTTP/1.1 \xc2\xb2 x"])  # fmt: skip
header_values = st.one_of(
    st.sampled_from([b"", b"-1", b"0", b"1", b"9" * 30, b"9" * 5000, b"\xc2\xb2", b"\xb2", b"x", b"{size}", b"{url}/0.wav", b"chunked", b"gzip",
                     b"bytes 0-0/{size}", b"bytes */{size}", b"bytes 0-{last}/*", b"bytes 5-{last}/{size}", b"bytes 0-" + b"9" * 400 + b"/9",
                     b"http://[::1/x.wav", b"http://127.0.0.1:99999/", b"http://" + b"a" * 300 + b"/", b"http://a..b/", b"//", b"?a b", b"\xe9",
                     b"/caf\xc3\xa9.wav", b"ftp://127.0.0.1/", b"file:///etc/passwd", b"http://user:pw@127.0.0.1:1/", b"\0", b"https://127.0.0.1:1/",
                     b"Fri, 27 Nov 99999999999 00:00:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT", b"Fri, 01 Jan 0001 00:00:00 +2359", b"1e9", b"a" * 70000,
                     b"Thu, 01 Jan 1970 00:00:00 -9999", b"x\r\n folded", b"bytes 0-0/1, bytes 0-0/2", b" 7 ", b"+7", b"7, 7", b"1_0"]),  # fmt: skip
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
)
header_names = st.sampled_from([b"Content-Range", b"Content-Length", b"Transfer-Encoding", b"Location", b"Last-Modified", b"ETag", b"Retry-After",
                                b"Content-Encoding", b"Content-Type", b"Connection", b"Trailer", b"X", b"", b"\xff", b"Content-Length "])  # fmt: skip
answer_bodies = st.one_of(
    st.tuples(st.sampled_from(["wav", "flac", "mp3", "ogg_opus"]), st.just([])),
    st.tuples(st.just("wav"), st.lists(damage, min_size=1, max_size=1)),
    st.sampled_from([b"", b"<html>log in</html>", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\nx", b"-5\r\n", b"5;" + b"x" * 70000, b"xyz\r\n",
                     b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 300, b"\x1f\x8b\x08\0"]),  # fmt: skip
)
pieces = st.one_of(
    st.just((1 << 20, 0.0, 0)),
    st.just((1 << 20, 0.0, 0)),
    st.just((1 << 20, 0.0, 0)),
    st.tuples(st.sampled_from([1, 7, 100]), st.sampled_from([0.01, 0.1]), st.just(0)),
    st.tuples(st.sampled_from([1, 25, 1000]), st.sampled_from([0.0, 0.02]), st.sampled_from([100, 5000])),
)


@st.composite
def _reply(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes]], Any, Any]:
    form = draw(st.sampled_from([0, 0, 1, 1, 2, 3]))
    status, headers = [
        (b"HTTP/1.1 206 Partial Content", RANGED), (b"HTTP/1.1 200 OK", PLAIN), (b"HTTP/1.1 200 OK", CHUNKED), (b"HTTP/1.1 302 Found", MOVED),
    ][form]  # fmt: skip
    headers = list(headers)
    if draw(st.integers(0, 3)) == 0:
        status = draw(statuses)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(headers)))
        name = draw(header_names) if at == len(headers) else headers[at][0]
        headers[at : at + draw(st.integers(0, 1))] = [(name, draw(header_values))]
    return status, headers, draw(answer_bodies), draw(pieces)


answers = st.fixed_dictionaries(
    {"answers": st.lists(_reply(), min_size=1, max_size=4), "tail": st.sampled_from([b"", b"", b"\r\n", b"x" * 100, b"HTTP/1.1 200 OK\r\n\r\n"])}
)

# --- containers ------------------------------------------------------------------------------------------------------


@st.composite
def containers(draw: st.DrawFn) -> Plan:
    name = draw(st.sampled_from(sounds.NAMES))
    claims = sounds.fields(name)
    edits: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 2)):
            offset, width, order = draw(st.sampled_from(claims))
            now = int.from_bytes(sounds.sound(name)[offset : offset + width], order)  # type: ignore[arg-type]
            value = draw(st.sampled_from([*INTERESTING, now + 1, now - 1, now * 2, now // 2, -now])) % (1 << 8 * width)
            edits.append(("put", offset, value.to_bytes(width, order)))  # type: ignore[arg-type]
        elif draw(st.integers(0, 3)) == 0:
            other, start = draw(st.sampled_from(sounds.NAMES)), draw(offsets)
            edits.append(("splice", draw(offsets), other, start, draw(lengths)))
        else:
            edits.append(draw(damage))
    if name.startswith("ogg") and draw(st.booleans()):
        edits.append(("ogg_checksums",))
    return {"sound": name, "edits": edits}


PLANS: dict[str, SearchStrategy[Plan]] = {
    "names": names,
    "manifests": manifests,
    "archives": archives,
    "answers": answers,
    "containers": containers(),
}

"""Hypothesis strategies that draw plans: mostly right in form, wrong in one or a few places, so that they get far."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz import sounds, words
from fuzz.scenes import TAR_FIELDS, Plan

offsets = st.one_of(st.integers(0, 64), st.integers(0, 1024), st.integers(0, 1 << 17))
lengths = st.one_of(st.integers(1, 16), st.integers(1, 4096), st.integers(1, 1 << 16))
some_bytes = st.one_of(
    st.binary(min_size=1, max_size=12), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0", b"\n", b"\r\n"])
)

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


def several(one: SearchStrategy[Any], most: int) -> SearchStrategy[list[Any]]:
    """1 to `most`, any number as likely as another: `lists` alone draws few, and each plan costs a whole ingest."""
    return st.integers(1, most).flatmap(lambda number: st.lists(one, min_size=number, max_size=number))


rarely = st.lists(damage, max_size=2) | st.just([])


# --- names -----------------------------------------------------------------------------------------------------------

odd_text = st.one_of(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12).map(str.encode),
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from(words.PARTS_OF_NAMES),
)


@st.composite
def _name(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(["path", "path", "url", "url", "member", "s3"]))
    if form == "path":
        return b"/".join(draw(st.lists(odd_text, min_size=1, max_size=3))) + b"<n>.wav"
    if form == "url":
        query = draw(st.sampled_from(words.QUERIES))
        return (
            draw(st.sampled_from(words.SCHEMES))
            + b"://"
            + draw(st.sampled_from(words.HOSTS))
            + b"/"
            + draw(odd_text)
            + b"<n>.wav"
            + query
        )
    if form == "s3":  # no bucket that could be asked for
        return b"s3://" + draw(st.sampled_from(words.BUCKETS)) + b"<n>.wav"
    numbers = st.sampled_from(words.OFFSETS)
    return b"<n>.tar#" + draw(odd_text) + b":" + draw(numbers) + b"+" + draw(numbers)


def _fits_a_folder(name: bytes) -> bool:
    return b"/" not in name and b"\0" not in name and len(name) < 200


_on_disk = several(st.builds(lambda text: text + b"<n>.wav", odd_text.filter(_fits_a_folder)), 30)
names = st.one_of(
    st.fixed_dictionaries({"names": several(_name(), 40), "on_disk": st.just(False), "edits": rarely}),
    st.fixed_dictionaries({"names": _on_disk, "on_disk": st.just(True), "edits": st.just([])}),
)

# --- manifests -------------------------------------------------------------------------------------------------------

raw_values = st.one_of(
    st.sampled_from(words.JSON),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
)
SOURCE = b'{"type": "file", "channels": [0], "source": "l<n>.wav"}'
NEMO = {
    b"audio_filepath": b'"n<n>.wav"',
    b"duration": b"1.5",
    b"text": b'"hello"',
    b"lang": b'"en"',
    b"offset": b"0.25",
}
RECORDING = {
    b"id": b'"r<n>"',
    b"sources": b"[" + SOURCE + b"]",
    b"sampling_rate": b"16000",
    b"num_samples": b"6400",
    b"duration": b"0.4",
    b"channel_ids": b"[0]",
}
SUPERVISION = (
    b'{"id": "s", "recording_id": "r<n>", "start": 0, "duration": 0.4, "channel": 0, "language": "en", "text": "x"}'
)


def object_of(fields: dict[bytes, bytes]) -> bytes:
    return b"{" + b", ".join(b'"' + name + b'": ' + value for name, value in fields.items()) + b"}"


CUT = {
    b"id": b'"c<n>"',
    b"start": b"0",
    b"duration": b"0.4",
    b"channel": b"0",
    b"supervisions": b"[" + SUPERVISION + b"]",
    b"recording": object_of(RECORDING),
    b"type": b'"MonoCut"',
}
MIXED = {b"id": b'"m<n>"', b"type": b'"MixedCut"', b"tracks": b'[{"cut": ' + object_of(CUT) + b', "offset": 0}]'}
FORMS = [NEMO, RECORDING, CUT, MIXED]
NAMING = {b"audio_filepath", b"sources", b"recording", b"tracks"}


@st.composite
def _line(draw: st.DrawFn) -> tuple[bytes, int]:
    """A line of a manifest, and 1 if it becomes a row of its own for certain, 0 if another line may say the same."""
    fields = dict(draw(st.sampled_from(FORMS)))
    changed = draw(st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True))
    for name in changed:
        if draw(st.integers(0, 3)):
            fields[name] = draw(raw_values)
        else:
            del fields[name]
    line = object_of(fields)
    if draw(st.integers(0, 9)) == 0:
        line, changed = draw(st.one_of(raw_values, st.binary(max_size=30))), [b"sources"]
    line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return (line if line.strip() else b"{}"), int(NAMING.isdisjoint(changed))


manifests = st.fixed_dictionaries(
    {
        "lines": several(_line(), 30),
        "edits": rarely,
        "gzip": st.one_of(st.none(), st.none(), st.just([]), st.lists(damage, min_size=1, max_size=2)),
    }
)

# --- archives --------------------------------------------------------------------------------------------------------

tar_kinds = st.sampled_from([b"0"] * 6 + [bytes([kind]) for kind in b"512SxgLK7VMXZ\0"])
tar_numbers = st.sampled_from(words.TAR_NUMBERS)
pax = st.sampled_from(words.PAX_RECORDS)
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
    return kind, text + b"<n>.wav", b"" if kind == b"5" else draw(member_bodies), told  # a folder holds no bytes


archives = st.fixed_dictionaries({"members": several(_member(), 16), "edits": rarely})

# --- answers ---------------------------------------------------------------------------------------------------------

RANGED = [(b"Content-Range", b"bytes {start}-{last}/{size}"), (b"Content-Length", b"{length}"), (b"ETag", b'"x"'),
          (b"Last-Modified", b"Tue, 24 Nov 2026 10:00:00 GMT")]  # fmt: skip
PLAIN = [(b"Content-Length", b"{size}"), (b"Last-Modified", b"Tue, 24 Nov 2026 10:00:00 GMT")]
CHUNKED = [(b"Transfer-Encoding", b"chunked")]
MOVED = [(b"Location", b"{url}/0.wav"), (b"Content-Length", b"0")]
OK, PARTIAL, FOUND = b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 302 Found"
HONEST = [(PARTIAL, RANGED), (OK, PLAIN), (OK, CHUNKED), (FOUND, MOVED)]
header_values = st.one_of(
    st.sampled_from(words.HEADER_VALUES),
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
)
answer_bodies = st.one_of(
    st.tuples(st.sampled_from(["wav", "flac", "mp3", "ogg_opus"]), st.just([])),
    st.tuples(st.just("wav"), st.lists(damage, min_size=1, max_size=1)),
    st.sampled_from(words.BODIES),
)
AT_ONCE = (1 << 20, 0.0, 0)
pieces = st.one_of(
    *[st.just(AT_ONCE)] * 6,
    st.tuples(st.sampled_from([1, 7, 100]), st.sampled_from([0.01, 0.05]), st.just(0)),
    st.tuples(st.sampled_from([1, 25, 1000]), st.sampled_from([0.0, 0.02]), st.sampled_from([100, 5000])),
)
"""Mostly all at once: what is slow or endless takes as long as it is allowed to."""


@st.composite
def _reply(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes]], Any, Any]:
    form = draw(st.sampled_from([0, 0, 1, 1, 2, 3]))
    status, honest = HONEST[form]
    headers = list(honest)
    if draw(st.integers(0, 3)) == 0:
        status = draw(st.sampled_from(words.STATUSES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(headers)))
        name = draw(st.sampled_from(words.HEADERS)) if at == len(headers) else headers[at][0]
        headers[at : at + draw(st.integers(0, 1))] = [(name, draw(header_values))]
    return status, headers, draw(answer_bodies), draw(pieces)


answers = st.fixed_dictionaries(
    {
        "answers": several(_reply(), 10),
        "tail": st.sampled_from([b"", b"", b"\r\n", b"x" * 100, b"HTTP/1.1 200 OK\r\n\r\n"]),
    }
)

# --- containers ------------------------------------------------------------------------------------------------------


@st.composite
def _damaged_sound(draw: st.DrawFn) -> tuple[str, list[tuple[Any, ...]]]:
    name = draw(st.sampled_from(sounds.NAMES))
    claims = sounds.fields(name)
    edits: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 2)):
            offset, width, order = draw(st.sampled_from(claims))
            now = int.from_bytes(sounds.sound(name)[offset : offset + width], order)  # type: ignore[arg-type]
            value = draw(st.sampled_from([*words.NUMBERS, now + 1, now - 1, now * 2, now // 2, -now])) % (
                1 << 8 * width
            )
            edits.append(("put", offset, value.to_bytes(width, order)))  # type: ignore[arg-type]
        elif draw(st.integers(0, 3)) == 0:
            other, start = draw(st.sampled_from(sounds.NAMES)), draw(offsets)
            edits.append(("splice", draw(offsets), other, start, draw(lengths)))
        else:
            edits.append(draw(damage))
    if name.startswith("ogg") and draw(st.booleans()):
        edits.append(("ogg_checksums",))
    return name, edits


containers = st.fixed_dictionaries({"sounds": several(_damaged_sound(), 16)})


PLANS: dict[str, SearchStrategy[Plan]] = {
    "names": names,
    "manifests": manifests,
    "archives": archives,
    "answers": answers,
    "containers": containers,
}

"""Tar archives: whatever is damaged, cut, joined or odd, each recording is read or told, and none is another's."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tars import END, header, member, signed, sound

from manifests.lake import Lake
from pipelines.audio.files import Member, open_file
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig

SOUNDS = {f"{name}.wav": sound(0.1 * (number + 1)) for number, name in enumerate("abcd")}
WHOLE = b"".join(member(name, data) for name, data in SOUNDS.items()) + END
STARTS = [WHOLE.index(name.encode()) for name in SOUNDS]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(str(tmp_path / "lake"))


def ingested(lake: Lake, path: Path, data: bytes | None = None, config: IngestConfig | None = None) -> dict[str, dict]:
    """The rows of an archive by the names of its members, '' for its own."""
    if data is not None:
        path.write_bytes(data)
    ingest(lake, [str(path)], config or IngestConfig())
    rows = [row for _, table in lake.recordings() for row in table.to_pylist()]
    assert all(row["error"] and row["remedy"] for row in rows if row["status"] != "ok")
    parsed = [(Member.parse(uri), row) for row in rows for uri in row["uris"]]
    return {found.name if found else "": row for found, row in parsed}


def read_right(rows: dict[str, dict], sounds: dict[str, bytes] = SOUNDS) -> set[str]:
    """Names of the members that are recordings, each of which must have the bytes that were packed."""
    good = {name for name, row in rows.items() if row["status"] == "ok"}
    for name in good:
        member_uri = next(uri for uri in rows[name]["uris"] if Member.parse(uri).name == name)
        assert open_file(member_uri).read() == sounds[name]
    return good


def test_a_whole_archive_has_no_row_of_its_own(lake: Lake, tmp_path: Path) -> None:
    assert read_right(ingested(lake, tmp_path / "x.tar", WHOLE)) == set(SOUNDS)


@pytest.mark.parametrize("at", [STARTS[1] + 150, STARTS[1] + 5, STARTS[1] + 126])
def test_after_a_damaged_header_the_next_members_are_read_and_the_archive_is_told(
    lake: Lake, tmp_path: Path, at: int
) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= 1
    rows = ingested(lake, tmp_path / "x.tar", bytes(damaged))
    assert read_right(rows) == {"a.wav", "c.wav", "d.wav"}
    assert "a header is damaged" in rows[""]["error"]


def test_joined_archives_are_read_as_one(lake: Lake, tmp_path: Path) -> None:
    one = member("a.wav", SOUNDS["a.wav"]) + member("b.wav", SOUNDS["b.wav"]) + END + b"\0" * 8192
    two = member("c.wav", SOUNDS["c.wav"]) + member("d.wav", SOUNDS["d.wav"]) + END
    assert read_right(ingested(lake, tmp_path / "x.tar", one + two)) == set(SOUNDS)


def test_bytes_after_the_end_mark_that_are_no_archive_are_told(lake: Lake, tmp_path: Path) -> None:
    rows = ingested(lake, tmp_path / "x.tar", WHOLE + b"signature" * 200)
    assert read_right(rows) == set(SOUNDS)
    assert "follow its end mark" in rows[""]["error"]


@pytest.mark.parametrize("cut", [*range(1, len(WHOLE), 2311), STARTS[1], STARTS[2] + 200, len(WHOLE) - 1024])
def test_an_archive_cut_at_any_place_keeps_what_is_whole_and_tells_of_the_rest(
    lake: Lake, tmp_path: Path, cut: int
) -> None:
    rows = ingested(lake, tmp_path / "x.tar", WHOLE[:cut])
    whole = {name for start, (name, data) in zip(STARTS, SOUNDS.items(), strict=True) if start + 512 + len(data) <= cut}
    assert read_right(rows) == whole
    assert "fetch or pack the archive again" in rows[""]["remedy"]
    for name in rows.keys() - whole - {""}:
        assert "cut short" in rows[name]["error"]


@pytest.mark.parametrize("cut", [*range(600, STARTS[2], 1999), STARTS[1] + 512 * 3])
def test_an_archive_cut_at_any_place_and_joined_to_another_gives_nobody_the_sound_of_others(
    lake: Lake, tmp_path: Path, cut: int
) -> None:
    after = {"e.wav": sound(0.7, 0.5), "f.wav": sound(0.8, 3.0), "g.wav": sound(0.9)}
    joined = WHOLE[:cut] + b"".join(member(name, data) for name, data in after.items()) + END
    rows = ingested(lake, tmp_path / "x.tar", joined)
    whole = {name for start, (name, data) in zip(STARTS, SOUNDS.items(), strict=True) if start + 512 + len(data) <= cut}
    assert whole | set(after) >= read_right(rows, SOUNDS | after) >= set(after) | (whole - {"a.wav", "b.wav"})
    assert rows[""]["status"] == "failed"


def test_once_a_damaged_archive_is_whole_its_failures_are_gone(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    assert set(ingested(lake, path, WHOLE[: STARTS[2] + 2000])) == {"a.wav", "b.wav", "c.wav", ""}
    assert read_right(ingested(lake, path, WHOLE)) == set(SOUNDS)
    assert set(ingested(lake, path)) == set(SOUNDS)


@pytest.mark.parametrize("form", ["gnu", "posix"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_members_packed_with_holes_are_told_and_never_read_as_whole(
    lake: Lake, tmp_path: Path, form: str, version: str
) -> None:
    hole = np.concatenate([np.full(8000, 0.1), np.zeros(800_000), np.full(8000, 0.2)])
    soundfile.write(tmp_path / "call.wav", hole, 8000)
    data = (tmp_path / "call.wav").read_bytes()
    with (tmp_path / "call.wav").open("wb") as file:  # zeros that are never written
        file.write(data[:16044])
        file.seek(len(data) - 16000)
        file.write(data[-16000:])
    for name, content in SOUNDS.items():
        (tmp_path / name).write_bytes(content)
    words = ["tar", f"--format={form}", "--sparse", f"--sparse-version={version}", "-cf", tmp_path / "x.tar"]
    packed = subprocess.run([*words, "-C", tmp_path, "call.wav", *SOUNDS], capture_output=True, text=True)
    if packed.returncode:
        pytest.skip(f"this tar packs no holes: {packed.stderr}")
    rows = ingested(lake, tmp_path / "x.tar")
    assert read_right(rows) == set(SOUNDS)
    if "call.wav" in rows:  # else the file system keeps no holes, and it was packed whole
        assert "packed with holes" in rows["call.wav"]["error"]
        assert "without --sparse" in rows["call.wav"]["remedy"]


GOOD = member("ok.wav", SOUNDS["a.wav"])
NEGATIVE = signed(header("neg.wav", 0)[:124] + b"\xff" * 12 + header("neg.wav", 0)[136:])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (header("big.wav", 10**15), "cut short"),
        (header("big.wav", 10**25), "cut short"),
        (NEGATIVE, "claims -1 bytes"),
        (header("p", 2**40, tarfile.XHDTYPE), "more than 1 MB"),
        (header("p", 2**40, tarfile.GNUTYPE_LONGNAME), "more than 1 MB"),
        (member("././@LongLink", b"long.wav\0", tarfile.GNUTYPE_LONGNAME) * 3000, "more headers than 16"),
        (member("p", b"14 path=p.wav\n", tarfile.XHDTYPE) * 3000, "more headers than 16"),
        (member("p", b"99999 path=a\n", tarfile.XHDTYPE), "extended header at byte 0 is damaged"),
        (member("p", b"0 path=a\n", tarfile.XHDTYPE), "extended header at byte 0 is damaged"),
        (member("p", b"-9 path=a\n", tarfile.XHDTYPE), "is no number"),
        (member("p", b"9" * 5000, tarfile.XHDTYPE), "damaged"),
    ],
)
def test_headers_with_hostile_claims_cost_no_other_member(lake: Lake, tmp_path: Path, data: bytes, told: str) -> None:
    rows = ingested(lake, tmp_path / "x.tar", data + member("other.wav", SOUNDS["b.wav"]) + GOOD + END)
    assert rows["ok.wav"]["status"] == "ok"
    assert any(told in row["error"] for row in rows.values() if row["status"] != "ok")


@pytest.mark.parametrize("data", [b"", b"no archive", b"\0" * 100, b"ustar  \0" * 5000, b"\x1f\x8b" + b"x" * 5000])
def test_what_is_no_archive_is_a_failed_row(lake: Lake, tmp_path: Path, data: bytes) -> None:
    assert list(ingested(lake, tmp_path / "x.tar", data)) == [""]


def test_a_compressed_archive_is_told_as_such_whatever_its_name(lake: Lake, tmp_path: Path) -> None:
    for name in ("x.tar.gz", "x.tgz", "x.tar"):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(__file__, "a.wav")
        assert "plain" in (row := ingested(lake, tmp_path / name)[""])["error"] + row["remedy"]


def test_members_of_odd_kinds_and_names_are_told_or_read(lake: Lake, tmp_path: Path) -> None:
    names = ["new\nline.wav", "esc\x1b[31m.wav", "y.tar#z.wav:0+5.wav", "UPPER.WAV", "d/" * 80 + "long.wav"]
    with tarfile.open(tmp_path / "odd.TAR", "w") as archive:
        for number, name in enumerate(names):
            (tmp_path / "sound").write_bytes(sound(0.05 * (number + 1)))
            archive.add(tmp_path / "sound", name)
    part = member("part.wav", b"x" * 600, b"M") + member("inner.tar", WHOLE[:2048])
    data = (tmp_path / "odd.TAR").read_bytes()
    rows = ingested(lake, tmp_path / "odd.TAR", data[: data.rindex(b"RIFF") + 16384] + part + END)
    assert {name for name, row in rows.items() if row["status"] == "ok"} == set(names)
    assert "several archives" in rows["part.wav"]["error"]
    assert "inside an archive" in rows["inner.tar"]["error"]


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(b"".join(member(name, data) for name, data in members.items()) + END)
    return path


def test_each_recording_has_the_hint_of_its_own_file_whatever_dots_are_in_its_name(lake: Lake, tmp_path: Path) -> None:
    members = {}
    for number, (name, lang) in enumerate([("05_ann", "en"), ("06_bob", "de"), ("07_eve", "fr"), ("08_zoe", None)]):
        members[f"2024.01.{name}.wav"] = sound(0.1 * (number + 1))
        if lang:
            members[f"2024.01.{name}.json"] = json.dumps({"lang": lang}).encode()
    members["lone.v2.json"] = b'{"lang": "it"}'  # of a sound that is not here
    members["lone.v1.wav"] = sound(0.6)
    rows = ingested(lake, packed(tmp_path / "x.tar", members))
    hints = {name: row["language_hint"] for name, row in rows.items()}
    assert list(hints.values()) == ["en", "de", "fr", None, None]


def test_a_hint_of_a_whole_sample_goes_to_all_its_recordings(lake: Lake, tmp_path: Path) -> None:
    members = {"key.json": b'{"lang": "sv"}', "key.left.wav": sound(0.1), "key.right.wav": sound(0.2)}
    rows = ingested(lake, packed(tmp_path / "x.tar", members))
    assert [row["language_hint"] for row in rows.values()] == ["sv", "sv"]


def test_hints_hold_where_thousands_of_names_begin_alike(lake: Lake, tmp_path: Path) -> None:
    members = {}
    for number in range(1500):
        members[f"call.{number}.json"] = json.dumps({"lang": f"x{number}"}).encode()
        members[f"call.{number}.wav"] = b"no sound %d" % number
    for name, row in ingested(lake, packed(tmp_path / "x.tar", members)).items():
        assert json.loads(row["hints"])[0]["lang"] == f"x{name.split('.')[1]}"


@pytest.mark.parametrize(
    "sidecar",
    [
        b"[" * 200_000, b'{"lang": 5}', b'{"lang": ["en", "de"]}', b'{"lang": {"a": 1}}', b'{"supervisions": 3}',
        b'{"supervisions": ["x"]}', b'{"supervisions": [null, 5]}', b'{"supervisions": [{"language": 5}]}',
        b'{"x": "\\ud800"}', b'{"lang": "\\ud800"}', b"[]", b"", b"5", b'{"x": "\xff"}', b'{"n": ' + b"9" * 5000 + b"}",
        b'{"x": "' + b"a" * 1_100_000 + b'"}', b'{"lang": "en"} {}', b'{"duration": NaN, "offset": -Infinity}',
        b'{"x":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)  # fmt: skip
def test_an_odd_sidecar_costs_only_itself(lake: Lake, tmp_path: Path, sidecar: bytes) -> None:
    rows = ingested(lake, packed(tmp_path / "x.tar", {"x.wav": sound(0.1), "x.json": sidecar, "y.wav": sound(0.2)}))
    assert [(row["status"], row["language_hint"]) for row in rows.values()] == [("ok", None)] * 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_sidecar_may_have_a_byte_order_mark(lake: Lake, tmp_path: Path, encoding: str) -> None:
    sidecar = '{"lang": "en", "text": "café"}'.encode(encoding)
    rows = ingested(lake, packed(tmp_path / "x.tar", {"x.json": sidecar, "x.wav": sound(0.1)}))
    assert rows["x.wav"]["language_hint"] == "en"

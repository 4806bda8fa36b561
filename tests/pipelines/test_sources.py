"""What inputs name: folders, links, patterns and suffixes; nothing is left out without being counted or told."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from servers import S3Server
from tars import sound

from manifests.lake import Lake
from manifests.storage import open_storage
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import InputError, Notes, entries


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def named(*inputs: str | Path, notes: Notes | None = None) -> list[str]:
    return [entry.uri for entry in entries(map(str, inputs), notes=notes)]


def below(root: Path, *inputs: str, notes: Notes | None = None) -> list[str]:
    return [uri.removeprefix(f"{root}/") for uri in named(*(root / name for name in inputs), notes=notes)]


def test_a_folder_gives_its_sound_by_suffix_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    sounds = [
        "book.m4b", "cast.mp2", "layer.mpga", "take.wave", "apple.aifc", "clip.avi", "cam.flv", "phone.m4v",
        "voice.spx", "old.3g2", "disc.mpg", "plain.wav", "LOUD.WAV", "in/deep.FLAC",
    ]  # fmt: skip
    made(tmp_path, *sounds, "notes.md", "a.json", "in/b.JSON", "packed.tar.gz", "README", ".hidden", "v1.2026-11-27 x")
    notes = Notes()
    assert sorted(below(tmp_path, "", notes=notes)) == sorted(sounds)
    assert notes.left_out == {".json": 2, ".md": 1, ".tar.gz": 1, "no suffix": 3}


def test_an_archive_is_known_by_its_suffix_in_any_case(tmp_path: Path) -> None:
    for name in ("lower.tar", "UPPER.TAR"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(__file__, "call.wav")
            archive.add(__file__, "call.txt")
    notes = Notes()
    assert [uri.rpartition(":")[0] for uri in below(tmp_path, "", notes=notes)] == [
        "UPPER.TAR#call.wav",
        "lower.tar#call.wav",
    ]
    assert notes.left_out == {".txt": 2}


def test_linked_folders_and_files_are_read_once(tmp_path: Path) -> None:
    made(tmp_path, "in/a.wav", "in/sub/b.wav", "out/c.wav", "out/sub/d.wav", "e.wav")
    (tmp_path / "in/again").symlink_to("sub")
    (tmp_path / "in/loop").symlink_to("loop")
    (tmp_path / "in/self").symlink_to(".")
    (tmp_path / "in/more").symlink_to(tmp_path / "out/sub")
    (tmp_path / "in/most").symlink_to(tmp_path / "out")
    (tmp_path / "in/same").symlink_to(tmp_path / "out")
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/one.wav").symlink_to(tmp_path / "e.wav")
    (tmp_path / "in/top").symlink_to(tmp_path)
    notes = Notes()
    found = below(tmp_path, "in", notes=notes)
    assert found == ["in/a.wav", "in/one.wav", "in/sub/b.wav", "in/more/d.wav", "in/most/c.wav"]
    assert notes.left_out == {"no suffix": 1, "linked folders that hold the folder itself": 1}
    assert below(tmp_path, "in/**") == sorted([*found, "in/loop"])


def test_a_pattern_gives_everything_that_it_matches_whatever_its_suffix(tmp_path: Path) -> None:
    made(tmp_path, "a.wav", "b.bin", "sub/c.wav", "sub/d.bin")
    assert below(tmp_path, "*") == ["a.wav", "b.bin", "sub/c.wav"]
    assert below(tmp_path, "**") == ["a.wav", "b.bin", "sub/c.wav", "sub/d.bin"]
    assert below(tmp_path, "*.bin") == ["b.bin"]


def test_a_folder_that_may_not_be_listed_is_told(tmp_path: Path) -> None:
    made(tmp_path, "a.wav", "shut/b.wav", "z.wav")
    (tmp_path / "shut").chmod(0)
    if os.geteuid() == 0:
        os.chmod(tmp_path, 0o755)
        for parent in tmp_path.parents:
            if parent.name.startswith(("pytest-", "popen-")):
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        found = list(entries([str(tmp_path)]))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "shut").chmod(0o755)
    assert [Path(entry.uri).name for entry in found] == ["a.wav", "z.wav", "shut"]
    assert "cannot be listed" in str(found[-1].error)


@pytest.mark.parametrize("name", ["empty", "notes", "x.tar", "l.txt", "m.jsonl", "e*", "**"])
def test_an_input_without_sound_is_told_with_a_remedy_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    made(tmp_path, "notes/a.md")
    made(tmp_path, "l.txt", "m.jsonl")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(__file__, "a.npy")
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.wav").write_bytes(sound(0.1))
    inputs = [str(tmp_path / ("empty/**" if name == "**" else name)), str(tmp_path / "good")]
    lake = Lake.at(str(tmp_path / "lake"))
    with pytest.raises(InputError, match=r"there is no sound|matches nothing") as caught:
        ingest(lake, inputs, IngestConfig())
    assert name.strip("*") in str(caught.value)
    assert caught.value.remedy
    assert [row["uris"] for _, table in lake.recordings() for row in table.to_pylist()] == [
        [str(tmp_path / "good/a.wav")]
    ]


@pytest.mark.parametrize("text", ["nowhere", "a\0b", "s3://", "s3://../x", "ftp://h/x.wav", "ftp://u:secret@h/x"])
def test_an_input_that_cannot_exist_is_told_before_anything_is_read(tmp_path: Path, text: str) -> None:
    made(tmp_path, "a.wav")
    found = entries([str(tmp_path), text])
    with pytest.raises(InputError) as caught:
        next(found)
    assert "secret" not in str(caught.value)


def test_brackets_in_keys_mean_themselves_where_such_an_object_or_prefix_exists(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}")
    for key in ("odd/Call [12].wav", "odd/Call 1.wav", "year [2024]/a.wav", "year 2/b.wav", "notes.md"):
        storage.put(key, b"x")
    root = f"s3://{bucket}"

    def keys(*inputs: str) -> list[str]:
        return [uri.removeprefix(f"{root}/") for uri in named(*(f"{root}/{name}" for name in inputs))]

    assert keys("odd/Call [12].wav") == ["odd/Call [12].wav"]
    assert keys("year [2024]/") == keys("year [2024]") == ["year [2024]/a.wav"]
    assert keys("year [23]/*", "odd/Call ?.wav") == ["year 2/b.wav", "odd/Call 1.wav"]
    notes = Notes()
    assert len(named(root, notes=notes)) == 4
    assert notes.left_out == {".md": 1}


def test_a_key_with_an_empty_part_is_not_taken_for_another_object(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    names = ["../odd//double.wav", f"s3://{bucket}//x.wav", f"s3://{bucket}/x.wav/", "s3://no-such-bucket-at-all/x.wav"]
    objects = {"odd//double.wav": sound(0.1), "odd/double.wav": sound(0.2), "x.wav": sound(0.3)}
    for key, data in (objects | {"lists/l.txt": "\n".join(names).encode()}).items():
        s3.client().put_object(Bucket=bucket, Key=key, Body=data)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [f"s3://{bucket}/lists/l.txt"], IngestConfig())
    rows = [row for _, table in lake.recordings() for row in table.to_pylist()]
    assert [row["uris"] for row in rows if row["status"] == "ok"] == [[f"s3://{bucket}/odd//double.wav"]]
    assert len(rows) == 4


def test_two_stars_cross_folders_as_the_shells_do(tmp_path: Path) -> None:
    made(tmp_path, "a1/x.wav", "a1/b/x.wav", "a1/b/y.flac", "a2/c/d/x.wav", "z/x.wav", "a1/.hid/x.wav", "a1/.x.wav")
    assert below(tmp_path, "**/x.wav") == ["a1/b/x.wav", "a1/x.wav", "a2/c/d/x.wav", "z/x.wav"]
    assert below(tmp_path, "a*/**/x.wav") == ["a1/b/x.wav", "a1/x.wav", "a2/c/d/x.wav"]
    assert below(tmp_path, "a1/**/*.[fw]*") == ["a1/b/x.wav", "a1/b/y.flac", "a1/x.wav"]
    assert below(tmp_path, "**/b") == ["a1/b/x.wav", "a1/b/y.flac"]

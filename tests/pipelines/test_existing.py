"""Only ingest and run make a lake: every other command says so, offers the nearest, and leaves nothing."""

from pathlib import Path

import pytest
from forked import speechmill
from lakes import write_lake

from manifests.existing import NoLakeError, check_lake
from manifests.lake import Lake

ROWS = [[{"id": "a" * 20, "duration_s": 20.0}]]
COMMANDS = [
    ["annotate", "demo", "--lake", "TYPO"],
    ["select", "demo", "--lake", "TYPO"],
    ["encode", "demo", "--lake", "TYPO"],
    ["tokens", "show", "demo", "--lake", "TYPO"],
    ["tokens", "verify", "demo", "--lake", "TYPO"],
    ["report", "TYPO"],
    ["manifest", "head", "TYPO"],
    ["manifest", "diff", "LAKE", "TYPO"],
    ["manifest", "validate", "TYPO"],
    ["manifest", "convert", "TYPO", "--to", "csv", "-o", "TYPO-out"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_mistyped_lake_is_not_made_and_the_nearest_is_offered(tmp_path: Path, words: list[str]) -> None:
    write_lake(tmp_path / "calls", ROWS)
    (tmp_path / "callz").mkdir()  # as near, and no lake
    before = sorted(tmp_path.rglob("*"))
    given = {"TYPO": str(tmp_path / "cals"), "LAKE": str(tmp_path / "calls"), "TYPO-out": str(tmp_path / "out")}
    done = speechmill(*[given.get(word, word) for word in words])
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert f"remedy: did you mean {tmp_path}/calls? " in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_new_lake_is_told_once(tmp_path: Path, conversation: Path) -> None:
    words = ["ingest", "demo", "--in", str(conversation), "--lake", str(tmp_path / "lake")]
    assert f"new lake at {tmp_path}/lake\n" in speechmill(*words).stderr
    assert "new lake" not in speechmill(*words).stderr


def test_an_existing_folder_that_is_no_lake_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    done = speechmill("select", "demo", "--lake", str(tmp_path / "sound"))
    assert (done.returncode, "there is no lake at" in done.stderr) == (1, True)
    assert list((tmp_path / "sound").iterdir()) == []


def test_a_mistyped_lake_in_a_bucket_is_told_the_same_way(bucket: str) -> None:
    made = write_lake(f"s3://{bucket}/data/calls", ROWS)
    with pytest.raises(NoLakeError) as caught:
        check_lake(Lake.at(f"s3://{bucket}/data/cals"), f"s3://{bucket}/data/cals/")
    assert caught.value.remedy.startswith(f"did you mean s3://{bucket}/data/calls? ")
    check_lake(made, "")
    with pytest.raises(NoLakeError):
        check_lake(Lake.at(f"s3://{bucket}"), f"s3://{bucket}")

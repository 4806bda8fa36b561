"""An ingest that meets nothing new reads and joins nothing, counts as ever, and misses nothing that is new."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_ingest import digests, rows, sound

from manifests.lake import Lake
from pipelines import ingest as module
from pipelines.ingest import Ingested, ingest
from pipelines.inputs.packing import Packing
from pipelines.inputs.remembered import ProbeCache
from pipelines.recipes.recipe import IngestConfig


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(str(tmp_path / "lake"))


@contextmanager
def cheaply(lake: Lake) -> Iterator[None]:
    """Within, an ingest fails that reads what is known, or that changes any file."""
    before = {key: lake.storage.stat(key).mtime_ns for key in lake.storage.list()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Packing, "load_known", lambda *_: pytest.fail("recordings were read"))
        patch.setattr(ProbeCache, "_load", lambda *_: pytest.fail("names that were hashed were read"))
        patch.setattr(module, "_hash", lambda *_: pytest.fail("hashed again"))
        yield
    assert {key: lake.storage.stat(key).mtime_ns for key in lake.storage.list()} == before


def test_nothing_is_read_or_written_where_nothing_is_new_and_all_is_counted(tmp_path: Path, lake: Lake) -> None:
    first = sound(tmp_path / "in/a.wav")
    shutil.copy(first, tmp_path / "in/b.wav")
    sound(tmp_path / "in/c.wav", level=0.3)
    (tmp_path / "in/broken.wav").write_bytes(b"no sound")
    (tmp_path / "in/dangling.wav").symlink_to("nowhere")
    (tmp_path / "in" / os.fsdecode(b"latin-\xe9.wav")).write_bytes(b"x")
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": "in/c.wav"}) + "\nno line\n")
    inputs = [str(tmp_path / "in"), str(tmp_path / "m.jsonl")]
    ingest(lake, inputs, IngestConfig(licence="CC0"))
    told: list[str] = []
    with cheaply(lake):
        found = ingest(lake, inputs, IngestConfig(licence="CC0"), lambda row: told.append(row["uri"]))
    assert found == Ingested(names=7, known=7)
    assert len(told) == 8  # c.wav is named twice
    config = IngestConfig(licence="CC BY")
    kept = {"licence": {"CC0": 3}}  # names, of two recordings
    assert ingest(lake, inputs, config) == Ingested(names=7, known=7, kept=kept)
    with cheaply(lake):
        assert ingest(lake, inputs, config) == Ingested(names=7, known=7, kept=kept)


def test_what_is_new_is_found_among_what_is_settled(tmp_path: Path, lake: Lake) -> None:
    first = sound(tmp_path / "in/a.wav")
    inputs = [str(tmp_path / "in")]
    ingest(lake, inputs, IngestConfig())
    with cheaply(lake):
        ingest(lake, inputs, IngestConfig())
    sound(tmp_path / "in/b.wav", level=0.3)
    shutil.copy(first, tmp_path / "in/c.wav")
    assert ingest(lake, inputs, IngestConfig()) == Ingested(names=3, new=1, known=1, renamed=1, batches=1)
    with cheaply(lake):
        assert ingest(lake, inputs, IngestConfig()) == Ingested(names=3, known=3)
    sound(first, level=0.7)  # other bytes under a known name
    assert ingest(lake, inputs, IngestConfig()) == Ingested(names=3, new=1, known=2, batches=1)
    status = first.stat()
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the same bytes at another time
    assert ingest(lake, inputs, IngestConfig()) == Ingested(names=3, known=3)
    with cheaply(lake):
        assert ingest(lake, inputs, IngestConfig()) == Ingested(names=3, known=3)


def test_what_left_the_lake_is_taken_in_again(tmp_path: Path, lake: Lake) -> None:
    sound(tmp_path / "in/a.wav")
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    before = digests(lake)
    lake.storage.delete("recordings/batch-000000.parquet")
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=1, new=1, batches=1)
    assert digests(lake) == before


def test_failures_end_when_they_end_although_all_other_names_are_settled(tmp_path: Path, lake: Lake) -> None:
    sound(tmp_path / "a.wav")
    listing = tmp_path / "m.jsonl"
    good = json.dumps({"audio_filepath": "a.wav"}) + "\n"
    listing.write_text(f"{good}no line\n")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    inputs = [str(listing), str(tmp_path / "b.wav")]
    ingest(lake, inputs, IngestConfig())
    with cheaply(lake):
        ingest(lake, inputs, IngestConfig())
    assert [row["status"] for row in rows(lake)].count("failed") == 2
    listing.write_text(good)
    ingest(lake, inputs, IngestConfig())
    assert [row["status"] for row in rows(lake)].count("failed") == 1
    sound(tmp_path / "b.wav", level=0.5)
    assert ingest(lake, inputs, IngestConfig()).new == 1
    with cheaply(lake):
        assert ingest(lake, inputs, IngestConfig()) == Ingested(names=2, known=2)


def test_a_manifest_that_says_something_else_of_a_settled_name_is_heard(tmp_path: Path, lake: Lake) -> None:
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav", level=0.3)
    listing = tmp_path / "m.jsonl"
    config = IngestConfig(labels=["show"])
    for show, kept in (("one", {}), ("two", {"show": {"one": 1}}), ("one", {})):
        lines = [{"audio_filepath": "a.wav", "show": show}, {"audio_filepath": "b.wav"}]
        listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = ingest(lake, [str(listing)], config)
        assert (found.names, found.kept) == (2, kept)
        with cheaply(lake):
            found = ingest(lake, [str(listing)], config)
        assert (found.names, found.known, found.kept) == (2, 2, kept)


def test_another_ingest_beside_spoils_nothing(tmp_path: Path, lake: Lake) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    sound(mine / "a.wav")
    sound(theirs / "b.wav", level=0.3)
    config = IngestConfig(source="theirs")
    ingest(lake, [str(mine)], IngestConfig())
    ingest(lake, [str(theirs)], config)
    for inputs, settings in (([str(mine)], IngestConfig()), ([str(theirs)], config)):
        with cheaply(lake):
            assert ingest(lake, inputs, settings) == Ingested(names=1, known=1)
    shutil.copy(mine / "a.wav", theirs / "a.wav")  # the batch of mine changes
    assert ingest(lake, [str(theirs)], config).renamed == 1
    assert ingest(lake, [str(mine)], IngestConfig()) == Ingested(names=1, known=1)
    with cheaply(lake):
        assert ingest(lake, [str(mine)], IngestConfig()) == Ingested(names=1, known=1)

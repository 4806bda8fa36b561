"""Ingest: every name is met, known, renamed or failed; nothing is hashed or written twice."""

import errno
import gzip
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.lake import Lake
from pipelines import ingest as module
from pipelines.ingest import Ingested, ingest
from pipelines.inputs import packing
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import InputError


def sound(path: Path, seconds: float = 1.0, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(8000 * seconds), level), 8000)
    return path


def rows(lake: Lake) -> list[dict]:
    return [row for _, table in lake.recordings() for row in table.to_pylist()]


def digests(lake: Lake) -> dict[str, str]:
    return {k: hashlib.sha256(lake.storage.read(k)).hexdigest() for k in lake.storage.list("recordings")}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(str(tmp_path / "lake"))


def test_the_id_is_the_hash_of_the_bytes_and_remembers_every_name(tmp_path: Path, lake: Lake) -> None:
    first = sound(tmp_path / "in/a.wav")
    shutil.copy(first, tmp_path / "in/b.wav")
    sound(tmp_path / "in/c/d.flac", level=0.2)
    (tmp_path / "in/notes.md").write_text("no sound")
    result = ingest(lake, [str(tmp_path / "in")], IngestConfig(source="here", licence="CC0"))
    assert result == Ingested(names=3, new=3, batches=1)
    one, two = rows(lake)
    assert one["uris"] == [str(first), str(tmp_path / "in/b.wav")]
    assert one["recording_id"] == hashlib.sha256(first.read_bytes()).hexdigest()[:20]
    assert (two["codec"], two["sample_rate"], two["claimed_duration_s"]) == ("flac", 8000, 1.0)
    assert (two["source"], two["licence"]) == ("here", "CC0")


def test_ingesting_again_adds_only_what_is_new_and_hashes_nothing_twice(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "in/a.wav")
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    before = digests(lake)
    looked = []
    probe_entry = module.probe_entry
    monkeypatch.setattr(
        module, "probe_entry", lambda entry, *a, **k: looked.append(entry.uri) or probe_entry(entry, *a, **k)
    )
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=1, known=1)
    assert (looked, digests(lake)) == ([], before)
    sound(tmp_path / "in/b.wav", level=0.3)
    shutil.copy(tmp_path / "in/a.wav", tmp_path / "in/z.wav")
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(
        names=3, new=1, known=1, renamed=1, batches=1
    )
    assert len(looked) == 2
    assert [len(row["uris"]) for row in rows(lake)] == [2, 1]


def test_what_cannot_be_read_is_a_failed_row_with_a_remedy(tmp_path: Path, lake: Lake) -> None:
    folder = tmp_path / "in"
    sound(folder / "good.wav")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("not music\n" * 9)
    (folder / "dangling.wav").symlink_to("nowhere")
    (folder / os.fsdecode(b"latin-\xe9.wav")).write_bytes(b"x")
    result = ingest(lake, [str(folder)], IngestConfig())
    assert (result.names, result.new, result.failed) == (5, 5, 4)
    failed = {Path(row["uris"][0]).name: row for row in rows(lake) if row["status"] == "failed"}
    assert set(failed) == {"empty.wav", "text.mp3", "dangling.wav", "latin-\\xe9.wav"}
    assert all(row["error"] and row["remedy"] and row["error_type"].endswith("AudioError") for row in failed.values())
    (folder / "dangling.wav").unlink()
    sound(folder / "dangling.wav", level=0.7)
    ingest(lake, [str(folder)], IngestConfig())
    assert sum(row["status"] == "failed" for row in rows(lake)) == 3
    assert sum(str(folder / "dangling.wav") in row["uris"] for row in rows(lake)) == 1


def test_what_is_no_regular_file_is_a_failed_row_and_never_waited_for(tmp_path: Path, lake: Lake) -> None:
    sound(tmp_path / "good.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zeros.wav").symlink_to("/dev/zero")
    (tmp_path / "folder.wav").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.wav"))
        names = ["pipe.wav", "zeros.wav", "folder.wav", "socket.wav", "/dev/zero", "/proc/self/mem", "/proc/kmsg"]
        (tmp_path / "list.txt").write_text("\n".join(["good.wav", *names]))
        result = ingest(lake, [str(tmp_path / "list.txt")], IngestConfig())
    assert (result.new, result.failed) == (len(names) + 1, len(names))
    failed = [row for row in rows(lake) if row["status"] == "failed"]
    assert all("not a regular file" in row["error"] for row in failed), [row["error"] for row in failed]


def test_batches_hold_a_bounded_number_of_hours_in_order_of_names(tmp_path: Path, lake: Lake) -> None:
    for n in range(5):
        sound(tmp_path / f"in/{n}.wav", seconds=3, level=n / 10 + 0.05)
    ingest(lake, [str(tmp_path / "in")], IngestConfig(batch_hours=6.5 / 3600))
    assert [[Path(u).stem for u in t["uris"].combine_chunks().flatten().to_pylist()] for _, t in lake.recordings()] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
    ]


def test_an_ingest_that_was_cut_short_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    for n in range(5):
        sound(tmp_path / f"in/{n}.wav", seconds=3, level=n / 10 + 0.05)
    config = IngestConfig(batch_hours=6.5 / 3600)
    whole = Lake.at(str(tmp_path / "whole"))
    ingest(whole, [str(tmp_path / "in")], config)
    for done in (1, 2):
        lake = Lake.at(str(tmp_path / f"cut{done}"))
        for key in list(whole.storage.list("recordings"))[:done]:
            lake.storage.put(key, whole.storage.read(key))
        ingest(lake, [str(tmp_path / "in")], config)
        assert digests(lake) == digests(whole)


def test_lists_patterns_and_manifests_name_recordings(tmp_path: Path, lake: Lake) -> None:
    names = [sound(tmp_path / f"in/{n}.wav", level=n / 10 + 0.05) for n in range(5)]
    (tmp_path / "list.txt").write_text(f"in/0.wav\n\n{names[1]}\n")
    (tmp_path / "nemo.jsonl").write_text(json.dumps({"audio_filepath": "in/2.wav", "duration": 9, "lang": "de"}) + "\n")
    recording = {"id": "x", "sources": [{"type": "file", "channels": [0], "source": str(names[3])}]}
    cut = {"id": "c", "recording": recording, "supervisions": [{"language": "fr", "text": "oui"}], "type": "MonoCut"}
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.write(json.dumps(cut) + "\n")
    inputs = ["list.txt", "nemo.jsonl", "cuts.jsonl.gz", "in/[4-9].wav"]
    result = ingest(lake, [str(tmp_path / name) for name in inputs], IngestConfig())
    assert (result.names, result.failed) == (5, 0)
    assert [row["uris"] for row in rows(lake)] == [[str(name)] for name in names]
    assert [row["language_hint"] for row in rows(lake)] == [None, None, "de", "fr", None]
    assert json.loads(rows(lake)[3]["hints"])[0]["supervisions"][0]["text"] == "oui"


@pytest.mark.parametrize(
    ("name", "text"), [("none", None), ("x*.wav", None), ("bad.jsonl", '{"a": 1}'), ("b.jsonl", "{")]
)
def test_inputs_that_name_nothing_are_told_with_a_remedy(
    tmp_path: Path, lake: Lake, name: str, text: str | None
) -> None:
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        ingest(lake, [str(tmp_path / name)], IngestConfig())
    assert name in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("batches", [1, 3])
def test_of_two_ingests_at_once_the_later_takes_the_next_numbers_and_nothing_is_lost_or_twice(
    tmp_path: Path, lake: Lake, batches: int
) -> None:
    mine = [str(sound(tmp_path / f"mine/{n}.wav", 3, level=0.2 + n / 10)) for n in range(3)]
    both = str(sound(tmp_path / "both.wav", 3))
    shutil.copy(both, tmp_path / "mine/same.wav")
    config = IngestConfig(batch_hours=(10 if batches == 1 else 3.5) / 3600)

    def other(row: dict) -> None:
        if not list(lake.batches()):
            ingest(lake, [both], IngestConfig())

    result = ingest(lake, [str(tmp_path / "mine")], config, other)
    assert result == Ingested(names=4, new=3, renamed=1, batches=batches)
    assert [row["uris"] for row in rows(lake)] == [[both, str(tmp_path / "mine/same.wav")], *[[name] for name in mine]]
    before = digests(lake)
    assert ingest(lake, [str(tmp_path / "mine"), both], config) == Ingested(names=5, known=5)
    assert digests(lake) == before


def test_what_was_hashed_but_could_not_be_probed_is_probed_again_and_put_right_with_all_its_names(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sound(tmp_path / "in/a.wav"), sound(tmp_path / "in/b.wav", level=0.3)
    copy = tmp_path / "copy/a.wav"
    copy.parent.mkdir()
    shutil.copy(first, copy)
    result = module.Prober.result

    def broken(prober: module.Prober, path: str) -> dict:
        if path.endswith("a.wav"):
            raise AttributeError("'NoneType' object has no attribute 'sample_rate'")
        return result(prober, path)

    monkeypatch.setattr(module.Prober, "result", broken)
    assert ingest(lake, [str(tmp_path / "in"), str(copy)], IngestConfig()).failed == 1
    failed = next(row for row in rows(lake) if row["status"] == "failed")
    assert (failed["uris"], failed["error_type"]) == ([str(copy), str(first)], "AttributeError")
    assert failed["remedy"]
    before = digests(lake)
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=2, known=2)
    assert digests(lake) == before
    monkeypatch.setattr(module.Prober, "result", result)
    monkeypatch.setattr(module, "_hash", lambda *_: pytest.fail("hashed again"))
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=2, new=1, known=1, batches=1)
    assert [(row["uris"], row["status"]) for row in rows(lake)] == [
        ([str(second)], "ok"),
        ([str(copy), str(first)], "ok"),
    ]
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=2, known=2)


def test_a_recording_named_in_many_lines_is_read_once(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    lines = [{"audio_filepath": name, "offset": n, "duration": 1} for n in range(50) for name in ("a.wav", "b.wav")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, probed = module.Prober.result, []
    monkeypatch.setattr(module.Prober, "result", lambda prober, path: probed.append(path) or result(prober, path))
    assert ingest(lake, [str(tmp_path / "m.jsonl")], IngestConfig()) == Ingested(names=2, new=2, failed=1, batches=1)
    assert len(probed) == 2
    assert [len(json.loads(row["hints"])) for row in rows(lake)] == [50, 50]


def test_a_hint_counts_only_for_the_ingest_that_met_it(tmp_path: Path, lake: Lake) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "lang": "de"}) + "\n")
    ingest(lake, [str(tmp_path / "m.jsonl")], IngestConfig())
    lake.storage.delete("recordings/batch-000000.parquet")  # what was hashed is still remembered
    ingest(lake, [str(tmp_path / "a.wav")], IngestConfig())
    assert [(row["hints"], row["language_hint"]) for row in rows(lake)] == [(None, None)]


def test_a_killed_repair_of_a_failure_is_finished_by_the_next_ingest(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "in/a.wav")
    with monkeypatch.context() as patch:
        patch.setattr(module.Prober, "result", lambda prober, path: [][0])
        ingest(lake, [str(tmp_path / "in")], IngestConfig())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing.Packing, "add_names", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(lake, [str(tmp_path / "in")], IngestConfig())
    assert [row["status"] for row in rows(lake)] == ["failed", "ok"]
    assert ingest(lake, [str(tmp_path / "in")], IngestConfig()) == Ingested(names=1, known=1)
    assert [row["status"] for row in rows(lake)] == ["ok"]


@pytest.mark.parametrize("claim", [None, 0.0, -5.0, float("nan"), float("inf"), 1e300])
def test_absurd_claims_of_length_do_not_break_batches(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch, claim: float | None
) -> None:
    for n in range(3):
        sound(tmp_path / f"in/{n}.wav", level=n / 10 + 0.05)
    result = module.Prober.result
    absurd = {"claimed_duration_s": claim}
    monkeypatch.setattr(module.Prober, "result", lambda prober, path: result(prober, path) | absurd)
    ingest(lake, [str(tmp_path / "in")], IngestConfig(batch_hours=0.4))
    assert [len(table) for _, table in lake.recordings()] == [1, 1, 1]


def test_what_is_the_runs_own_fault_stops_the_ingest(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(prober: object, path: str) -> dict:
        raise OSError(errno.EMFILE, "Too many open files")

    sound(tmp_path / "in/a.wav")
    monkeypatch.setattr(module.Prober, "result", scarce)
    with pytest.raises(OSError, match="Too many open files"):
        ingest(lake, [str(tmp_path / "in")], IngestConfig())


def test_what_a_stopped_ingest_hashed_is_hashed_again_only_where_it_changed(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(sound(tmp_path / f"in/{n}.wav", level=n / 10 + 0.05)) for n in range(5)]
    looked: list[str] = []
    probe_entry = module.probe_entry
    monkeypatch.setattr(
        module, "probe_entry", lambda entry, *a, **k: looked.append(entry.uri) or probe_entry(entry, *a, **k)
    )
    monkeypatch.setattr(module, "PART_ROWS", 2)

    def stop(row: dict) -> None:
        if row["uri"] == names[4]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(lake, [str(tmp_path / "in")], IngestConfig(), stop)
    assert (looked, list(lake.batches())) == (names, [])
    looked.clear()
    sound(tmp_path / "in/1.wav", level=0.9)
    result = ingest(lake, [*reversed(names), names[0]], IngestConfig())
    assert (looked, result) == ([names[4], names[1]], Ingested(names=5, new=5, batches=1))
    assert [row["uris"] for row in rows(lake)] == [[name] for name in names]

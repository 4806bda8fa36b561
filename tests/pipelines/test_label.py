"""Labels: given at ingest by recipes and manifests, corrected afterwards, usable in rules, and every change kept."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from lakes import rules, write_lake
from test_ingest import sound

from manifests import schemas
from manifests.lake import Lake
from manifests.pick import Criteria, PickError, pick
from manifests.select import select
from manifests.storage.local import LocalStorage
from manifests.tables import write_parquet_bytes
from pipelines.commands.cli import cli
from pipelines.ingest import Ingested, ingest
from pipelines.recipes.recipe import IngestConfig

BATCHES = [
    [{"id": f"{batch}{n}" * 10, "duration_s": 20.0, "speech": [(0.0, 15.0)]} for n in range(3)] for batch in range(3)
]
A, B, C = (f"{n}0" * 10 for n in range(3))


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return write_lake(tmp_path / "lake", BATCHES)
    return write_lake(f"s3://{request.getfixturevalue('bucket')}/lake", BATCHES)


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["label", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def rows(lake: Lake) -> dict[str, dict[str, Any]]:
    found = [row for _, table in lake.recordings() for row in table.to_pylist()]
    return {row["recording_id"]: row | {"labels": dict(row["labels"] or ())} for row in found}


def changes(lake: Lake) -> list[tuple[str, ...]]:
    keys = list(lake.storage.list("labels"))
    return [tuple(row.values())[:4] for key in keys for row in lake.read(key).to_pylist()]


def test_labels_are_changed_where_they_match_and_nothing_else_is(lake: Lake) -> None:
    before = rows(lake)
    found = run(lake.storage.root, "licence=CC0", "country=DE", "--id", B, "--id", A)
    assert (found["picked"], found["changed"]) == (2, 2)
    assert {"name": "licence", "old": None, "new": "CC0", "count": 2} in found["changes"]
    after = rows(lake)
    assert list(after) == list(before)
    for recording_id, row in after.items():
        new = {"licence": "CC0", "labels": {"country": "DE"}} if recording_id in (A, B) else {}
        assert row == before[recording_id] | new
    keys = [lake.recordings_key(batch) for batch in lake.batches()]
    anew = [write_parquet_bytes(schemas.table(lake.read(key).to_pylist(), schemas.RECORDINGS)) for key in keys]
    assert [lake.storage.read(key) for key in keys] == anew
    assert run(lake.storage.root, "country=", "source=", "--source", "here", "--uri", "10*")["changed"] == 1
    assert rows(lake)[B] == before[B] | {"licence": "CC0", "source": None}
    assert lake.read(lake.recordings_key("batch-000001"))["labels"][0].as_py() is None
    assert changes(lake) == [
        (A, "country", None, "DE"),
        (A, "licence", None, "CC0"),
        (B, "country", None, "DE"),
        (B, "licence", None, "CC0"),
        (B, "country", "DE", None),
        (B, "source", "here", None),
    ]


def test_a_dry_run_says_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    before = sorted(lake.storage.list())
    found = run(lake.storage.root, "source=there", "--where", "duration_s > 10", "--dry-run")
    assert (found["changed"], found["changes"]) == (
        9,
        [{"name": "source", "old": "here", "new": "there", "count": 9}],
    )
    assert (sorted(lake.storage.list()), rows(lake)[A]["source"]) == (before, "here")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("key", ["recording_id", "uri", "pattern"])
def test_a_file_gives_each_recording_labels_of_its_own(tmp_path: Path, suffix: str, key: str) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    names = [A, "0[1]*" if key == "pattern" else "01" * 10, "unknown"]
    table = [
        {key: name, "show": show, "year": year}
        for name, show, year in zip(names, ("one", "two", "x"), (2020, None, 1), strict=True)
    ]
    file = tmp_path / f"said.{suffix}"
    if suffix == "csv":
        file.write_text(f"{key},show,year\n{names[0]},one,2020\n{names[1]},two,\n{names[2]},x,1\n")
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), file)
    found = run(lake.storage.root, "rights=asked", "--from", str(file))
    assert (found["picked"], found["changed"], found["unmatched"]) == (2, 2, 1)
    after = rows(lake)
    assert after[A]["labels"] == {"rights": "asked", "show": "one", "year": "2020"}
    assert after["01" * 10]["labels"] == {"rights": "asked", "show": "two"}
    assert all(not row["labels"] for name, row in after.items() if name not in (A, "01" * 10))
    history = run(lake.storage.root, "--history", A)
    assert [(row["name"], row["old"], row["new"]) for row in history] == [
        ("rights", None, "asked"),
        ("show", None, "one"),
        ("year", None, "2020"),
    ]
    assert history[0]["asked"] == f"rights=asked --from said.{suffix}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["country=DE"], "no recordings are named"),
        (["country=DE", "--where", "true); DROP VIEW x"], "syntax error"),
        (["country=DE", "--where", "nix = 1"], "nix"),
        (["uri=x", "--id", A], "has another meaning"),
        (["a b=x", "--id", A], "cannot be used"),
        (["country=" + "x" * 201, "--id", A], "1 to 200 characters"),
        (["--id", A], "say what to change"),
        (["country", "--id", A], "is not KEY=VALUE"),
        (["show=other", "--from", "FILE"], "two values of show"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    (tmp_path / "said.csv").write_text(f"recording_id,show\n{A},one\n")
    given = [str(tmp_path / "said.csv") if word == "FILE" else word for word in words]
    done = CliRunner().invoke(cli, ["label", lake.storage.root, *given])
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
    assert list(lake.storage.list("labels")) == []


def test_a_correction_that_was_killed_is_finished_by_the_same_and_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, whole = (write_lake(tmp_path / name, BATCHES) for name in ("lake", "whole"))
    words = ["country=DE", "--source", "here"]
    run(whole.storage.root, *words)
    for killed_at in (1, 2, 2):
        with monkeypatch.context() as patch:
            count = iter(range(10))
            change = Lake.change

            def killed(*given: Any, count: Any = count, at: int = killed_at, change: Any = change) -> bool:
                if next(count) == at - 1:
                    raise KeyboardInterrupt
                return change(*given)

            patch.setattr(Lake, "change", killed)
            CliRunner().invoke(cli, ["label", lake.storage.root, *words])
        assert list(rows(lake).values()) != list(rows(whole).values())
    run(lake.storage.root, *words)
    assert digests(lake) == digests(whole)


def digests(lake: Lake) -> dict[str, str]:
    keys = [key for key in lake.storage.list() if not key.startswith("runs/")]
    return {key: hashlib.sha256(lake.storage.read(key)).hexdigest() for key in keys}


def test_of_two_corrections_at_once_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    replace = LocalStorage.replace
    begun: list[str] = []

    def other_first(storage: LocalStorage, key: str, old: bytes, data: bytes) -> bool:
        if not begun:
            begun.append(key)
            run(lake.storage.root, "show=news", "--id", A)
        return replace(storage, key, old, data)

    monkeypatch.setattr(LocalStorage, "replace", other_first)
    run(lake.storage.root, "country=DE", "--source", "here")
    assert rows(lake)[A]["labels"] == {"country": "DE", "show": "news"}
    assert len(list(lake.storage.list("labels"))) == 2


def test_of_two_ingests_that_add_names_to_one_batch_at_once_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    first, one, two = sound(tmp_path / "a.wav"), tmp_path / "one.wav", tmp_path / "two.wav"
    ingest(lake, [str(first)], IngestConfig())
    shutil.copy(first, one)
    shutil.copy(first, two)
    replace = LocalStorage.replace
    begun: list[str] = []

    def other_first(storage: LocalStorage, key: str, old: bytes, data: bytes) -> bool:
        if not begun:
            begun.append(key)
            assert ingest(lake, [str(two)], IngestConfig()).renamed == 1
        return replace(storage, key, old, data)

    monkeypatch.setattr(LocalStorage, "replace", other_first)
    assert ingest(lake, [str(one)], IngestConfig()).renamed == 1
    ((row,),) = (table.to_pylist() for _, table in lake.recordings())
    assert row["uris"] == [str(first), str(one), str(two)]


def test_recipes_and_lines_of_manifests_give_labels(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    for n in range(5):
        sound(tmp_path / f"{n}.wav", level=n / 10 + 0.05)
    lines = [
        {"audio_filepath": "0.wav", "show": "news", "year": 2020, "licence": "CC0", "other": "x"},
        {"audio_filepath": "1.wav", "show": "x" * 300, "country": "FR", "year": None},
        {"audio_filepath": "2.wav", "show": "one"},
        {"audio_filepath": "2.wav", "show": "two"},
    ]
    (tmp_path / "nemo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recording = {"id": "x", "sources": [{"type": "file", "channels": [0], "source": str(tmp_path / "3.wav")}]}
    supervisions = [{"custom": {"show": "talk"}}, {"custom": {"show": "talk", "year": 1}}, {"custom": {"year": 2}}]
    cut = {"id": "c", "type": "MonoCut", "recording": recording, "supervisions": supervisions}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut | {"custom": {"country": "IT"}}) + "\n")
    config = IngestConfig(
        source="radio", licence="CC BY", label={"country": "DE"}, labels=["show", "year", "country", "licence"]
    )
    inputs = [str(tmp_path / name) for name in ("nemo.jsonl", "cuts.jsonl", "4.wav")]
    found = ingest(lake, inputs, config)
    assert found.left_out == {
        "labels that are no short plain text": 1,
        "labels on which the lines of a recording differ": 1,
        "labels that a line gives twice": 1,
    }
    labels = [(row["source"], row["licence"], row["labels"]) for row in rows(lake).values()]
    assert labels == [
        ("radio", "CC0", {"country": "DE", "show": "news", "year": "2020"}),
        ("radio", "CC BY", {"country": "FR"}),
        ("radio", "CC BY", {"country": "DE"}),
        ("radio", "CC BY", {"country": "IT", "show": "talk"}),
        ("radio", "CC BY", {"country": "DE"}),
    ]
    assert ingest(lake, inputs, config) == Ingested(names=5, known=5)


def test_known_recordings_keep_their_labels_and_an_ingest_with_others_says_so(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    sound(tmp_path / "in/a.wav")
    sound(tmp_path / "in/b.wav", level=0.3)
    inputs = [str(tmp_path / "in")]
    ingest(lake, inputs, IngestConfig(licence="CC BY 4.0", label={"country": "DE"}))
    before = rows(lake)
    sound(tmp_path / "in/c.wav", level=0.5)
    config = IngestConfig(source="there", licence="CC0", label={"country": "FR", "show": "x"})
    found = ingest(lake, inputs, config)
    kept = {"country": {"DE": 2}, "licence": {"CC BY 4.0": 2}, "show": {"": 2}, "source": {"": 2}}
    assert found == Ingested(names=3, new=1, known=2, batches=1, kept=kept)
    assert "2 known with another licence, which is kept: CC BY 4.0; `speechmill label` changes it" in str(found)
    assert "2 known with another source, which is kept: none" in str(found)
    assert {name: rows(lake)[name] for name in before} == before
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": "in/a.wav", "lang": "de"}) + "\n")
    assert ingest(lake, [str(tmp_path / "m.jsonl")], IngestConfig()).kept == {"language_hint": {"": 1}}
    assert ingest(lake, inputs, IngestConfig(licence="CC BY 4.0")).kept == {"licence": {"CC0": 1}}


def test_rules_and_statistics_read_labels(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    run(lake.storage.root, "country=DE", "--uri", "0*")
    run(lake.storage.root, "country=FR", "--uri", "1*")
    funnel = select(
        lake, rules(recordings={"german": "labels['country'] = 'DE'"}, windows={"show": "labels['country'] = 'DE'"})
    )
    assert funnel.part("recordings", "kept")[0] == 3
    assert funnel.part("windows", "kept")[0] == funnel.total["windows"] > 0
    windows = lake.read(lake.windows_key("sel", "batch-000000"))
    assert {tuple(value) for value in windows["labels"].to_pylist()} == {(("country", "DE"),)}
    words = ["manifest", "stats", lake.storage.root, "--by", "labels['country']", "--json"]
    told = json.loads(CliRunner().invoke(cli, words).stdout)
    assert {row["labels['country']"]: row["count"] for row in told["groups"]} == {"DE": 3, "FR": 3, None: 3}
    words = ["manifest", "stats", lake.storage.root, "--by", "labels.country,source", "--json"]
    told = json.loads(CliRunner().invoke(cli, words).stdout)
    assert {(row["labels.country"], row["source"]): row["count"] for row in told["groups"]} == {
        ("DE", "here"): 3,
        ("FR", "here"): 3,
        (None, "here"): 3,
    }


def test_names_that_hold_what_patterns_are_made_of_are_found_as_they_are(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [[{"id": "a[1]*b", "duration_s": 20.0}, {"id": "a1xb", "duration_s": 20.0}]])
    for pattern, expected in (("a[1]*b", {"a[1]*b", "a1xb"}), ("a[[]*", {"a[1]*b"}), ("a?xb", {"a1xb"})):
        found = pick(lake, Criteria(uris=(pattern,))).execute("FROM picked").fetchall()
        assert {name for (name,) in found} == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.txt", ""), ("x.csv", "name\na\n"), ("x.csv", "uri\n,\n"), ("x.jsonl", "[1]\n"), ("x.parquet", "no")],
)
def test_a_file_that_names_no_recordings_is_told_with_its_remedy(tmp_path: Path, name: str, text: str) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    (tmp_path / name).write_text(text)
    with pytest.raises(PickError, match=name) as caught:
        pick(lake, Criteria(file=str(tmp_path / name)))
    assert caught.value.remedy

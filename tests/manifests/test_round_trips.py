"""Every format that is written is read back, with all that it can hold; places are never mixed or left half-written."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.exchange.convert import FORMS, convert
from manifests.exchange.foreign.nemo import COLUMNS
from manifests.exchange.foreign.rows import TABLES, ManifestError
from manifests.exchange.relations import Source, open_foreign, open_lake
from manifests.lake import Lake
from manifests.storage import open_storage
from pipelines.commands.cli import cli

few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Rows = list[dict[str, Any]]

plain = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
words = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
starts = st.floats(0, 1e5) | st.decimals(0, 10**4, places=3).map(float)
lengths = st.floats(1e-3, 1e5) | st.decimals("0.001", 10**4, places=3).map(float)
keys = st.text(min_size=1, max_size=6).filter(lambda key: key not in COLUMNS | {"label", "path", "id", "sources"})
custom = st.none() | st.dictionaries(keys, st.integers(-9, 9) | st.text(max_size=5), min_size=1, max_size=2).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)


def segment(recording_id: str, number: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "segment_id": st.just(f"{recording_id}-{number}"), "recording_id": st.just(recording_id),
            "start_s": starts, "duration_s": lengths, "channels": st.sampled_from([[0], [1], [0, 1]]),
            "speaker": st.none() | plain, "language": words, "text": words, "custom": custom, "rest": st.none(),
        }
    )  # fmt: skip


def recording(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "recording_id": st.just(name),
            "uris": st.lists(plain, max_size=1).map(lambda more: [f"/x/{name}.wav", *more]),
            "sample_rate": st.sampled_from([8000, 44100]), "num_samples": st.integers(1, 2**40), "duration_s": lengths,
            "channels": st.integers(1, 2), "custom": custom, "rest": st.none(),
        }
    )  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Rows]:
    """Recordings, segments of them and windows that hold such segments."""
    names = draw(st.lists(plain, min_size=1, max_size=3, unique=True))
    recordings, segments, windows = [], [], []
    for name in names:
        recordings.append(draw(recording(name)))
        segments += [draw(segment(name, number)) for number in range(draw(st.integers(0, 2)))]
        for number in range(draw(st.integers(0, 2))):
            inside = [draw(segment(name, 10 + number))] if draw(st.booleans()) else []
            window = {"window_id": f"{name}-w{number}", "recording_id": name, "segments": inside, "rest": None}
            window |= {"start_s": draw(starts), "duration_s": draw(lengths), "channels": [0], "custom": draw(custom)}
            windows.append(window)
    return {"recordings": recordings, "segments": segments, "windows": windows}


def source_of(given: dict[str, Rows], folder: Path) -> Source:
    folder.mkdir()
    for table, rows in given.items():
        if rows:
            pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[table]), folder / f"{table}.parquet")
    return open_foreign([str(folder)])


def rows_of(source: Source, table: str) -> Rows:
    rows = source.connection.sql(f"SELECT * EXCLUDE (position) FROM {source.relations[table]} ORDER BY position")
    found: Rows = rows.to_arrow_table().to_pylist()
    return found


def plainly(value: Any) -> Any:
    """Rows whose JSON texts are objects: the order of their keys says nothing."""
    if isinstance(value, list):
        return [plainly(one) for one in value]
    if isinstance(value, dict):
        return {key: json.loads(one) if key == "custom" and one else plainly(one) for key, one in value.items()}
    return value


def there_and_back(given: dict[str, Rows], form: str) -> dict[str, Rows]:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out" if FORMS[form].folder else f"{folder}/out.{'rttm' if form == 'rttm' else 'jsonl'}"
        result = convert(source_of(given, Path(folder) / "given"), form, out)
        assert result.left_out == {}
        back = open_foreign([out])
        return {table: plainly(rows_of(back, table)) for table in TABLES}


@few
@given(tables())
def test_tables_come_back_from_parquet_and_csv_with_every_column(given: dict[str, Rows]) -> None:
    for form in ("parquet", "csv"):
        assert there_and_back(given, form) == {table: plainly(rows) for table, rows in given.items()}


@few
@given(tables())
def test_lhotse_gives_all_back_but_what_its_recordings_cannot_hold(given: dict[str, Rows]) -> None:
    back = there_and_back(given, "lhotse")
    bare = [row | {"uris": row["uris"][:1], "custom": None} for row in given["recordings"]]
    assert back["recordings"] == bare
    # A cut repeats the recording that it is of, which is kept as it was stated.
    assert [row | {"rest": None} for row in back["windows"]] == plainly(given["windows"])
    if given["segments"]:
        assert back["segments"] == plainly(given["segments"])


def picked(rows: Rows, *names: str, **more: Any) -> Rows:
    return [{name: row[name] for name in names} | {name: of(row) for name, of in more.items()} for row in rows]


SAID = ("start_s", "duration_s", "speaker")


@few
@given(tables().filter(lambda given: given["segments"]))
def test_nemo_gives_utterances_back_under_the_paths_of_their_files(given: dict[str, Rows]) -> None:
    path = {row["recording_id"]: row["uris"][0] for row in given["recordings"]}
    said = (*SAID, "language", "text", "custom")
    expected = picked(plainly(given["segments"]), *said, of=lambda row: path[row["recording_id"]])
    back = there_and_back(given, "nemo")
    assert picked(back["segments"], *said, of=lambda row: row["recording_id"]) == expected
    assert {row["uris"][0] for row in back["recordings"]} == {row["of"] for row in expected}


@few
@given(tables())
def test_nemo_for_diarization_gives_files_durations_and_turns_back(given: dict[str, Rows]) -> None:
    path = {row["recording_id"]: row["uris"][0] for row in given["recordings"]}
    back = there_and_back(given, "nemo-diarization")
    assert picked(back["recordings"], "duration_s", of=lambda row: row["uris"][0]) == picked(
        given["recordings"], "duration_s", of=lambda row: row["uris"][0]
    )
    turns = picked(back["segments"], *SAID, of=lambda row: row["recording_id"], channel=lambda row: row["channels"][0])
    expected = picked(
        given["segments"], *SAID, of=lambda row: path[row["recording_id"]], channel=lambda row: row["channels"][0]
    )
    assert turns == expected
    regions = picked(back["windows"], "start_s", of=lambda row: row["recording_id"])
    assert regions == [{"start_s": 0.0, "of": row["uris"][0]} for row in given["recordings"]]


@few
@given(tables().filter(lambda given: given["segments"]))
def test_rttm_gives_turns_back_bit_by_bit(given: dict[str, Rows]) -> None:
    back = there_and_back(given, "rttm")
    first = {"channel": lambda row: row["channels"][0]}
    assert picked(back["segments"], "recording_id", *SAID, **first) == picked(
        given["segments"], "recording_id", *SAID, **first
    )


@few
@given(st.lists(plain, min_size=1, max_size=4, unique=True), lengths)
def test_moshi_gives_paths_and_durations_back(names: list[str], duration_s: float) -> None:
    row = {"sample_rate": 8000, "num_samples": 8, "duration_s": duration_s, "channels": 2, "custom": None, "rest": None}
    recordings = [row | {"recording_id": name, "uris": [f"/x/{name}.wav"]} for name in names]
    back = there_and_back({"recordings": recordings}, "moshi")
    assert picked(back["recordings"], "uris", "duration_s", "channels") == picked(
        recordings, "uris", "duration_s", "channels"
    )


def test_every_format_of_a_lake_is_read_back_and_written_in_every_other(milled: Lake, tmp_path: Path) -> None:
    for form, chosen in FORMS.items():
        out = tmp_path / (form if chosen.folder else f"{form}.{'rttm' if form == 'rttm' else 'jsonl'}")
        convert(open_lake(milled), form, str(out))
        for other, next_one in FORMS.items():
            target = str(tmp_path / f"{form}-{other}") + ("" if next_one.folder else ".jsonl")
            told = written(str(out), other, target)
            assert told == "written" or "nothing here can be written" in told
            if told == "written":  # of recordings alone, RTTM has no turns but the regions beside them
                assert Path(target).exists() or Path(target).with_suffix(".uem").exists()
            else:
                assert not Path(target).exists()
    assert not list(tmp_path.rglob(".*"))


def written(given: str, form: str, out: str) -> str:
    try:
        convert(open_foreign([given]), form, out)
    except ManifestError as error:
        return str(error)
    return "written"


def manifest(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["manifest", *words])
    assert done.exit_code == code, done.output
    return done


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_there_is_kept_unless_it_may_be_overwritten(milled: Lake, tmp_path: Path, form: str) -> None:
    root, out = str(milled.storage.root), tmp_path / ("out" if FORMS[form].folder else "out.rttm")
    manifest("convert", root, "--to", form, "-o", str(out))
    before = files(tmp_path)
    done = manifest("convert", root, "--to", form, "-o", str(out), code=1)
    assert "--overwrite" in done.stderr
    assert files(tmp_path) == before
    manifest("convert", root, "--to", form, "-o", str(out), "--overwrite")
    assert files(tmp_path) == before


def test_overwriting_leaves_no_mixture_and_touches_nothing_of_others(milled: Lake, tmp_path: Path) -> None:
    root, out = str(milled.storage.root), tmp_path / "out"
    manifest("convert", root, "--to", "nemo-diarization", "-o", str(out))
    manifest("convert", root, "--to", "csv", "-o", str(out), "--overwrite")
    assert sorted(files(out)) == ["recordings.csv", "segments.csv", "windows.csv"]
    assert [path.name for path in out.iterdir() if path.is_dir()] == []
    (out / "thesis.txt").write_text("three years of work")
    done = manifest("convert", root, "--to", "lhotse", "-o", str(out), "--overwrite", code=1)
    assert "has the file thesis.txt, which no conversion wrote" in done.stderr
    assert len(files(out)) == 4
    manifest("convert", root, "--to", "rttm", "-o", str(tmp_path / "t.rttm"))
    (tmp_path / "u.jsonl").write_text('{"id": "s", "recording_id": "r", "start": 0, "duration": 1, "speaker": "A"}')
    manifest("convert", str(tmp_path / "u.jsonl"), "--to", "rttm", "-o", str(tmp_path / "t.rttm"), "--overwrite")
    assert not (tmp_path / "t.uem").exists()


def test_a_folder_in_a_bucket_is_overwritten_as_one_on_a_disk(milled: Lake, tmp_path: Path, bucket: str) -> None:
    root, storage = str(milled.storage.root), open_storage(f"s3://{bucket}/some")
    out = f"{storage.root}/out"

    def held() -> dict[str, bytes]:
        return {key: storage.read(key) for key in storage.list()}

    storage.put("out2/recordings.csv", b"of others")
    for form in ("csv", "parquet", "lhotse"):
        manifest("convert", root, "--to", form, "-o", out, *(["--overwrite"] if form != "csv" else []))
        before = held()
        assert "--overwrite" in manifest("convert", root, "--to", form, "-o", out, code=1).stderr
        assert held() == before
        manifest("convert", root, "--to", form, "-o", out, "--overwrite")
        assert held() == before
        manifest("convert", root, "--to", form, "-o", str(tmp_path / form))
        assert before == {f"out/{name}": data for name, data in files(tmp_path / form).items()} | {
            "out2/recordings.csv": b"of others"
        }
    storage.put("out/thesis.txt", b"three years of work")
    done = manifest("convert", root, "--to", "csv", "-o", out, "--overwrite", code=1)
    assert "has the file thesis.txt, which no conversion wrote" in done.stderr
    assert held() == before | {"out/thesis.txt": b"three years of work"}
    turns = f"{storage.root}/turns.rttm"
    manifest("convert", root, "--to", "rttm", "-o", turns)
    assert "turns.rttm exists already" in manifest("convert", root, "--to", "rttm", "-o", turns, code=1).stderr
    (tmp_path / "u.jsonl").write_text('{"id": "s", "recording_id": "r", "start": 0, "duration": 1, "speaker": "A"}')
    manifest("convert", str(tmp_path / "u.jsonl"), "--to", "rttm", "-o", turns, "--overwrite")
    assert storage.read("turns.rttm").startswith(b"SPEAKER r ")
    assert not storage.exists("turns.uem")


def test_a_conversion_that_fails_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "deep/er/out"
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"audio_filepath": "a.wav", "duration": 1}\n{"a": 1}\n')
    assert "broken.jsonl:2" in manifest("convert", str(broken), "--to", "csv", "-o", str(out), code=1).stderr
    mono = tmp_path / "mono.jsonl"
    mono.write_text('{"audio_filepath": "a.wav", "duration": 1}\n')
    assert "nothing here" in manifest("convert", str(mono), "--to", "moshi", "-o", str(out), code=1).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "mono.jsonl"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"path": "x.wav"}', "a.jsonl:1 is not a line of"),
        ("a.jsonl", '{"path": 5, "duration": "long"}', "a.jsonl:1 is not a line of"),
        ("a.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("a.csv", "", "a.csv is empty"),
        ("recordings.csv", ",".join(TABLES["recordings"].names) + "\nr,notjson,8,8,1,1,,\n", "cannot be read as CSV"),
        ("recordings.csv", ",".join(TABLES["recordings"].names) + '\nr,"[]",high,8,1,1,,\n', "cannot be read as CSV"),
    ],
)
def test_what_cannot_be_read_back_is_told_plainly(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    done = manifest("convert", str(tmp_path / name), "--to", "lhotse", "-o", str(tmp_path / "out"), code=1)
    assert told in done.stderr
    assert "remedy: " in done.stderr
    assert "Error:" not in done.stderr
    assert not (tmp_path / "out").exists()

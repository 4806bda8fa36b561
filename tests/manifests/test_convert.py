"""A lake of real sound in the formats of others: lhotse and datasets load what is written, and nothing is silent."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import lhotse
import pytest
from click.testing import CliRunner
from lakes import write_lake

from manifests.exchange.convert import FORMS, convert
from manifests.exchange.foreign.rows import ManifestError
from manifests.exchange.relations import open_foreign, open_lake, split_key
from manifests.lake import Lake
from manifests.whole import whole_text
from pipelines.commands import exchange as cli_exchange
from pipelines.commands.cli import manifest
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_lhotse_loads_and_validates_what_is_written_of_a_lake(milled: Lake, tmp_path: Path) -> None:
    result = convert(open_lake(milled), "lhotse", str(tmp_path))
    recordings = lhotse.RecordingSet.from_file(tmp_path / "recordings.jsonl.gz")
    supervisions = lhotse.SupervisionSet.from_file(tmp_path / "supervisions.jsonl.gz")
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions, read_data=True)
    assert sorted(recording.num_channels for recording in recordings) == [1, 2]
    assert {(s.speaker, s.channel) for s in supervisions} == {("SPEAKER_00", 0), ("SPEAKER_01", 1)}
    assert result.left_out == {"recordings that failed, or that are not annotated yet": (1, [])}
    assert result.lost == ["custom (channel_relation, labels, licence, source) of 2 recordings"]


def test_cuts_of_a_lake_are_the_cuts_of_its_shards(milled: Lake, tmp_path: Path) -> None:
    convert(open_lake(milled), "lhotse-cuts", str(tmp_path / "cuts.jsonl"))
    shards = sorted(Path(milled.storage.root, "datasets/set").glob("train*/cuts.*"))
    assert len(shards) > 1
    encoded = [cut for path in shards for cut in lines(path)]
    assert sorted(lines(tmp_path / "cuts.jsonl"), key=lambda cut: cut["id"]) == sorted(
        encoded, key=lambda cut: cut["id"]
    )
    lhotse.validate(lhotse.CutSet.from_file(tmp_path / "cuts.jsonl"), read_data=True)


def test_labels_and_licence_come_along_in_every_format_that_holds_them(milled: Lake, tmp_path: Path) -> None:
    said = {"source": "sample", "licence": "MIT", "labels": {"country": "DE"}}
    flat = {"source": "sample", "licence": "MIT", "country": "DE"}
    for form in ("lhotse", "nemo", "nemo-diarization", "parquet", "csv"):
        out = tmp_path / (form if FORMS[form].folder else f"{form}.jsonl")
        convert(open_lake(milled), form, str(out))
        back = open_foreign([str(out)])
        tables = {"lhotse": ["segments", "windows"], "nemo": ["segments"], "nemo-diarization": ["recordings"]}
        for table in tables.get(form, ["recordings", "segments", "windows"]):
            rows = list(back.rows(f"FROM {{{table}}}"))
            assert rows
            for row in rows:
                found = json.loads(row["custom"])
                expected = flat if form.startswith("nemo") else said
                assert {name: found.get(name) for name in expected} == expected, (form, table)


def test_ingest_reads_the_labels_that_convert_writes(milled: Lake, tmp_path: Path) -> None:
    for form in ("nemo", "lhotse-cuts"):
        convert(open_lake(milled), form, str(tmp_path / f"{form}.jsonl"))
        again = Lake.at(str(tmp_path / form))
        ingest(again, [str(tmp_path / f"{form}.jsonl")], IngestConfig(labels=["country", "licence"]))
        ((table,),) = ((table for _, table in again.recordings()),)
        assert {(row["licence"], tuple(row["labels"])) for row in table.to_pylist()} == {("MIT", (("country", "DE"),))}


def test_labels_whose_names_mean_something_to_nemo_stay_an_object(tmp_path: Path) -> None:
    said = {"labels": {"country": "DE", "label": "infer"}}
    row = {"id": "s", "recording_id": "r", "start": 0, "duration": 1, "custom": said}
    recording: dict[str, Any] = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "r.wav"}]}
    recording |= {"sampling_rate": 8000, "num_samples": 8000, "duration": 1.0, "channel_ids": [0]}
    (tmp_path / "s.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(recording)}\n")
    convert(open_foreign([str(tmp_path / "s.jsonl")]), "nemo", str(tmp_path / "n.jsonl"))
    assert lines(tmp_path / "n.jsonl")[0]["labels"] == said["labels"]


def test_without_windows_a_recording_is_a_cut_with_its_turns(milled: Lake, tmp_path: Path) -> None:
    convert(open_lake(milled), "lhotse", str(tmp_path))
    (tmp_path / "cuts.jsonl.gz").unlink()
    convert(open_foreign([str(tmp_path)]), "lhotse-cuts", str(tmp_path / "whole.jsonl"))
    cuts = lhotse.CutSet.from_file(tmp_path / "whole.jsonl")
    lhotse.validate(cuts)
    expected = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_file(tmp_path / "recordings.jsonl.gz"),
        lhotse.SupervisionSet.from_file(tmp_path / "supervisions.jsonl.gz"),
    )
    assert [cut.supervisions for cut in cuts] == [cut.supervisions for cut in expected]


def test_rttm_of_a_lake_is_read_by_lhotse_and_names_every_turn(milled: Lake, tmp_path: Path) -> None:
    convert(open_lake(milled), "rttm", str(tmp_path / "turns.rttm"))
    convert(open_lake(milled), "lhotse-supervisions", str(tmp_path / "turns.jsonl"))
    read = lhotse.SupervisionSet.from_rttm(tmp_path / "turns.rttm")
    told = [(s.recording_id, s.start, s.duration, s.speaker, s.channel - 1) for s in read]
    written = lhotse.SupervisionSet.from_file(tmp_path / "turns.jsonl")
    assert told == [(s.recording_id, s.start, s.duration, s.speaker, s.channel) for s in written]
    uem = [line.split() for line in (tmp_path / "turns.uem").read_text().splitlines()]
    assert [line[1:] for line in uem] == [["1", "0.0", "30.0"]] * 2


def test_only_a_speaker_a_channel_is_material_for_moshi(milled: Lake, tmp_path: Path) -> None:
    result = convert(open_lake(milled), "moshi", str(tmp_path / "m.jsonl"))
    (line,) = lines(tmp_path / "m.jsonl")
    assert (Path(line["path"]).name, line["duration"]) == ("two.wav", 30.0)
    assert sum(count for count, _ in result.left_out.values()) == 2


def test_parquet_is_one_hugging_face_dataset_and_comes_back_whole(
    milled: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    convert(open_lake(milled), "parquet", str(tmp_path / "parquet"))
    for name in ("recordings", "segments", "windows"):
        rows = datasets.load_dataset(str(tmp_path / "parquet"), name, cache_dir=str(tmp_path / "cache"))["train"]
        assert rows.num_rows == open_lake(milled).count(name)
    for form in ("lhotse", "csv"):
        convert(open_lake(milled), form, str(tmp_path / "lake" / form))
        convert(open_foreign([str(tmp_path / "parquet")]), form, str(tmp_path / "back" / form))
        for path in (tmp_path / "lake" / form).iterdir():
            assert (tmp_path / "back" / form / path.name).read_bytes() == path.read_bytes()


def test_a_lake_that_is_only_ingested_tells_what_headers_claim(tmp_path: Path, conversation: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(conversation)], IngestConfig())
    convert(open_lake(lake), "lhotse", str(tmp_path / "out"))
    (recording,) = lhotse.RecordingSet.from_file(tmp_path / "out/recordings.jsonl.gz")
    lhotse.validate(recording, read_data=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recordings.jsonl.gz"]


def test_names_that_rttm_cannot_hold_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"id": f"s{n}", "recording_id": "r", "start": 0, "duration": 1, "speaker": "Ann B"} for n in range(5)]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, rows[0] | {"speaker": "C"}]))
    result = convert(open_foreign([str(tmp_path / "s.jsonl")]), "rttm", str(tmp_path / "t.rttm"))
    assert result.files == {str(tmp_path / "t.rttm"): 1}
    assert list(result.left_out.values()) == [(5, ["s0", "s1", "s2"])]


def test_what_cannot_be_written_at_all_is_refused_and_leaves_no_file(milled: Lake, tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 2}')
    for form, told in (
        ("moshi", "nothing here can be written as moshi: recordings without exactly two channels.*: 1$"),
        ("csv", "is a file"),
    ):
        with pytest.raises(ManifestError, match=told):
            convert(
                open_foreign([str(tmp_path / "n.jsonl")]), form, str(tmp_path / ("x" if form == "moshi" else "n.jsonl"))
            )
    with pytest.raises(ManifestError, match="is a folder"):
        convert(open_lake(milled), "rttm", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["n.jsonl"]


def test_what_one_format_alone_can_say_is_told_when_another_is_written(tmp_path: Path) -> None:
    row = {"id": "s", "recording_id": "r", "start": 0, "duration": 1, "gender": "F", "text": "ja", "custom": {"a": 1}}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    result = convert(open_foreign([str(tmp_path / "s.jsonl")]), "rttm", str(tmp_path / "t.rttm"))
    told = [f"{what} of 1 segment" for what in ("segment_id", "text", "custom (a)", "fields of another format")]
    assert result.lost == told


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_text(tmp_path / "a.jsonl.gz") as file:  # noqa: PT012
        file.write("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_split_into_its_lake_and_key(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [[{"id": "a", "duration_s": 9.0}]])
    root = lake.storage.root
    assert split_key(f"{root}/") == (root, "")
    assert split_key(f"{root}/datasets/x") == (root, "datasets/x")
    assert split_key(str(tmp_path / "a.jsonl")) == (None, str(tmp_path / "a.jsonl"))
    with pytest.raises(ManifestError, match="ftp://host/x"):
        split_key("ftp://host/x")


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(manifest, words)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_line_tells_files_on_one_stream_and_losses_on_the_other(milled: Lake, tmp_path: Path) -> None:
    code, out, err = run("convert", milled.storage.root, "--to", "nemo", "-o", str(tmp_path / "n.jsonl"))
    assert code == 0
    assert out.split()[1] == str(tmp_path / "n.jsonl")
    assert "left out: recordings that failed, or that are not annotated yet: 1\n" in err
    assert "not in nemo: custom (channel_relation, labels, licence, source) of 2 recordings\n" in err
    assert "not in nemo: channels of" in err
    assert "not in nemo: segment_id of" in err
    assert "not in nemo: 4 windows\n" in err
    code, out, _ = run("convert", str(tmp_path / "n.jsonl"), "--to", "rttm", "-o", str(tmp_path / "n.rttm"), "--json")
    assert (code, json.loads(out)["format"]) == (0, "rttm")
    code, _, err = run("convert", str(tmp_path / "no.jsonl"), "--to", "rttm", "-o", str(tmp_path / "x.rttm"))
    assert code == 1
    assert "no.jsonl" in err
    assert not (tmp_path / "x.rttm").exists()
    for part in ("datasets/set", "datasets/set/train", "selections/s"):
        path = tmp_path / part.replace("/", "-")
        code, out, _ = run("convert", f"{milled.storage.root}/{part}", "--to", "lhotse-cuts", "-o", str(path))
        assert (code, out.split()[0]) == (0, str(sum(1 for _ in path.open())))
    assert run("convert", f"{milled.storage.root}/annotations", "--to", "csv", "-o", str(tmp_path / "x"))[0] == 2
    code, _, err = run("convert", milled.storage.root, "--selection", "t", "--to", "csv", "-o", str(tmp_path / "x"))
    assert (code, err) == (1, "error: no selection 't'\nremedy: there is: s\n")


def test_the_help_lists_every_format_and_fits_80_columns() -> None:
    assert list(cli_exchange.FORMS) == list(FORMS)
    _, out, _ = run("convert", "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert all(f"  {form} " in out for form in FORMS)

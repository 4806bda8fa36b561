"""Foreign manifests go in and out again with all that they say, whatever they say; lhotse judges what is written."""

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import lhotse
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse.testing.dummies import DummyManifest

from manifests.exchange.convert import convert
from manifests.exchange.foreign.load import load
from manifests.exchange.foreign.rows import TABLES, ManifestError
from manifests.exchange.relations import open_foreign

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
starts = st.one_of(st.integers(0, 10**5), st.floats(0, 1e6), st.decimals(0, 10**5, places=3).map(float))
lengths = st.one_of(st.integers(1, 10**4), st.floats(1e-6, 1e5), st.decimals("0.001", 10**4, places=3).map(float))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
custom = st.dictionaries(names.filter(lambda name: name not in LHOTSE_READS), values, max_size=3)
LHOTSE_READS = {"array", "shape", "sources", "width"}
channels = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


recordings = st.builds(
    lambda fixed, sources, rest: fixed | {"sources": sources} | rest,
    st.fixed_dictionaries(
        {
            "id": names, "sampling_rate": st.sampled_from([8000, 16000, 44100]), "duration": lengths,
            "num_samples": st.integers(1, 2**40),
        }
    ),
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["file", "url", "command"]), "channels": st.just([0]), "source": names}
        ),
        min_size=1, max_size=2,
    ),
    optional(channel_ids=st.just([0]), transforms=st.lists(st.fixed_dictionaries({"name": names}), max_size=2)),
)  # fmt: skip
alignments = st.dictionaries(
    names, st.lists(st.tuples(words, starts, lengths, st.none()).map(list), max_size=2), max_size=2
)
supervisions = st.builds(
    lambda fixed, rest: fixed | rest,
    st.fixed_dictionaries({"id": names, "recording_id": names, "start": starts, "duration": lengths}),
    optional(
        channel=channels, text=words, language=words, speaker=words, gender=words, custom=custom, alignment=alignments
    ),
)
features = st.fixed_dictionaries({"type": st.just("fbank"), "num_frames": st.integers(1, 99), "recording_id": names})
cuts = st.builds(
    lambda fixed, rest: fixed | rest,
    st.fixed_dictionaries(
        {
            "id": names, "start": starts, "duration": lengths, "channel": channels, "type": st.just("MonoCut"),
            "supervisions": st.lists(supervisions, max_size=2),
        }
    ),
    # lhotse wants one of the two.
    optional(features=features, custom=custom).flatmap(
        lambda rest: st.fixed_dictionaries({} if "features" in rest else {"recording": recordings}).map(rest.__or__)
    ),
)  # fmt: skip
mixtures = st.builds(
    lambda key, tracks: {"id": key, "tracks": tracks, "type": "MixedCut"},
    names,
    st.lists(
        st.fixed_dictionaries({"cut": cuts, "offset": starts, "type": st.just("MonoCut")}), min_size=1, max_size=2
    ),
)
utterances = st.builds(
    lambda fixed, rest, more: more | fixed | rest,
    st.fixed_dictionaries({"audio_filepath": names, "duration": lengths}),
    optional(offset=starts, text=words, lang=words, speaker=st.one_of(words, st.integers())),
    custom.map(lambda more: {key: value for key, value in more.items() if key not in ("label", "rttm_filepath")}),
)


def there_and_back(lines: list[dict[str, Any]], form: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        result = convert(open_foreign([str(path)]), form, f"{folder}/out.jsonl.gz")
        assert result.left_out == {}
        with gzip.open(f"{folder}/out.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def says(line: Any, original: Any) -> bool:
    """Whether a line says all that the original says; it may say a default besides."""
    defaults = {"channel": 0, "supervisions": [], "offset": 0}
    if isinstance(original, dict) and isinstance(line, dict):
        added = line.keys() - original.keys()
        same = all(key in line and says(line[key], value) for key, value in original.items())
        return same and all(line[key] == defaults.get(key, [0] if key == "channel_ids" else None) for key in added)
    if isinstance(original, list) and isinstance(line, list):
        return len(line) == len(original) and all(map(says, line, original))
    return bool(line == original)


@few
@given(st.lists(recordings, min_size=1, max_size=8))
def test_lhotse_recordings_come_back_with_every_field(lines: list[dict[str, Any]]) -> None:
    assert says(there_and_back(lines, "lhotse-recordings"), lines)


@few
@given(st.lists(supervisions, min_size=1, max_size=8))
def test_lhotse_supervisions_come_back_with_every_field(lines: list[dict[str, Any]]) -> None:
    assert says(there_and_back(lines, "lhotse-supervisions"), lines)


@few
@given(st.lists(cuts | mixtures, min_size=1, max_size=6))
def test_lhotse_cuts_and_mixtures_come_back_with_every_field(lines: list[dict[str, Any]]) -> None:
    assert says(there_and_back(lines, "lhotse-cuts"), lines)


@few
@given(st.lists(utterances, min_size=1, max_size=8))
def test_nemo_utterances_come_back_with_every_field(lines: list[dict[str, Any]]) -> None:
    assert says(there_and_back(lines, "nemo"), lines)


bare = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    lambda word: word.split() == [word] and not word.startswith(";;")
)
turns = st.tuples(
    st.just("SPEAKER"), bare, st.sampled_from(["1", "2", "A", "0"]), starts.map(float), lengths.map(float),
    st.just("<NA>") | bare, st.just("<NA>") | bare, st.just("<NA>") | bare, st.just("<NA>") | st.just("0.93"),
    st.just("<NA>") | bare,
)  # fmt: skip


@few
@given(st.lists(turns, min_size=1, max_size=12))
def test_rttm_comes_back_with_every_field_and_every_bit_of_its_times(rows: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in.rttm").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
        convert(open_foreign([f"{folder}/in.rttm"]), "rttm", f"{folder}/out.rttm")
        lines = [line.split() for line in Path(folder, "out.rttm").read_text(encoding="utf-8").splitlines()]
    back = [(*line[:3], float(line[3]), float(line[4]), *line[5:]) for line in lines]
    assert back == rows
    assert not any("e" in line[3] + line[4] for line in lines)


@few
@given(st.lists(st.tuples(bare, st.sampled_from(["1", "B"]), starts, lengths), min_size=1, max_size=8))
def test_uem_comes_back_with_every_bit_of_its_times(rows: list[tuple[str, str, float, float]]) -> None:
    regions = [(name, channel, float(start), float(start + length)) for name, channel, start, length in rows]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in.uem").write_text("".join(" ".join(map(str, row)) + "\n" for row in regions), encoding="utf-8")
        Path(folder, "in.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA> s <NA> <NA>\n")
        convert(open_foreign([f"{folder}/in.rttm", f"{folder}/in.uem"]), "rttm", f"{folder}/out.rttm")
        lines = [line.split() for line in Path(folder, "out.uem").read_text(encoding="utf-8").splitlines()]
    assert [(name, channel, float(start), float(end)) for name, channel, start, end in lines] == regions


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (lhotse.RecordingSet, "lhotse-recordings"),
        (lhotse.SupervisionSet, "lhotse-supervisions"),
        (lhotse.CutSet, "lhotse-cuts"),
    ],
)
def test_lhotse_reads_the_same_objects_from_what_is_written(tmp_path: Path, kind: Any, form: str) -> None:
    original = DummyManifest(kind, begin_id=0, end_id=20)
    if kind is lhotse.CutSet:
        pairs = zip(original, DummyManifest(kind, begin_id=20, end_id=40), strict=True)
        mixed = [one.mix(other, offset_other_by=0.5, snr=10) for one, other in pairs]
        original = lhotse.CutSet.from_cuts([*original, *mixed])
    original.to_file(tmp_path / "in.jsonl.gz")
    convert(open_foreign([str(tmp_path / "in.jsonl.gz")]), form, str(tmp_path / "out.jsonl.gz"))
    back = kind.from_file(tmp_path / "out.jsonl.gz")
    assert list(back) == list(kind.from_file(tmp_path / "in.jsonl.gz"))
    lhotse.validate(back)


def test_cuts_tell_of_recordings_once_and_of_segments_in_the_time_of_their_recording(tmp_path: Path) -> None:
    recording = {
        "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 8000,
        "num_samples": 80000, "duration": 10.0, "channel_ids": [0],
    }  # fmt: skip
    said = {"id": "s", "recording_id": "r", "start": 0.2, "duration": 1.0}
    lines = [
        {"id": f"c{n}", "start": 0.1, "duration": 5.0, "channel": 0, "recording": recording, "supervisions": [said],
         "type": "MonoCut"}
        for n in range(2)
    ]  # fmt: skip
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    connection = duckdb.connect()
    load(connection, [str(tmp_path)])
    assert {table: connection.sql(f"FROM {table}").columns[:-1] for table in TABLES} == {
        table: schema.names for table, schema in TABLES.items()
    }
    assert connection.sql("SELECT recording_id, uris, duration_s FROM recordings").fetchall() == [
        ("r", ["a.wav"], 10.0)
    ]
    assert connection.sql("SELECT segment_id, start_s FROM segments").fetchall() == [("s", 0.3)]
    assert connection.sql("SELECT window_id, segments[1].start_s FROM windows").fetchall() == [("c0", 0.2), ("c1", 0.2)]


def test_a_nemo_manifest_for_diarization_brings_its_turns_and_takes_them_along(tmp_path: Path) -> None:
    line = {
        "audio_filepath": "/sound/a.wav", "offset": 0, "duration": None, "label": "infer", "text": "-",
        "num_speakers": None, "rttm_filepath": "a.rttm", "uem_filepath": "a.uem",
    }  # fmt: skip
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 0.25 1.5 <NA> <NA> x <NA> <NA>\n")
    (tmp_path / "a.uem").write_text("a 1 0.0 30.0\n")
    source = open_foreign([str(tmp_path / "m.jsonl")])
    assert source.connection.sql("SELECT recording_id, start_s, speaker FROM segments").fetchall() == [
        ("/sound/a.wav", 0.25, "x")
    ]
    convert(source, "nemo-diarization", str(tmp_path / "out"))
    (back,) = map(json.loads, (tmp_path / "out/manifest.jsonl").read_text().splitlines())
    assert Path(back["rttm_filepath"]).read_text() == (tmp_path / "a.rttm").read_text()
    assert back.items() >= {
        (key, line[key]) for key in ("audio_filepath", "offset", "duration", "label", "num_speakers")
    }


def test_a_tar_of_samples_tells_their_names_and_what_their_json_says(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for key, kind, data in (
            ("a/one", "wav", b"x" * 9), ("a/one", "json", b'{"duration": 2.5, "language": "de"}'), ("two", "mp3", b""),
        ):  # fmt: skip
            info = tarfile.TarInfo(f"{key}.{kind}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = open_foreign([str(tmp_path / "s.tar")])
    rows = source.connection.sql("SELECT window_id, duration_s, custom FROM windows ORDER BY position").fetchall()
    assert [row[:2] for row in rows] == [("a/one", 2.5), ("two", None)]
    assert json.loads(rows[0][2]) == {"language": "de", "members": {"wav": 9, "json": 35}}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"audio_filepath": "x", "duration": 1}\n{"a": 1}\n', "a.jsonl:2 "),
        ("a.jsonl", '\n{"audio_filepath": "x", "dura', "a.jsonl:2 is not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"id": "r", "sources": [], "sampling_rate": 1, "num_samples": 1, "duration": "x"}', "a.jsonl:1 "),
        ("a.rttm", "SPEAKER a 1 0 1 <NA>", "a.rttm:1 "),
        ("a.rttm", "SPEAKER a 1 zero 1 <NA> <NA> s <NA> <NA>", "a.rttm:1 "),
        ("a.uem", "a 1 0", "a.uem:1 "),
        ("a.jsonl.gz", "not packed", "cannot be read to its end"),
        ("a.tar", "no tar", "not a complete tar"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
        ("a.doc", "", "is neither a lake nor a manifest"),
    ],
)
def test_what_is_no_manifest_is_named_with_its_line_and_a_remedy(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=told) as caught:
        open_foreign([str(tmp_path / name)])
    assert caught.value.remedy


def test_lines_of_rttm_that_hold_no_turn_are_counted(tmp_path: Path) -> None:
    text = ";; a comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA> <NA>\nSPEAKER a 1 0 1 <NA> <NA> x <NA> <NA>\n"
    (tmp_path / "a.rttm").write_text(text)
    assert sum(open_foreign([str(tmp_path / "a.rttm")]).left_out.values()) == 1

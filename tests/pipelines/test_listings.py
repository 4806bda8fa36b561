"""Lists and manifests: an odd line costs only itself, and what cannot be read on is told after the rest was read."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tars import sound

from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import InputError, Notes, entries

ROOT = Path(__file__).parents[2]
CAFE = '{"audio_filepath": "a.wav", "text": "café"}\n'


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.wav").write_bytes(sound(0.1 * (number + 1)))
    # Nothing answers there, so that names in S3 and behind HTTP fail at once.
    config = StorageConfig("http://127.0.0.1:9", retry_s=0.2, timeout_s=1.0)
    return Lake.at(str(tmp_path / "lake"), config)


def rows(lake: Lake) -> list[dict]:
    return [row for _, table in lake.recordings() for row in table.to_pylist()]


def ingested(lake: Lake, path: Path, data: bytes) -> tuple[list[str], list[dict]]:
    """Names of the recordings that a list or manifest gives, and the failed rows."""
    path.write_bytes(data)
    ingest(lake, [str(path)], IngestConfig())
    failed = [row for row in rows(lake) if row["status"] != "ok"]
    assert all(row["error"] and row["remedy"] for row in failed)
    return [Path(uri).name for row in rows(lake) if row["status"] == "ok" for uri in row["uris"]], failed


GOOD = b'{"audio_filepath": "a.wav"}\n{"audio_filepath": "b.wav"}\n'


VALUES = ["5", "null", "[]", "{}", "true", '""', "9" * 5000, '["a.wav"]']
FORMS = ['{"audio_filepath": VALUE}', '{"sources": [{"type": "file", "source": VALUE}]}']
LINES = [
    *(form.replace("VALUE", value) for form in FORMS for value in VALUES),
    "5", "null", "[]", "{}", '"x"', "{", "nonsense", "\x00\x00", "[" * 100_000, '{"a":' * 100_000,
    '{"sources": 5}', '{"sources": [5]}', '{"sources": [{}]}', '{"sources": []}', '{"recording": 5}',
    '{"recording": null}', '{"recording": {"sources": null}}', '{"tracks": 5}', '{"tracks": [5]}',
    '{"tracks": [{"cut": 5}]}', '{"tracks": [{"cut": {"recording": 5}}]}', '{"tracks": []}',
    '{"sources": [{"type": "command", "source": "rm"}]}', '{"sources": [{"type": [], "source": "x"}]}',
    '{"audio_filepath": "a.wav", "n": VALUE}'.replace("VALUE", "9" * 5000), '{"audio_filepath": "a.w', "RIFF\xff\xfe",
]  # fmt: skip


def test_a_line_that_names_nothing_is_a_failed_row_of_that_line_and_the_rest_is_read(
    lake: Lake, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    lines = [GOOD, *(line.encode("latin-1") + b"\n" for line in LINES), GOOD.replace(b"a.wav", b"c.wav")]
    good, failed = ingested(lake, path, b"".join(lines))
    assert good == ["a.wav", "b.wav", "c.wav"]
    assert sorted(row["uris"][0] for row in failed) == sorted(f"{path}:{3 + number}" for number in range(len(LINES)))
    for row in failed:
        assert row["error_type"] == "UnreadableLineError"
        assert row["uris"][0] in row["error"]


SAID = [
    '"lang": ["en"]', '"lang": {}', '"lang": 5', '"lang": true', '"lang": null', '"lang": "\\ud800"',
    '"lang": "a\\u0000b"', '"text": "\\ud800"', '"\\ud800": 1', '"text": "a\\u0000b"', '"supervisions": "abc"',
    '"supervisions": [5]', '"supervisions": ["x"]', '"supervisions": {}', '"supervisions": [null]',
    '"supervisions": 5', '"supervisions": [{"language": 5}]', '"supervisions": [{"language": ["en"]}]',
    '"offset": NaN, "duration": Infinity', '"duration": 1e999', '"x": ' + "[" * 500 + "]" * 500,
    '"x": "' + "a" * 1_100_000 + '"',
]  # fmt: skip


def test_odd_things_that_a_line_says_of_a_recording_say_nothing_and_cost_nothing(lake: Lake, tmp_path: Path) -> None:
    lines = []
    for number, said in enumerate(SAID):
        (tmp_path / f"{number}.wav").write_bytes(sound(0.01 * (number + 1)))
        lines.append(f'{{"audio_filepath": "{number}.wav", {said}}}\n')
    good, failed = ingested(lake, tmp_path / "m.jsonl", "".join(lines).encode())
    assert (sorted(good), failed) == (sorted(f"{number}.wav" for number in range(len(SAID))), [])
    assert all(row["language_hint"] is None for row in rows(lake))
    assert ingest(lake, [str(tmp_path / "m.jsonl")], IngestConfig()).known == len(SAID)


def test_what_a_line_says_is_kept_letter_by_letter(lake: Lake, tmp_path: Path) -> None:
    said = {"audio_filepath": "a.wav", "lang": "de", "text": "Grüße \U0001f600", "duration": 1.5}
    ingested(lake, tmp_path / "m.jsonl", (json.dumps(said) + "\n").encode())
    assert json.loads(rows(lake)[0]["hints"]) == [said]
    assert rows(lake)[0]["language_hint"] == "de"


NAMES = [
    "http://[::1/x.wav", "http://h:99999/x.wav", "http://h:abc/x.wav", "http://a..b/x.wav", "http://" + "a" * 70,
    "http://℀.x/x.wav", "http:///x.wav", "http://h:-1/x", "a\0b.wav", "s3://", "s3://b/", "s3://b\0/x", "s3://../x",
    "S3://b", "s3://bkt/" + "k" * 2000, "s3://bkt//x.wav", "s3://bkt/x.wav/", "https://u:p@[::1/x", "/" + "x" * 5000,
    "x" * 300 + ".wav", "file:///x.wav", "~", "*", "[", "..", "/", "#", "t.tar", "t.tar#n.wav:0+99999999999999999999",
    "t.tar#n.wav:99999999999999999999+10", "a.wav\x1b[31m", "\ufeff", "ftp://h/x.wav", "x.tar.gz",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["list.txt", "m.jsonl"])
def test_a_hostile_name_is_a_failed_row_and_the_others_are_read(lake: Lake, tmp_path: Path, kind: str) -> None:
    names = ["a.wav", *NAMES, "b.wav"]
    lines = names if kind == "list.txt" else [json.dumps({"audio_filepath": name}) for name in names]
    good, failed = ingested(lake, tmp_path / kind, "\n".join(lines).encode())
    assert good == ["a.wav", "b.wav"]
    assert len(failed) == len(NAMES)
    assert not [row for row in failed if "report it" in row["remedy"]]


def test_half_a_pair_of_surrogates_in_a_name_is_a_failed_row(lake: Lake, tmp_path: Path) -> None:
    good, (failed,) = ingested(lake, tmp_path / "m.jsonl", b'{"audio_filepath": "\\ud800.wav"}\n' + GOOD)
    assert good == ["a.wav", "b.wav"]
    assert "not UTF-8" in failed["error"]


def test_a_member_that_ends_beyond_its_archive_is_a_failed_row(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"x" * 2048)
    names = [f"t.tar#{n}.wav:{where}" for n, where in enumerate(["0+4096", "9" * 20 + "+10", "0+" + "9" * 20])]
    _, failed = ingested(lake, tmp_path / "list.txt", "\n".join(names).encode())
    assert all("cut short" in row["error"] for row in failed)
    assert len(failed) == 3


@pytest.mark.parametrize("name", ["m.jsonl", "M.JSONL", "m.json"])
def test_a_byte_order_mark_and_windows_line_ends_are_read(lake: Lake, tmp_path: Path, name: str) -> None:
    assert ingested(lake, tmp_path / name, b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n\r\n")) == (
        ["a.wav", "b.wav"],
        [],
    )


def test_a_list_may_have_a_byte_order_mark_blank_lines_and_the_ends_of_any_system(lake: Lake, tmp_path: Path) -> None:
    assert ingested(lake, tmp_path / "l.txt", b"\xef\xbb\xbfa.wav\r\n\r\nb.wav\rc.wav") == (
        ["a.wav", "b.wav", "c.wav"],
        [],
    )


@pytest.mark.parametrize("before", ["", GOOD.decode()])
def test_a_line_in_latin_1_is_told_with_its_place_and_a_remedy(lake: Lake, tmp_path: Path, before: str) -> None:
    data = (before + CAFE).encode("latin-1") + b'{"audio_filepath": "c.wav"}\n'
    good, (failed,) = ingested(lake, tmp_path / "m.jsonl", data)
    assert good[-1] == "c.wav"
    assert failed["uris"] == [f"{tmp_path}/m.jsonl:{1 + before.count(chr(10))}"]
    assert "not UTF-8: byte 0xe9" in failed["error"]
    assert "iconv" in failed["remedy"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["m.jsonl", "l.txt"])
def test_wide_encodings_are_told_with_file_line_and_remedy_and_other_inputs_are_read(
    lake: Lake, tmp_path: Path, name: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(CAFE.encode(encoding))
    with pytest.raises(InputError, match=f"{name}:1 is UTF-16") as caught:
        ingest(lake, [str(tmp_path / name), str(tmp_path / "b.wav")], IngestConfig())
    assert "iconv" in caught.value.remedy
    assert [row["uris"] for row in rows(lake)] == [[str(tmp_path / "b.wav")]]


WHOLE = gzip.compress(GOOD * 5000, mtime=0)


@pytest.mark.parametrize(
    "data",
    [WHOLE[: len(WHOLE) // 2], WHOLE[:-3], WHOLE[:-8] + b"\1\2\3\4" + WHOLE[-4:], WHOLE[:40] + b"\xff" * 60, GOOD],
    ids=["cut in the middle", "cut at the end", "wrong checksum", "damaged", "not gzip"],
)
def test_a_damaged_gzip_is_told_after_everything_readable_was_ingested(lake: Lake, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match="damaged or cut short as gzip after line") as caught:
        ingest(lake, [str(tmp_path / "m.jsonl.gz"), str(tmp_path / "c.wav")], IngestConfig())
    assert caught.value.remedy
    assert str(tmp_path / "c.wav") in [row["uris"][0] for row in rows(lake)]


def speechmill(*words: str, limit_gb: float = 4.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.commands.cli import main; main()", *words]
    bytes_ = int(limit_gb * 1e9)
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_)),
    )  # fmt: skip


def test_a_cut_gzip_ends_the_command_with_a_reason_and_not_as_an_interruption(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl.gz").write_bytes(WHOLE[: len(WHOLE) // 2])
    done = speechmill("ingest", "demo", "--in", str(tmp_path / "m.jsonl.gz"), "--lake", str(tmp_path / "other"))
    assert done.returncode == 1
    assert "cut short as gzip" in done.stderr
    assert "interrupted" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_manifest_of_no_good_line_is_told_and_read_no_further(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav"}\n' * 10_000)
    with pytest.raises(InputError, match="no manifest"):
        ingest(lake, [str(tmp_path / "m.jsonl")], IngestConfig())
    assert len(rows(lake)) == 100


def test_once_a_line_is_mended_its_failure_is_gone(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert len(ingested(lake, path, b"{\n" + GOOD + b"{\n")[1]) == 2
    assert len(ingested(lake, path, GOOD + b"{\n")[1]) == 1
    assert ingested(lake, path, GOOD) == (["a.wav", "b.wav"], [])


def limited(path: Path, **limits: float) -> tuple[list[str], Notes]:
    """Names by which entries of an input are known, errors marked, and what was noted."""
    notes = Notes()
    names: list[str] = []
    try:
        for entry in entries([str(path)], limits=IngestConfig(**limits), notes=notes):  # type: ignore[arg-type]
            names.append(("!" if entry.error else "") + Path(entry.uri).name)
    except InputError:
        names.append("stopped")
    return names, notes


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_that_is_too_long_is_a_failed_row_and_the_next_are_read(tmp_path: Path, ending: str) -> None:
    line = b'{"audio_filepath": "b.wav", "text": "' + b"x" * 200_000 + b'"}\n'
    data = b'{"audio_filepath": "a.wav"}\n' + line + b'{"audio_filepath": "c.wav"}\n'
    path = tmp_path / f"m.jsonl{ending}"
    path.write_bytes(gzip.compress(data) if ending else data)
    assert limited(path, max_line_mb=0.1)[0] == ["a.wav", f"!m.jsonl{ending}:2", "c.wav"]
    assert limited(path)[0] == ["a.wav", "b.wav", "c.wav"]


def test_a_manifest_that_unpacks_to_too_much_is_read_up_to_there_and_told(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 10_000))
    names, notes = limited(path, max_manifest_gb=0.0001)
    assert 2000 < len(names) < 10_000
    assert names[-1] == "stopped"
    assert "max_manifest_gb" in notes.problems[0].remedy


@pytest.mark.parametrize("pieces", [(b" ", b""), (b'{"audio_filepath": "', b'"}\n'), (b"", b"")])
def test_a_gzip_that_grows_a_thousandfold_takes_little_memory(
    lake: Lake, tmp_path: Path, pieces: Sequence[bytes]
) -> None:
    path = tmp_path / "m.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(pieces[0])
        for _ in range(200):
            file.write(b" " * (1 << 20))
        file.write(pieces[1] + b"\n" + GOOD.replace(b"a.wav", f"{tmp_path}/a.wav".encode()))
    done = speechmill("ingest", "demo", "--in", str(path), "--lake", str(tmp_path / "other"), limit_gb=1.0)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "3 new" in done.stdout
    assert "1 unreadable" in done.stdout


def test_secrets_of_other_sources_in_a_line_are_neither_kept_nor_told(lake: Lake, tmp_path: Path) -> None:
    def cut(source: str) -> dict:
        return {"cut": {"recording": {"sources": [{"type": "url", "source": source}]}}}

    urls = ["a.wav", "http://user:pw1@h/x.wav", "HTTPS://h/x.wav?sig=pw2", "http://h/y?x-api-key=pw3#z"]
    line = {"tracks": [cut(url) for url in urls], "text": "see http://h/?client_secret=pw4 http://me:pw5@h/"}
    line["http://u:pw6@h/"] = [{"deep": "https://h/?to=http%3A%2F%2Fu%3Apw7%40h"}]
    good, failed = ingested(lake, tmp_path / "m.jsonl", json.dumps(line).encode())
    assert (good, len(failed)) == (["a.wav"], 3)
    kept = b"".join(lake.read(key).to_pandas().to_json().encode() for key in lake.storage.list("recordings"))
    assert b"pw" not in kept
    assert b"see http" in kept
    parts = b"".join(lake.read(key).to_pandas().to_json().encode() for key in lake.storage.list("runs/ingest"))
    assert b"pw" not in parts

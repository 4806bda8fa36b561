"""Write a lake or manifests in the formats that others read, and say what each of them cannot hold."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.exchange.foreign import lhotse, nemo, rttm
from manifests.exchange.foreign.rows import TABLES, ManifestError, Row
from manifests.exchange.relations import Source
from manifests.storage import open_storage

EXAMPLES = 3


class CannotHoldError(ValueError):
    """Why a format cannot hold a row."""


@dataclass
class Converted:
    """Rows by file written, rows left out by reason with the ids of a few, and what no file could hold."""

    files: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        count, examples = self.left_out.get(reason, (0, []))
        self.left_out[reason] = (count + 1, examples if len(examples) == EXAMPLES else [*examples, name])


@dataclass(frozen=True)
class Form:
    """A format: what it is, how it is written, and the columns by table that it has no room for."""

    about: str
    write: Callable[[Source, Path, Converted], None]
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = "none"
    """Under which `rest` is kept for it."""


def convert(source: Source, form: str, out: str) -> Converted:
    """Write `source` to the file or folder `out` in one of FORMS; files appear whole or not at all.

    Raises ManifestError if `out` is the other of the two, or if the format holds nothing of the source.
    """
    if "://" in out:
        return _convert_to_storage(source, form, out)
    result = Converted(left_out={reason: (count, []) for reason, count in source.left_out.items()})
    chosen, path = FORMS[form], Path(out)
    if path.exists() and path.is_dir() != chosen.about.startswith("folder"):
        raise ManifestError(f"{out} is a {'folder' if path.is_dir() else 'file'}", f"{form} writes a {chosen.about}")
    chosen.write(source, path, result)
    if not result.files:
        reasons = "; ".join(f"{count:,} {reason}" for reason, (count, _) in result.left_out.items())
        raise ManifestError(
            f"nothing here can be written as {form}: {reasons or 'it is empty'}", "choose another format"
        )
    for table, columns in chosen.lacks.items():
        result.lost += _lost(source, table, columns, chosen.name)
    return result


def _convert_to_storage(source: Source, form: str, out: str) -> Converted:
    """Files are made in a temporary folder and put when they are whole."""
    if form == "nemo-diarization":
        raise ManifestError(f"{form} names its files by local paths", "write it to a local folder")
    root, _, name = out.rstrip("/").rpartition("/")
    storage = open_storage(root)
    with tempfile.TemporaryDirectory() as folder:
        result = convert(source, form, f"{folder}/{name}")
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            storage.put_file(str(path.relative_to(folder)), path)
        result.files = {root + path.removeprefix(folder): rows for path, rows in result.files.items()}
    return result


def _lost(source: Source, table: str, columns: Sequence[str], form: str) -> Iterator[str]:
    """What rows of a table hold in columns that a format has no room for, and beyond them for another format."""
    relation = source.relations[table]
    counts = {column: HELD.get(column, f"{column} IS NOT NULL") for column in columns}
    counts["fields of another format"] = f"rest IS NOT NULL AND json_extract(rest, '$.{form}') IS NULL"
    query = ", ".join(f"count(*) FILTER ({condition})" for condition in counts.values())
    (row,) = source.connection.execute(f"SELECT {query} FROM {relation}").fetchall()
    for what, count in zip(counts, row, strict=True):
        if not count:
            continue
        if what == "custom":
            keys = f"SELECT DISTINCT unnest(json_keys(custom)) AS key FROM {relation} ORDER BY key"
            names = [key for (key,) in source.connection.execute(keys).fetchmany(6)]
            what = f"custom ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
        yield f"{what} of {count:,} {table}"


@contextmanager
def created(path: Path) -> Iterator[IO[str]]:
    """A text file under a temporary name beside `path`, renamed at the end; packed if `path` ends in .gz."""
    with temporary(path) as temporary_path, temporary_path.open("wb") as raw:
        if path.suffix == ".gz":  # no name and no time inside: equal rows give equal bytes
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            with packed, io.TextIOWrapper(packed, "utf-8", newline="\n") as file:
                yield file
        else:
            with io.TextIOWrapper(raw, "utf-8", newline="\n") as file:
                yield file


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_lines(path: Path, rows: Iterator[Row], line: Callable[[Row], str], result: Converted) -> None:
    """One line a row; a row that the format cannot hold is counted. Without any line there is no file."""
    written = 0
    with created(path) as file:
        for row in rows:
            try:
                file.write(line(row) + "\n")
                written += 1
            except CannotHoldError as error:
                result.leave_out(str(error), next(row[name] for name in IDS if row.get(name) is not None))
    if written:
        result.files[str(path)] = written
    else:
        path.unlink()


IDS = ("window_id", "segment_id", "recording_id")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _lhotse_recording(row: Row) -> str:
    if row["rest"] is None and not (row["uris"] and row["sample_rate"] and row["num_samples"] and row["channels"]):
        raise CannotHoldError("recordings whose file, rate, samples or channels are not known: Lhotse wants all four")
    return _json(lhotse.recording(row))


def _lhotse_segment(row: Row) -> str:
    if not row["duration_s"]:
        raise CannotHoldError("segments without a duration: Lhotse wants one above 0")
    return _json(lhotse.segment(row | {"channels": row["channels"] or [0]}))


def _lhotse_window(row: Row) -> str:
    of = row.pop("of")
    if row["rest"] is None and (not of or not of["sample_rate"] or not of["uris"] or not row["channels"]):
        raise CannotHoldError("windows whose recording is not known: Lhotse wants its file, rate and samples")
    return _json(lhotse.window(row, of))


def _lhotse_recordings(source: Source, out: Path, result: Converted) -> None:
    _write_lines(out, source.rows("FROM {recordings} ORDER BY position"), _lhotse_recording, result)


def _lhotse_supervisions(source: Source, out: Path, result: Converted) -> None:
    _write_lines(out, source.rows("FROM {segments} ORDER BY position"), _lhotse_segment, result)


def _lhotse_cuts(source: Source, out: Path, result: Converted) -> None:
    query = WINDOWS_OF if source.count("windows") else WHOLE_RECORDINGS
    _write_lines(out, source.rows(query), _lhotse_window, result)


RECORDING = ", ".join(f"'{name}': r.{name}" for name in TABLES["recordings"].names)
WINDOWS_OF = (
    f"SELECT w.*, CASE WHEN r.recording_id IS NOT NULL THEN {{{{{RECORDING}}}}} END AS of FROM {{windows}} AS w "
    "LEFT JOIN {recordings} AS r USING (recording_id) ORDER BY w.position"
)
SEGMENT = ", ".join(f"'{name}': s.{name}" for name in TABLES["segments"].names)
WHOLE_RECORDINGS = (
    "SELECT recording_id AS window_id, recording_id, 0.0::DOUBLE AS start_s, duration_s, "
    "list_transform(range(channels), lambda x: x::INTEGER) AS channels, coalesce(inside, []) AS segments, "
    f"NULL AS custom, NULL AS rest, {{{{{RECORDING}}}}} AS of FROM {{recordings}} AS r LEFT JOIN ("
    f"SELECT recording_id, list({{{{{SEGMENT}}}}} ORDER BY s.position) AS inside FROM {{segments}} AS s "
    "WHERE duration_s > 0 GROUP BY recording_id) USING (recording_id) ORDER BY r.position"
)
"""A window a recording, for a source that has none."""


def _lhotse_folder(source: Source, out: Path, result: Converted) -> None:
    for table, name, write in (
        ("recordings", "recordings", _lhotse_recordings),
        ("segments", "supervisions", _lhotse_supervisions),
        ("windows", "cuts", _lhotse_cuts),
    ):
        if source.count(table):
            write(source, out / f"{name}.jsonl.gz", result)


def _nemo(source: Source, out: Path, result: Converted) -> None:
    """Utterances are segments; windows, or whole recordings, where the source has none."""
    if source.count("segments"):
        query = "SELECT s.*, r.uris[1] AS uri FROM {segments} AS s LEFT JOIN {recordings} AS r USING (recording_id)"
        order = "s.position"
    elif source.count("windows"):
        query = "SELECT w.*, r.uris[1] AS uri FROM {windows} AS w LEFT JOIN {recordings} AS r USING (recording_id)"
        order = "w.position"
    else:
        query, order = "SELECT *, uris[1] AS uri FROM {recordings}", "position"

    def line(row: Row) -> str:
        if row["uri"] is None:
            raise CannotHoldError("utterances whose file is not known: NeMo wants its path")
        return _json(nemo.segment(dict.fromkeys(("start_s", "speaker", "language", "text")) | row, row["uri"]))

    _write_lines(out, source.rows(f"{query} ORDER BY {order}"), line, result)


def _nemo_diarization(source: Source, out: Path, result: Converted) -> None:
    """A manifest, and beside it a file of turns and one of what is to be scored for each recording."""
    query = (
        f"SELECT r.*, list({{{{{SEGMENT}}}}} ORDER BY s.position) FILTER (s.segment_id IS NOT NULL) AS inside "
        "FROM {recordings} AS r LEFT JOIN {segments} AS s USING (recording_id) GROUP BY ALL ORDER BY r.position"
    )
    names: set[str] = set()

    def line(row: Row) -> str:
        if not row["uris"]:
            raise CannotHoldError("recordings whose file is not known: NeMo wants its path")
        name = Path(row["uris"][0]).stem
        if name in names or name.split() != [name]:
            raise CannotHoldError("recordings whose file name has spaces or was met before: NeMo tells them by it")
        names.add(name)
        inside = [segment | {"recording_id": name} for segment in row["inside"] or []]
        paths = {kind: (out / kind / f"{name}.{kind}").absolute() for kind in ("rttm", "uem")}
        with created(paths["rttm"]) as file:
            for segment in inside:
                try:
                    file.write(_rttm_line(segment) + "\n")
                except CannotHoldError as error:
                    result.leave_out(str(error), segment["segment_id"])
        if row["duration_s"] is not None:
            region = {"recording_id": name, "channels": [0], "start_s": 0.0, "duration_s": row["duration_s"]}
            with created(paths["uem"]) as file:
                file.write(rttm.region(region) + "\n")
        uem = str(paths["uem"]) if row["duration_s"] is not None else None
        speakers = len({segment["speaker"] for segment in inside})
        return _json(nemo.recording(row, speakers, str(paths["rttm"]), uem))

    _write_lines(out / "manifest.jsonl", source.rows(query), line, result)


def _rttm_line(row: Row) -> str:
    if row["duration_s"] is None:
        raise CannotHoldError("segments without a duration")
    try:
        return rttm.segment(row)
    except ValueError as error:
        raise CannotHoldError("segments whose recording or speaker has a space in its name") from error


def _uem_line(row: Row) -> str:
    try:
        return rttm.region(row)
    except ValueError as error:
        raise CannotHoldError("regions of recordings with a space in their name") from error


def _rttm(source: Source, out: Path, result: Converted) -> None:
    """Turns, and beside them a .uem of whole recordings, or of windows where no length is known."""
    _write_lines(out, source.rows("FROM {segments} ORDER BY position"), _rttm_line, result)
    whole = "SELECT recording_id, 0.0::DOUBLE AS start_s, duration_s, [0] AS channels, NULL AS rest FROM {recordings}"
    regions = "FROM {windows} SEMI JOIN (FROM {recordings} WHERE duration_s IS NULL) USING (recording_id)"
    if source.value(f"SELECT count(duration_s) FROM {source.relations['recordings']}"):
        query = f"{whole} WHERE duration_s IS NOT NULL ORDER BY position"
    elif source.count("windows"):
        query = f"{regions} ORDER BY position"
    else:
        return
    _write_lines(out.with_suffix(".uem"), source.rows(query), _uem_line, result)


def _moshi(source: Source, out: Path, result: Converted) -> None:
    def line(row: Row) -> str:
        if not row["uris"] or row["duration_s"] is None:
            raise CannotHoldError("recordings whose file or duration is not known")
        if row["channels"] != 2:
            raise CannotHoldError("recordings that have not two channels: moshi wants the model left, the user right")
        relation = (json.loads(row["custom"]) if row["custom"] else {}).get("channel_relation")
        if relation not in (None, "speakers"):
            raise CannotHoldError(f"recordings whose two channels are not a speaker each ({relation})")
        return _json({"path": row["uris"][0], "duration": row["duration_s"]})

    _write_lines(out, source.rows("FROM {recordings} ORDER BY position"), line, result)
    result.lost.append("words; moshi-finetune wants them in a .json beside each file, and its annotate.py makes it")


def _parquet(source: Source, out: Path, result: Converted) -> None:
    """The three tables, and a README.md that makes them configurations of one Hugging Face dataset."""
    configs = []
    for table, schema in TABLES.items():
        if not source.count(table):
            continue
        path = out / f"{table}.parquet"
        query = f"SELECT * EXCLUDE (position) FROM {source.relations[table]} ORDER BY position"
        with temporary(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for batch in source.connection.sql(query).to_arrow_reader(1 << 16):
                writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
        result.files[str(path)] = source.count(table)
        configs.append(f"- config_name: {table}\n  data_files: {table}.parquet\n")
    with created(out / "README.md") as file:
        file.write("---\nconfigs:\n" + "".join(configs) + "---\n")


def _csv(source: Source, out: Path, result: Converted) -> None:
    """The three tables; lists and objects are JSON."""
    for table, schema in TABLES.items():
        if not source.count(table):
            continue
        path = out / f"{table}.csv"
        with created(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(schema.names)
            for row in source.rows(f"FROM {source.relations[table]} ORDER BY position"):
                values = (row[name] for name in schema.names)
                writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in values])
        result.files[str(path)] = source.count(table)


HELD = {"channels": "channels <> [0]"}
"""When a column says more than nothing."""
_BARE = {"recordings": ("custom",)}
FORMS = {
    "lhotse": Form(
        "folder: recordings, supervisions and cuts .jsonl.gz; its Recording holds no custom",
        _lhotse_folder, {"recordings": ("custom",), "segments": (), "windows": ()}, "lhotse",
    ),
    "lhotse-recordings": Form("file: RecordingSet; holds no custom", _lhotse_recordings, _BARE, "lhotse"),
    "lhotse-supervisions": Form("file: SupervisionSet", _lhotse_supervisions, {"segments": ()}, "lhotse"),
    "lhotse-cuts": Form("file: CutSet of the kept windows, else of whole recordings", _lhotse_cuts, _BARE, "lhotse"),
    "nemo": Form(
        "file: an utterance a segment (else a window, else a recording); holds no id and no channel",
        _nemo, {"segments": ("channels",)}, "nemo",
    ),
    "nemo-diarization": Form(
        "folder: manifest.jsonl, rttm/ and uem/, a file a recording; holds no language, text, custom",
        _nemo_diarization, {"segments": ("language", "text", "custom"), "recordings": ("custom",)}, "nemo",
    ),
    "rttm": Form(
        "file of turns, and its .uem beside it; holds no language, text, custom, path, and one channel a turn",
        _rttm, {"segments": ("language", "text", "custom"), "recordings": ("uris", "custom")}, "rttm",
    ),
    "moshi": Form(
        "file: path and duration of recordings with a speaker a channel; holds nothing else",
        _moshi, _BARE,
    ),
    "parquet": Form("folder: recordings, segments and windows .parquet, one Hugging Face dataset; holds all", _parquet),
    "csv": Form("folder: recordings, segments and windows .csv, lists as JSON; holds all", _csv),
}  # fmt: skip

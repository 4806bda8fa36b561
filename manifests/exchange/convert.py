"""Write a lake or manifests in the formats that others read, and say what each of them cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.exchange.foreign import lhotse, moshi, nemo, rttm, tables
from manifests.exchange.foreign.rows import TABLES, ManifestError, Row, rest
from manifests.exchange.losses import lost
from manifests.exchange.place import placed, placed_in
from manifests.exchange.relations import Source
from manifests.output import counted
from manifests.storage import open_storage
from manifests.whole import whole_text

EXAMPLES = 3


class CannotHoldError(ValueError):
    """Why a format cannot hold a row."""


@dataclass
class Converted:
    """Rows by file written, rows left out by reason with the ids of a few, and what no file could hold."""

    out: str
    """Where all of it goes, once it is written."""
    files: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        count, examples = self.left_out.get(reason, (0, []))
        self.left_out[reason] = (count + 1, examples if len(examples) == EXAMPLES else [*examples, name])


@dataclass(frozen=True)
class Form:
    """A format: how it is written, and what it cannot hold of each table (None: all of it), as `losses.lost` takes."""

    write: Callable[[Source, Path, Converted], None]
    lacks: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    name: str = "none"
    """Under which `rest` is kept for it."""
    folder: bool = False
    beside: tuple[str, ...] = ()
    """Suffixes of files that it writes beside its own."""


def convert(source: Source, form: str, out: str, overwrite: bool = False) -> Converted:
    """Write `source` to the file or folder `out` in one of FORMS, which appears once all of it is written.

    Raises ManifestError where something is there and `overwrite` does not allow to replace it, where `out` is a file
    and a folder is written or the other way round, and where the format holds nothing of the source.
    """
    chosen = FORMS[form]
    result = Converted(out, left_out={reason: (count, []) for reason, count in source.left_out.items()})
    if "://" in out:
        if form == "nemo-diarization":
            raise ManifestError(f"{form} names its files by local paths", "write it to a local folder")
        root, _, name = out.rstrip("/").rpartition("/")
        place = placed_in(open_storage(root), name, chosen.folder, chosen.beside, overwrite)
    else:
        place = placed(out, chosen.folder, chosen.beside, overwrite)
    with place as path:
        chosen.write(source, path, result)
        if not result.files:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, (count, _) in result.left_out.items())
            raise ManifestError(
                f"nothing here can be written as {form}: {reasons or 'it is empty'}", "choose another format"
            )
        start = out.rstrip("/") + "/" if chosen.folder else out[: len(out) - len(path.name)]
        of = path if chosen.folder else path.parent
        result.files = {start + Path(name).relative_to(of).as_posix(): rows for name, rows in result.files.items()}
    result.lost += lost(source, chosen.lacks, chosen.name)
    return result


def _write_lines(path: Path, rows: Iterator[Row], line: Callable[[Row], str], result: Converted) -> None:
    """One line a row; a row that the format cannot hold is counted. Without any line there is no file."""
    written = 0
    with whole_text(path) as file:
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
    known = row["uris"] and row["sample_rate"] and row["num_samples"] and row["channels"] and row["duration_s"]
    if not known and not rest(row, lhotse.FORM):
        raise CannotHoldError("recordings whose file, rate, samples or channels are not known: Lhotse wants all four")
    return _json(lhotse.recording(row))


def _lhotse_segment(row: Row) -> str:
    if not row["duration_s"] or row["start_s"] is None:
        raise CannotHoldError("segments without a start or a duration: Lhotse wants both, a duration above 0")
    return _json(lhotse.segment(row | {"channels": row["channels"] or [0]}))


def _lhotse_window(row: Row) -> str:
    of = row.pop("of")
    if not rest(row, lhotse.FORM):
        known = of and of["sample_rate"] and of["num_samples"] and of["uris"] and of["channels"]
        if not known and not (of and rest(of, lhotse.FORM)):
            raise CannotHoldError("windows whose recording is not known: Lhotse wants its file, rate and samples")
        if not row["channels"] or row["start_s"] is None or not row["duration_s"]:
            raise CannotHoldError("windows whose channels, start or duration are not known: Lhotse wants all three")
    return _json(lhotse.window(row, of))


def _lhotse_recordings(source: Source, out: Path, result: Converted) -> None:
    _write_lines(out, source.rows("FROM {recordings} ORDER BY position"), _lhotse_recording, result)


def _lhotse_supervisions(source: Source, out: Path, result: Converted) -> None:
    _write_lines(out, source.rows("FROM {segments} ORDER BY position"), _lhotse_segment, result)


def _lhotse_cuts(source: Source, out: Path, result: Converted) -> None:
    query = WINDOWS_OF if source.count("windows") else WHOLE_RECORDINGS
    _write_lines(out, source.rows(query), _lhotse_window, result)


def _lhotse_cuts_alone(source: Source, out: Path, result: Converted) -> None:
    _lhotse_cuts(source, out, result)
    windows = source.count("windows")
    result.lost += lost(source, {"recordings": (NAMES, "custom") if windows else (NAMES,), "windows": ()}, lhotse.FORM)
    if not windows:
        return
    outside = "SELECT count(*) FROM {recordings} ANTI JOIN {windows} USING (recording_id)".format(**source.relations)
    for count, noun, what in (
        (source.value(outside), "recording", "outside any window"),
        (source.count("segments"), "segment", "of whole recordings: cuts hold those inside windows"),
    ):
        if count:
            result.lost.append(f"{counted(count, noun)} {what}")


RECORDING = ", ".join(f"'{name}': r.{name}" for name in TABLES["recordings"].names)
WINDOWS_OF = (
    f"SELECT w.*, CASE WHEN r.recording_id IS NOT NULL THEN {{{{{RECORDING}}}}} END AS of FROM {{windows}} AS w "
    "LEFT JOIN {recordings} AS r USING (recording_id) ORDER BY w.position"
)
SEGMENT = ", ".join(f"'{name}': s.{name}" for name in TABLES["segments"].names)
WHOLE_RECORDINGS = (
    "SELECT recording_id AS window_id, recording_id, 0.0::DOUBLE AS start_s, duration_s, "
    "list_transform(range(channels), lambda x: x::INTEGER) AS channels, coalesce(inside, []) AS segments, "
    f"r.custom, NULL AS rest, {{{{{RECORDING}}}}} AS of FROM {{recordings}} AS r LEFT JOIN ("
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
        utterances: dict[str, tuple[str, ...] | None] = {"segments": ("segment_id", "channels", CLASH), "windows": None}
    elif source.count("windows"):
        query = "SELECT w.*, r.uris[1] AS uri FROM {windows} AS w LEFT JOIN {recordings} AS r USING (recording_id)"
        order = "w.position"
        utterances = {"windows": ("window_id", "channels", "segments", CLASH)}
    else:
        query, order = "SELECT *, uris[1] AS uri FROM {recordings}", "position"
        utterances = {"recordings": (ID, NAMES, *SOUND, CLASH)}
    of_files: dict[str, tuple[str, ...] | None] = {"recordings": (ID, NAMES, "duration_s", *SOUND, "custom")}
    result.lost += lost(source, of_files | utterances, nemo.FORM)

    def line(row: Row) -> str:
        if row["uri"] is None:
            raise CannotHoldError("utterances whose file is not known: NeMo wants its path")
        said = dict.fromkeys(("start_s", "speaker", "language", "text")) | row | {"custom": nemo.flat(row)}
        return _json(nemo.segment(said, row["uri"]))

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
        paths = {kind: out / kind / f"{name}.{kind}" for kind in ("rttm", "uem")}
        named = {kind: str((Path(result.out) / kind / path.name).absolute()) for kind, path in paths.items()}
        with whole_text(paths["rttm"]) as file:
            for segment in inside:
                try:
                    file.write(_rttm_line(segment) + "\n")
                except CannotHoldError as error:
                    result.leave_out(str(error), segment["segment_id"])
        if row["duration_s"] is not None:
            region = {"recording_id": name, "channels": [0], "start_s": 0.0, "duration_s": row["duration_s"]}
            with whole_text(paths["uem"]) as file:
                file.write(rttm.region(region) + "\n")
        uem = named["uem"] if row["duration_s"] is not None else None
        speakers = len({segment["speaker"] for segment in inside})
        return _json(nemo.recording(row | {"custom": nemo.flat(row)}, speakers, named["rttm"], uem))

    _write_lines(out / "manifest.jsonl", source.rows(query), line, result)
    strange = "SELECT count(*) FROM {segments} ANTI JOIN {recordings} USING (recording_id)".format(**source.relations)
    if count := source.value(strange):
        result.lost.append(f"{counted(count, 'segment')} of recordings that are not known")


def _rttm_line(row: Row) -> str:
    if row["duration_s"] is None or row["start_s"] is None:
        raise CannotHoldError("segments without a start or a duration")
    try:
        return rttm.segment(row)
    except ValueError as error:
        raise CannotHoldError("segments whose recording or speaker has a space in its name") from error


def _uem_line(row: Row) -> str:
    if row["duration_s"] is None or row["start_s"] is None:
        raise CannotHoldError("regions without a start or a duration")
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
        return _json(moshi.recording(row))

    _write_lines(out, source.rows("FROM {recordings} ORDER BY position"), line, result)
    result.lost.append("words; moshi-finetune wants them in a .json beside each file, and its annotate.py makes it")


def _tables(source: Source, out: Path, result: Converted, kind: str, write: Callable[..., None]) -> list[str]:
    """The three tables as files of a kind; which of them hold rows."""
    out.mkdir(parents=True, exist_ok=True)
    held = [table for table in TABLES if source.count(table)]
    for table in held:
        query = f"SELECT * EXCLUDE (position) FROM {source.relations[table]} ORDER BY position"
        write(out / f"{table}.{kind}", table, source.connection.sql(query).to_arrow_reader(1 << 16))
        result.files[str(out / f"{table}.{kind}")] = source.count(table)
    return held


def _parquet(source: Source, out: Path, result: Converted) -> None:
    """The three tables, and a README.md that makes them configurations of one Hugging Face dataset."""
    held = _tables(source, out, result, "parquet", tables.write_parquet)
    configs = "".join(f"- config_name: {table}\n  data_files: {table}.parquet\n" for table in held)
    with whole_text(out / "README.md") as file:
        file.write(f"---\nconfigs:\n{configs}---\n")


def _csv(source: Source, out: Path, result: Converted) -> None:
    """The three tables; lists and objects are JSON."""
    _tables(source, out, result, "csv", tables.write_csv)


ID, NAMES = "recording_id, which is not the path", "all names but the first"
SOUND = ("sample_rate", "num_samples", "number of channels")
CLASH = "custom that clashes with NeMo's own keys"
CLASHES = "custom that clashes with NeMo's own keys for diarization"
WORDS = ("segment_id", "language", "text", "custom")
ONE = "all channels but the first"
FORMS = {
    "lhotse": Form(
        _lhotse_folder, {"recordings": (NAMES, "custom"), "segments": (), "windows": ()}, "lhotse", folder=True
    ),
    "lhotse-recordings": Form(
        _lhotse_recordings, {"recordings": (NAMES, "custom"), "segments": None, "windows": None}, "lhotse"
    ),
    "lhotse-supervisions": Form(
        _lhotse_supervisions, {"recordings": None, "segments": (), "windows": None}, "lhotse"
    ),
    "lhotse-cuts": Form(_lhotse_cuts_alone, name="lhotse"),
    "nemo": Form(_nemo, name="nemo"),
    "nemo-diarization": Form(
        _nemo_diarization, {"recordings": (ID, NAMES, *SOUND, CLASHES), "segments": (*WORDS, ONE), "windows": None},
        "nemo", folder=True,
    ),
    "rttm": Form(
        _rttm, {"recordings": ("uris", *SOUND, "custom"), "segments": (*WORDS, ONE), "windows": None}, "rttm",
        beside=(".uem",),
    ),
    "moshi": Form(
        _moshi, {"recordings": (ID, NAMES, "sample_rate", "num_samples", "custom"), "segments": None, "windows": None},
        "moshi",
    ),
    "parquet": Form(_parquet, folder=True),
    "csv": Form(_csv, folder=True),
}  # fmt: skip

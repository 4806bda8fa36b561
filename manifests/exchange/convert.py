"""Convert a lake or manifests to the formats of other tools, and report what a format cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.exchange.foreign import lhotse, moshi, nemo, rttm, tables
from manifests.exchange.foreign.rows import TABLES, ManifestError, Row, rest
from manifests.exchange.losses import describe_losses
from manifests.exchange.place import output_in_storage, output_path
from manifests.exchange.relations import Source
from manifests.output import counted
from manifests.storage import open_storage
from manifests.whole import whole_text

EXAMPLES = 3


class CannotHoldError(ValueError):
    """A format cannot hold a row; the message says why."""


@dataclass
class Converted:
    """The result of a conversion: rows by written file, rows that were left out, and values that were lost."""

    out: str
    """The place of the output once it is complete."""
    files: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    """By reason: the number of rows, and the ids of a few of them."""
    lost: list[str] = field(default_factory=list)
    """Descriptions of values that the format cannot hold."""

    def leave_out(self, reason: str, name: str) -> None:
        count, examples = self.left_out.get(reason, (0, []))
        self.left_out[reason] = (count + 1, examples if len(examples) == EXAMPLES else [*examples, name])


@dataclass(frozen=True)
class Form:
    """A format that can be written.

    `lacks` says for each table what the format cannot hold, in the words of `losses.CONDITIONS`; None is all of it.
    """

    write: Callable[[Source, Path, Converted], None]
    lacks: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    name: str = "none"
    """The name of the format under which readers keep its extra fields in `rest`."""
    folder: bool = False
    """Whether it is a folder of files instead of one file."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of further files that it writes beside its main one."""


def convert(source: Source, form: str, out: str, overwrite: bool = False) -> Converted:
    """Write a source in one of the formats FORMS.

    Args:
        source: What is converted.
        form: The name of the format.
        out: The file or folder to write, which appears once it is complete.
        overwrite: Whether an earlier conversion at that place may be replaced.

    Raises:
        ManifestError: The place is taken, it is a file instead of a folder or the other way round, or the format can
            hold nothing of the source.
    """
    chosen = FORMS[form]
    result = Converted(out, left_out={reason: (count, []) for reason, count in source.left_out.items()})
    if "://" in out:
        if form == "nemo-diarization":
            raise ManifestError(f"{form} names its files by local paths", "write it to a local folder")
        root, _, name = out.rstrip("/").rpartition("/")
        place = output_in_storage(open_storage(root), name, chosen.folder, chosen.suffixes, overwrite)
    else:
        place = output_path(out, chosen.folder, chosen.suffixes, overwrite)
    with place as path:
        chosen.write(source, path, result)
        if not result.files:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, (count, _) in result.left_out.items())
            raise ManifestError(
                f"nothing here can be written as {form}: {reasons or 'it is empty'}", "choose another format"
            )
        start = out.rstrip("/") + "/" if chosen.folder else out[: len(out) - len(path.name)]
        base = path if chosen.folder else path.parent
        result.files = {start + Path(name).relative_to(base).as_posix(): rows for name, rows in result.files.items()}
    result.lost += describe_losses(source, chosen.lacks, chosen.name)
    return result


def _write_lines(path: Path, rows: Iterator[Row], line: Callable[[Row], str], result: Converted) -> None:
    """Write a line for each row, and count rows that the format cannot hold. Without any line no file is written."""
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
        raise CannotHoldError("recordings whose file, rate, samples or channels are unknown: Lhotse needs all four")
    return _json(lhotse.recording(row))


def _lhotse_segment(row: Row) -> str:
    if not row["duration_s"] or row["start_s"] is None:
        raise CannotHoldError("segments without a start or a duration: Lhotse needs both, and a duration above 0")
    return _json(lhotse.segment(row | {"channels": row["channels"] or [0]}))


def _lhotse_window(row: Row) -> str:
    recording = row.pop("of")
    if not rest(row, lhotse.FORM):
        names = ("sample_rate", "num_samples", "uris", "channels")
        known = recording and all(recording[name] for name in names)
        if not known and not (recording and rest(recording, lhotse.FORM)):
            raise CannotHoldError("windows whose recording is unknown: Lhotse needs its file, rate and samples")
        if not row["channels"] or row["start_s"] is None or not row["duration_s"]:
            raise CannotHoldError("windows whose channels, start or duration are unknown: Lhotse needs all three")
    return _json(lhotse.window(row, recording))


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
    result.lost += describe_losses(
        source, {"recordings": (NAMES, "custom") if windows else (NAMES,), "windows": ()}, lhotse.FORM
    )
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
"""One window for each recording, for a source without windows."""


def _lhotse_folder(source: Source, out: Path, result: Converted) -> None:
    for table, name, write in (
        ("recordings", "recordings", _lhotse_recordings),
        ("segments", "supervisions", _lhotse_supervisions),
        ("windows", "cuts", _lhotse_cuts),
    ):
        if source.count(table):
            write(source, out / f"{name}.jsonl.gz", result)


def _nemo(source: Source, out: Path, result: Converted) -> None:
    """Utterances are the segments; without segments the windows, and without windows the recordings."""
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
    result.lost += describe_losses(source, of_files | utterances, nemo.FORM)

    def line(row: Row) -> str:
        if row["uri"] is None:
            raise CannotHoldError("utterances whose file is unknown: NeMo needs its path")
        fields = dict.fromkeys(("start_s", "speaker", "language", "text")) | row | {"custom": nemo.flat(row)}
        return _json(nemo.segment(fields, row["uri"]))

    _write_lines(out, source.rows(f"{query} ORDER BY {order}"), line, result)


def _nemo_diarization(source: Source, out: Path, result: Converted) -> None:
    """Write a manifest, and for each recording a file of turns (RTTM) and one of regions to score (UEM)."""
    query = (
        f"SELECT r.*, list({{{{{SEGMENT}}}}} ORDER BY s.position) FILTER (s.segment_id IS NOT NULL) AS inside "
        "FROM {recordings} AS r LEFT JOIN {segments} AS s USING (recording_id) GROUP BY ALL ORDER BY r.position"
    )
    names: set[str] = set()

    def line(row: Row) -> str:
        if not row["uris"]:
            raise CannotHoldError("recordings whose file is unknown: NeMo needs its path")
        name = Path(row["uris"][0]).stem
        if name in names or name.split() != [name]:
            raise CannotHoldError("recordings whose file name has spaces or is not unique: NeMo identifies them by it")
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
        result.lost.append(f"{counted(count, 'segment')} of unknown recordings")


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
    """Write turns, and beside them a .uem of whole recordings, or of windows if no duration is known."""
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
            raise CannotHoldError("recordings whose file or duration is unknown")
        if row["channels"] != 2:
            raise CannotHoldError(
                "recordings without exactly two channels: moshi needs the model left and the user right"
            )
        relation = (json.loads(row["custom"]) if row["custom"] else {}).get("channel_relation")
        if relation not in (None, "speakers"):
            raise CannotHoldError(f"recordings whose two channels are not a speaker each ({relation})")
        return _json(moshi.recording(row))

    _write_lines(out, source.rows("FROM {recordings} ORDER BY position"), line, result)
    result.lost.append("words; moshi-finetune needs them in a .json beside each file, which its annotate.py writes")


def _tables(source: Source, out: Path, result: Converted, kind: str, write: Callable[..., None]) -> list[str]:
    """Write the three tables as files of a kind; returns the names of those that have rows."""
    out.mkdir(parents=True, exist_ok=True)
    held = [table for table in TABLES if source.count(table)]
    for table in held:
        query = f"SELECT * EXCLUDE (position) FROM {source.relations[table]} ORDER BY position"
        write(out / f"{table}.{kind}", table, source.connection.sql(query).to_arrow_reader(1 << 16))
        result.files[str(out / f"{table}.{kind}")] = source.count(table)
    return held


def _parquet(source: Source, out: Path, result: Converted) -> None:
    """Write the tables, and a README.md that makes them configurations of one Hugging Face dataset."""
    held = _tables(source, out, result, "parquet", tables.write_parquet)
    configs = "".join(f"- config_name: {table}\n  data_files: {table}.parquet\n" for table in held)
    with whole_text(out / "README.md") as file:
        file.write(f"---\nconfigs:\n{configs}---\n")


def _csv(source: Source, out: Path, result: Converted) -> None:
    """Write the tables; lists and objects are JSON."""
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
        suffixes=(".uem",),
    ),
    "moshi": Form(
        _moshi, {"recordings": (ID, NAMES, "sample_rate", "num_samples", "custom"), "segments": None, "windows": None},
        "moshi",
    ),
    "parquet": Form(_parquet, folder=True),
    "csv": Form(_csv, folder=True),
}  # fmt: skip

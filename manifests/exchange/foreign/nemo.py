"""Read and write NeMo manifests: one JSON object on each line, utterances for ASR or recordings for diarization.

The id of a recording is its `audio_filepath`, its only name. Keys that NeMo does not define are kept in `custom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.exchange.foreign.rows import Row, custom, extra_fields, rest, text, to_json

FORM = "nemo"
COLUMNS = {"audio_filepath", "offset", "duration", "text", "lang", "speaker"}
DIARIZATION = {"offset": 0, "label": "infer", "text": "-"}
OF_RECORDINGS = COLUMNS | {"label", "num_speakers", "rttm_filepath", "uem_filepath"}
RESERVED = OF_RECORDINGS | {"path", "id", "sources"}
"""Keys with a meaning for NeMo or for the detection of the format."""


def is_diarization(line: Mapping[str, Any]) -> bool:
    """Whether a line names a file of turns for diarization, instead of being an utterance."""
    return "rttm_filepath" in line or line.get("label") == "infer"


def segment_row(line: Mapping[str, Any], number: int) -> Row:
    """The row of an utterance; its id has the number of its line."""
    attached = {key: value for key, value in line.items() if key not in COLUMNS}
    duration = line.get("duration")
    row: Row = {
        "segment_id": f"{line['audio_filepath']}-{number:06d}",
        "recording_id": line["audio_filepath"],
        "start_s": float(line.get("offset") or 0.0),
        "duration_s": None if duration is None else float(duration),
        "channels": None,
        "speaker": text(line.get("speaker")),
        "language": text(line.get("lang")),
        "text": text(line.get("text")),
        "custom": to_json(attached) if attached else None,
    }
    return row | {"rest": extra_fields(line, segment(row, line["audio_filepath"]), FORM)}


def segment(row: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """Make the line of an utterance in the file `uri`."""
    line: dict[str, Any] = {"audio_filepath": uri}
    if row["start_s"]:
        line["offset"] = row["start_s"]
    names = {"duration": "duration_s", "text": "text", "lang": "language", "speaker": "speaker"}
    line |= {key: row[name] for key, name in names.items() if row[name] is not None}
    return line | _attached(row, COLUMNS) | rest(row, FORM)


def _attached(row: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """The attributes in `custom` as keys of a line, except those that are taken."""
    attached = custom(row)
    return {key: value for key, value in attached.items() if key not in taken} if isinstance(attached, dict) else {}


def flat(row: Mapping[str, Any]) -> str | None:
    """The value of `custom` with each label as a separate key, as NeMo manifests have their attributes.

    If the name of any label is taken, all labels stay in `labels`, so that none is lost.
    """
    attached = custom(row)
    labels = attached.get("labels") if isinstance(attached, dict) else None
    if not isinstance(labels, dict) or labels.keys() & (RESERVED | attached.keys()):
        return row["custom"]
    return to_json({key: value for key, value in attached.items() if key != "labels"} | labels)


def recording_row(line: Mapping[str, Any]) -> Row:
    """The row of the file of a line; its duration is known only if the line describes the whole file."""
    diarization = is_diarization(line)
    whole = line.get("duration") is not None and not line.get("offset") and (diarization or "offset" not in line)
    row: Row = dict.fromkeys(("sample_rate", "num_samples", "channels", "custom", "rest"))
    row |= {"recording_id": line["audio_filepath"], "uris": [line["audio_filepath"]]}
    row["duration_s"] = float(line["duration"]) if whole else None
    if diarization:
        # The files of turns are read separately, and are written under new names.
        stated = {key: value for key, value in line.items() if key not in ("rttm_filepath", "uem_filepath")}
        attached = {key: value for key, value in stated.items() if key not in OF_RECORDINGS}
        row["custom"] = to_json(attached) if attached else None
        written = {"audio_filepath": row["uris"][0], "duration": row["duration_s"]} | DIARIZATION | attached
        row["rest"] = extra_fields(stated, written, FORM)
    return row


def recording(row: Mapping[str, Any], num_speakers: int, rttm: str, uem: str | None) -> dict[str, Any]:
    """Make the line of a recording with its files of turns (`rttm`) and of regions to score (`uem`)."""
    line = {"audio_filepath": row["uris"][0], "duration": row["duration_s"], "num_speakers": num_speakers}
    line |= _attached(row, OF_RECORDINGS)
    return line | DIARIZATION | {"rttm_filepath": rttm, "uem_filepath": uem} | rest(row, FORM)

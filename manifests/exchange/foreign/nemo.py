"""NeMo manifests as rows and back, a JSON object a line: utterances for recognition, recordings for diarization.

A recording's id is its `audio_filepath`, the only name a line gives it. Keys that NeMo does not define are `custom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.exchange.foreign.rows import Row, beyond, custom, rest, text, to_json

FORM = "nemo"
COLUMNS = {"audio_filepath", "offset", "duration", "text", "lang", "speaker"}
DIARIZATION = {"offset": 0, "label": "infer", "text": "-"}


def is_diarization(line: Mapping[str, Any]) -> bool:
    """A line that names files of turns instead of being an utterance."""
    return "rttm_filepath" in line or line.get("label") == "infer"


def segment_row(line: Mapping[str, Any], number: int) -> Row:
    """An utterance; `number` of the line makes its id."""
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
    return row | {"rest": beyond(line, segment(row, line["audio_filepath"]), FORM)}


def segment(row: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """An utterance of the file `uri`."""
    line: dict[str, Any] = {"audio_filepath": uri}
    if row["start_s"]:
        line["offset"] = row["start_s"]
    names = {"duration": "duration_s", "text": "text", "lang": "language", "speaker": "speaker"}
    line |= {key: row[name] for key, name in names.items() if row[name] is not None}
    attached = custom(row)
    if isinstance(attached, dict):
        line |= {key: value for key, value in attached.items() if key not in COLUMNS}
    return line | rest(row, FORM)


def recording_row(line: Mapping[str, Any]) -> Row:
    """The file of a line. Its length is known only where nothing says that the line is a part of it."""
    diarization = is_diarization(line)
    whole = line.get("duration") is not None and not line.get("offset") and (diarization or "offset" not in line)
    row: Row = dict.fromkeys(("sample_rate", "num_samples", "channels", "custom", "rest"))
    row |= {"recording_id": line["audio_filepath"], "uris": [line["audio_filepath"]]}
    row["duration_s"] = float(line["duration"]) if whole else None
    if diarization:
        # What the files of turns hold is read from them; they are written under new names.
        stated = {key: value for key, value in line.items() if key not in ("rttm_filepath", "uem_filepath")}
        row["rest"] = beyond(
            stated, DIARIZATION | {"audio_filepath": row["uris"][0], "duration": row["duration_s"]}, FORM
        )
    return row


def recording(row: Mapping[str, Any], num_speakers: int, rttm: str, uem: str | None) -> dict[str, Any]:
    """A recording with its files of turns (`rttm`) and of what is to be scored (`uem`)."""
    line = {"audio_filepath": row["uris"][0], "duration": row["duration_s"], "num_speakers": num_speakers}
    return line | DIARIZATION | {"rttm_filepath": rttm, "uem_filepath": uem} | rest(row, FORM)

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
OF_RECORDINGS = COLUMNS | {"label", "num_speakers", "rttm_filepath", "uem_filepath"}
TELLING = OF_RECORDINGS | {"path", "id", "sources"}
"""Keys that say something of the line itself, to NeMo or to whoever finds out of which format it is."""


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
    return line | _attached(row, COLUMNS) | rest(row, FORM)


def _attached(row: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """What `custom` says, as keys of a line in which some are taken."""
    attached = custom(row)
    return {key: value for key, value in attached.items() if key not in taken} if isinstance(attached, dict) else {}


def flat(row: Mapping[str, Any]) -> str | None:
    """`custom` with each label as a key of its own, as lines of NeMo hold what people say of them.

    All labels stay where they are if the name of one of them is taken, so that none is lost.
    """
    attached = custom(row)
    labels = attached.get("labels") if isinstance(attached, dict) else None
    if not isinstance(labels, dict) or labels.keys() & (TELLING | attached.keys()):
        return row["custom"]
    return to_json({key: value for key, value in attached.items() if key != "labels"} | labels)


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
        attached = {key: value for key, value in stated.items() if key not in OF_RECORDINGS}
        row["custom"] = to_json(attached) if attached else None
        written = {"audio_filepath": row["uris"][0], "duration": row["duration_s"]} | DIARIZATION | attached
        row["rest"] = beyond(stated, written, FORM)
    return row


def recording(row: Mapping[str, Any], num_speakers: int, rttm: str, uem: str | None) -> dict[str, Any]:
    """A recording with its files of turns (`rttm`) and of what is to be scored (`uem`)."""
    line = {"audio_filepath": row["uris"][0], "duration": row["duration_s"], "num_speakers": num_speakers}
    line |= _attached(row, OF_RECORDINGS)
    return line | DIARIZATION | {"rttm_filepath": rttm, "uem_filepath": uem} | rest(row, FORM)

"""Read and write Lhotse manifests without lhotse: recordings, supervisions and cuts, one JSON object on each line.

Fields are those of lhotse 1.33 (Recording, SupervisionSegment, MonoCut, MultiCut, MixedCut).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from manifests.exchange.foreign.rows import Row, custom, extra_fields, rest, text, to_json

FORM = "lhotse"
MAX_SPAN_S = 1e9


def read(line: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a line of any Lhotse manifest with their tables. Raises KeyError for a missing field."""
    if "sources" in line:
        yield "recordings", recording_row(line)
    elif "type" in line or "tracks" in line:
        yield from _cut_rows(line)
    else:
        yield "segments", segment_row(line)


def recording_row(line: Mapping[str, Any]) -> Row:
    channels = line.get("channel_ids") or sorted(
        {channel for source in line["sources"] for channel in source["channels"]}
    )
    row: Row = {
        "recording_id": text(line["id"]),
        "uris": [source["source"] for source in line["sources"] if source["type"] in ("file", "url")],
        "sample_rate": line["sampling_rate"],
        "num_samples": line["num_samples"],
        "duration_s": float(line["duration"]),
        "channels": len(channels),
        "custom": None,
    }
    return row | {"rest": extra_fields(line, recording(row), FORM)}


def recording(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a Recording; of several names of a file only the first becomes a source."""
    channels = list(range(row["channels"]))
    line = {
        "id": row["recording_id"],
        "sources": [source for uri in row["uris"][:1] for source in sources_of(uri, channels)],
        "sampling_rate": row["sample_rate"],
        "num_samples": row["num_samples"],
        "duration": row["duration_s"],
        "channel_ids": channels,
    }
    return line | rest(row, FORM)


def segment_row(line: Mapping[str, Any]) -> Row:
    channel = line.get("channel", 0)
    row: Row = {
        "segment_id": text(line["id"]),
        "recording_id": text(line["recording_id"]),
        "start_s": float(line["start"]),
        "duration_s": float(line["duration"]),
        "channels": channel if isinstance(channel, list) else [channel],
        "speaker": text(line.get("speaker")),
        "language": text(line.get("language")),
        "text": text(line.get("text")),
        "custom": None if line.get("custom") is None else to_json(line["custom"]),
    }
    row["rest"] = extra_fields(line, segment(row), FORM)
    return row


def segment(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a SupervisionSegment."""
    line = {
        "id": row["segment_id"],
        "recording_id": row["recording_id"],
        "start": row["start_s"],
        "duration": row["duration_s"],
        "channel": _channel(row["channels"]),
    }
    for name in ("speaker", "language", "text"):
        if row[name] is not None:
            line[name] = row[name]
    if (attached := custom(row)) is not None:
        line["custom"] = attached
    return line | rest(row, FORM)


def _cut_rows(line: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    cuts = [track["cut"] for track in line["tracks"]] if "tracks" in line else [line]
    for cut in cuts:
        if cut.get("recording"):
            yield "implied_recordings", recording_row(cut["recording"])
        for supervision in cut.get("supervisions") or []:
            row = segment_row(supervision)
            # lhotse rounds its own sums in the same way.
            yield "implied_segments", row | {"start_s": round(cut["start"] + row["start_s"], 8)}
    yield "windows", _mixture_row(line) if "tracks" in line else window_row(line)


def window_row(line: Mapping[str, Any]) -> Row:
    channel = line.get("channel", 0)
    holder = line.get("recording") or line.get("features") or {}
    row: Row = {
        "window_id": text(line["id"]),
        "recording_id": text(holder.get("id") if line.get("recording") else holder.get("recording_id")),
        "start_s": float(line["start"]),
        "duration_s": float(line["duration"]),
        "channels": channel if isinstance(channel, list) else [channel],
        "segments": [segment_row(supervision) for supervision in line.get("supervisions") or []],
        "custom": None if line.get("custom") is None else to_json(line["custom"]),
    }
    return row | {"rest": extra_fields(line, window(row), FORM)}


def _mixture_row(line: Mapping[str, Any]) -> Row:
    """The row of a MixedCut, which has several recordings: columns have its duration, and `rest` has the whole cut."""
    ends = [track.get("offset", 0.0) + track["cut"]["duration"] for track in line["tracks"]]
    row: Row = dict.fromkeys(("recording_id", "custom")) | {"window_id": text(line["id"]), "start_s": 0.0}
    return row | {"duration_s": max(ends), "channels": [], "segments": [], "rest": to_json({FORM: line})}


def window(row: Mapping[str, Any], recording_row: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make a MonoCut, or a MultiCut for several channels; `recording_row` is the row of its recording."""
    kept = rest(row, FORM)
    if "tracks" in kept:
        return kept
    line = {
        "id": row["window_id"],
        "start": row["start_s"],
        "duration": row["duration_s"],
        "channel": _channel(row["channels"]),
        "supervisions": [segment(inside) for inside in row["segments"] or []],
        "type": "MonoCut" if len(row["channels"]) == 1 else "MultiCut",
    }
    if recording_row is not None:
        line["recording"] = recording(recording_row)
    if (attached := custom(row)) is not None:
        line["custom"] = attached
    return line | kept


def _channel(channels: list[int]) -> int | list[int]:
    return channels[0] if len(channels) == 1 else channels


class NamedAudio(NamedTuple):
    """A recording that a line of a manifest names, and the part of it that the line describes."""

    files: tuple[str, ...]
    """One file, or several ones in the order of their channels."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None if the line describes the whole recording."""


def named_audio(line: object, spans: bool) -> list[NamedAudio]:
    """The recordings that a line names: a Recording, a cut, the cuts of a mix, or a line of NeMo; at least one.

    Args:
        line: A line of a manifest, parsed from JSON.
        spans: Whether the part of the recording that the line describes is returned; otherwise it is ignored.

    Raises:
        KeyError: A field is missing.
        TypeError: A field has another type, or a source is no file.
    """
    if not isinstance(line, Mapping):
        raise TypeError(f"{_shown(line)} is no JSON object")
    if "audio_filepath" in line:
        start_s, duration_s = _span(line, "offset") if spans and "offset" in line else (0.0, None)
        return [NamedAudio((_name(line["audio_filepath"], "audio_filepath"),), start_s, duration_s)]
    if "tracks" in line:  # MixedCut
        cuts = [_field(track, "cut") for track in _items(line["tracks"], "tracks")]
        named = [audio for cut in cuts if "recording" in cut for audio in named_audio(cut, spans)]
    else:
        recording = _field(line, "recording", line)
        sources = [
            (_source_channels(source), _source_name(source)) for source in _items(recording["sources"], "sources")
        ]
        files = tuple(name for _, name in sorted(sources, key=lambda source: source[0]))
        span: tuple[float, float | None] = _span(line, "start") if spans and "recording" in line else (0.0, None)
        named = [NamedAudio(files, *span)] if files else []
    if not named:
        raise TypeError("it names no file")
    return named


def _span(line: Mapping[str, Any], start: str) -> tuple[float, float]:
    """Start and duration in seconds."""
    values = [line.get(start, 0.0), line["duration"]]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{start} and duration are {_shown(values)}, not seconds")
    start_s, duration_s = (float(value) + 0.0 for value in values)  # -0.0 becomes 0.0
    if not (0 <= start_s < MAX_SPAN_S and 0 < duration_s < MAX_SPAN_S):
        raise TypeError(f"{start} and duration are {_shown(values)}, which is no part of a recording")
    return start_s, duration_s


def _source_channels(source: object) -> int:
    """The first channel of a source; 0 if it names none."""
    channels = source.get("channels") if isinstance(source, Mapping) else None
    numbers = [c for c in channels if isinstance(c, int)] if isinstance(channels, list) else []
    return min(numbers, default=0)


def sources_of(uri: str, channels: list[int]) -> list[dict[str, Any]]:
    """The sources of a Lhotse recording: one file, or a file for each channel if `uri` is a JSON list of names."""
    try:
        names = json.loads(uri) if uri.startswith('["') else []
    except ValueError:
        names = []
    pairs: Iterable[tuple[str, Any]] = (
        zip(names, channels, strict=True) if len(names) == len(channels) else [(uri, channels)]
    )
    return [
        {
            "type": "url" if "://" in name else "file",
            "channels": numbers if isinstance(numbers, list) else [numbers],
            "source": name,
        }
        for name, numbers in pairs
    ]


def _source_name(source: object) -> str:
    if not isinstance(source, Mapping):
        raise TypeError(f"source {_shown(source)} is no JSON object")
    if source["type"] not in ("file", "url"):
        raise TypeError(f"source type {_shown(source['type'])} holds no file")
    return _name(source["source"], "source")


def _field(line: object, key: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """A field that must be a JSON object."""
    if not isinstance(line, Mapping):
        raise TypeError(f"{_shown(line)} is no JSON object")
    value = line[key] if default is None else line.get(key, default)
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} is {_shown(value)}, not a JSON object")
    return value


def _items(value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{key} is {_shown(value)}, not a list")
    return value


def _name(value: object, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{key} is {_shown(value)}, not the name of a file")
    return value


def _shown(value: object) -> str:
    """A value for an error message, shortened to 60 characters."""
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:60]}..."

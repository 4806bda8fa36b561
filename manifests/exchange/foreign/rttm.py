"""Read and write RTTM (turns) and UEM (regions to score) with the full precision of float64.

Fields are those of the NIST RT evaluations; `<NA>` is a missing value. The formats hold no text, languages, paths or
spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from manifests.exchange.foreign.rows import Row, extra_fields, rest

FORM = "rttm"
FIELDS = (
    "type",
    "file",
    "channel",
    "onset",
    "duration",
    "orthography",
    "subtype",
    "speaker",
    "confidence",
    "lookahead",
)
NOTHING = "<NA>"


def segment_row(line: str, number: int) -> Row | None:
    """The row of a SPEAKER line; None for a line of another type. Raises ValueError if it is not RTTM."""
    words = line.split()
    if len(words) not in (len(FIELDS) - 1, len(FIELDS)):
        raise ValueError(f"{len(words)} fields, not {len(FIELDS)}")
    named = dict(zip(FIELDS, words, strict=False))
    if named["type"] != "SPEAKER":
        return None
    row: Row = {
        "segment_id": f"{named['file']}-{number:06d}",
        "recording_id": named["file"],
        "start_s": float(named["onset"]),
        "duration_s": float(named["duration"]),
        "channels": _channels(named["channel"]),
        "speaker": None if named["speaker"] == NOTHING else named["speaker"],
        **dict.fromkeys(("language", "text", "custom")),
    }
    written = _named(row)
    numbers = {"onset": written["onset"], "duration": written["duration"]}  # 1.50 and 1.5 are equal
    return row | {"rest": extra_fields(named | numbers, written, FORM)}


def segment(row: Mapping[str, Any]) -> str:
    """Make a SPEAKER line. Raises ValueError for a name that the format cannot hold."""
    return " ".join((_named(row) | rest(row, FORM)).values())


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "type": "SPEAKER",
        "file": _name(row, "recording_id"),
        "channel": _channel(row),
        "onset": seconds(row["start_s"]),
        "duration": seconds(row["duration_s"]),
        "orthography": NOTHING,
        "subtype": NOTHING,
        "speaker": NOTHING if row["speaker"] is None else _name(row, "speaker"),
        "confidence": NOTHING,
        "lookahead": NOTHING,
    }


def _name(row: Mapping[str, Any], column: str) -> str:
    name: str = row[column]
    if name.split() != [name]:
        raise ValueError(f"{column} {name!r}: a name may have no spaces")
    return name


def _channels(channel: str) -> list[int] | None:
    return [int(channel) - 1] if channel.isdecimal() and int(channel) else None


def _channel(row: Mapping[str, Any]) -> str:
    """The number of the first channel, counted from 1."""
    return str((row["channels"] or [0])[0] + 1)


def window_row(line: str, number: int) -> Row:
    """The row of a line of UEM. Raises ValueError if it is not UEM."""
    words = line.split()
    if len(words) != 4:
        raise ValueError(f"{len(words)} fields, not 4")
    name, channel = words[:2]
    start_s, end_s = map(float, words[2:])
    row: Row = {"window_id": f"{name}-{number:06d}", "recording_id": name, "start_s": start_s}
    row |= {"duration_s": round(end_s - start_s, 9), "channels": _channels(channel), "segments": [], "custom": None}
    # The end is kept if start and duration do not reproduce it exactly.
    ends = {} if round(start_s + row["duration_s"], 9) == end_s else {"end": seconds(end_s)}
    return row | {"rest": extra_fields({"channel": channel} | ends, {"channel": _channel(row)}, FORM)}


def region(row: Mapping[str, Any]) -> str:
    """Make a line of UEM."""
    end_s = seconds(round(row["start_s"] + row["duration_s"], 9))
    named = {"channel": _channel(row), "end": end_s} | rest(row, FORM)
    return f"{_name(row, 'recording_id')} {named['channel']} {seconds(row['start_s'])} {named['end']}"


def seconds(value: float) -> str:
    """The shortest decimal number that is read as the same float64, without an exponent.

    >>> seconds(1e-07), seconds(12.5), seconds(3.0)
    ('0.0000001', '12.5', '3.0')
    """
    return np.format_float_positional(value, trim="0")

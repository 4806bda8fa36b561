"""Which columns the views of a lake have (see `manifests.views`), and which parts of them a piece of SQL needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from manifests import schemas

VERDICT = {
    "verdict": "verdict",
    "reasons": "reasons",
    "duplicate_of": "duplicate_of",
    "repeated_share": "repeated_share",
    "repeats": "repeats",
    "passages": "passages",
    "verdict_duration_s": "duration_s",
    "windows": "windows",
    "windowed_s": "windowed_s",
    "remainder_s": "remainder_s",
    "split": "split",
}
"""Columns of `recordings` that come from `verdicts`, with their names there. `verdict_duration_s` is the duration that
the funnel counts: 0 where nothing was decoded."""

CLAIMED = {f"claimed_{name}": name for name in ("sample_rate", "channels")}
"""Columns of `recordings` with what the header claims, where `signal` measures a column of the same name."""

COPIED = {"recording_id", "language", "source", "licence", "labels", "split"}
"""Columns that a window has from its recording anyway."""

VIEWS = {
    "ingest": schemas.RECORDINGS,
    **schemas.STAGES,
    "verdicts": schemas.VERDICTS,
    "window_verdicts": schemas.WINDOWS,
    "matches": schemas.MATCHES,
    "shard_windows": schemas.SHARD_WINDOWS,
    "ledger": schemas.LEDGER,
}
"""The views that show the rows of one kind of file, with their columns."""


WIDE_VIEWS = ("recordings", "windows", "annotations")
"""The views that join several kinds of files."""


def annotation_columns(stages: Iterable[str]) -> dict[str, str]:
    """Columns of a recording with its stages, by name, as SQL over `r` (the ingested recording) and the stages' names.

    Where ingest and `signal` have the same column, it is that of `signal`. `select` evaluates the rules for recordings
    over these columns.
    """
    return {name: sources[0] for name, sources in _annotation_sources(stages).items()}


def _annotation_sources(stages: Iterable[str]) -> dict[str, list[str]]:
    common = set(schemas.BASE_NAMES)
    columns = {name: [f'r."{name}"'] for name in schemas.RECORDINGS.names if name not in common - {"recording_id"}}
    for stage in stages:
        columns |= {name: [f'{stage}."{name}"'] for name in schemas.STAGES[stage].names if name not in common}
    return columns


def recording_columns(stages: Iterable[str] = schemas.STAGES, verdicts: bool = True) -> dict[str, list[str]]:
    """Columns of the view `recordings` by name; the value is the first of these SQL expressions that is not null.

    `status`, `error_type`, `error` and `remedy` are those of ingest. `sample_rate` and `channels` are those of the
    decoded sound, and what the header claims for a recording that was not decoded.
    """
    stages = list(stages)
    columns = _annotation_sources(stages)
    for claimed, name in CLAIMED.items():
        if "signal" in stages:
            columns[name].append(f'r."{name}"')
        columns[claimed] = [f'r."{name}"']
    columns |= {column.name: [f'r."{column.name}"'] for column in schemas.FAILURE}
    return columns | ({name: [f'r."{name}"'] for name in VERDICT} if verdicts else {})


def window_columns(recording: Iterable[str]) -> dict[str, str]:
    """Columns that the view `windows` adds to those of a window, by name, with their names in `recordings`.

    A column that both have begins with `recording_`: `recording_duration_s` is the length of the recording. Left out
    are columns that the window has anyway, the failures of ingest, since a window is cut of a readable recording, and
    the landmarks of fingerprints.
    """
    bulky = {name for spec in schemas.STAGE_SPECS.values() for name in spec.bulky}
    left_out = {*COPIED, *(column.name for column in schemas.FAILURE), *bulky}
    same = {*schemas.WINDOWS.names, "windows"}
    return {f"recording_{name}" if name in same else name: name for name in recording if name not in left_out}


def columns_of_views() -> dict[str, list[str]]:
    """Names of the columns of every view of a lake, the wide views first."""
    recordings = list(recording_columns())
    return {
        "recordings": recordings,
        "windows": [*schemas.WINDOWS.names, *window_columns(recordings)],
        "annotations": list(annotation_columns(schemas.STAGES)),
        **{view: schema.names for view, schema in VIEWS.items()},
        "batches": ["recording_id", "uris", "source", "licence", "language_hint", "labels", "batch"],
    }


EVERYTHING = re.compile(
    r"(?<!\()(?<!\(\s)\*\s*(,|\)|FROM|EXCLUDE|REPLACE|RENAME|$)|^\s*(FROM|SHOW|DESCRIBE|SUMMARIZE|EXPLAIN)|\bCOLUMNS\s*\(",
    re.IGNORECASE,
)
"""SQL that may read any column: a star that is not count(*), and statements about a whole view."""

OTHER_PARTS = ("verdicts", "windows")
"""Parts of the wide views beside the stages; see `open_views`."""


def parts_needed(sql: str) -> set[str]:
    """The parts of the wide views that a piece of SQL needs, judged by the words in it; all of them where it says `*`.

    A stage is needed where its name or one of its own columns occurs.

    >>> sorted(parts_needed("SELECT language, count(*), sum(duration_s) FROM recordings GROUP BY ALL"))
    ['language', 'signal']
    >>> sorted(parts_needed("SELECT codec, sum(duration_s) FROM windows WHERE kept GROUP BY ALL"))
    ['signal', 'windows']
    """
    if EVERYTHING.search(sql):
        return {*schemas.STAGES, *OTHER_PARTS}
    words = set(re.findall(r"\w+", sql.lower()))
    names = words | {word.removeprefix("recording_") for word in words}
    own = {stage: set(schema.names) - set(schemas.BASE_NAMES) for stage, schema in schemas.STAGES.items()}
    parts = {stage for stage, columns in own.items() if stage in names or columns & names}
    of_recording = window_columns(recording_columns())
    added = {of_recording[word] for word in words & of_recording.keys()} if "windows" in words else set()
    if added:
        parts.add("windows")
    if ("recordings" in words and words & VERDICT.keys()) or added & VERDICT.keys():
        parts.add("verdicts")
    return parts

"""The entries of the inputs: names of recordings, with what manifests say of them and with errors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manifests.labels import as_column, is_value
from manifests.storage import Stat
from pipelines.recipes.recipe import IngestConfig
from runtime.credentials import redact_credentials
from runtime.errors import SpeechmillError
from runtime.failures import Kind, kind_of

MAX_LANGUAGE_LETTERS = 100
MAX_REASONS = 200
"""Reasons that are counted separately in `Notes.left_out`."""


class InputError(SpeechmillError):
    """An input of `--in` cannot be read as recordings or as a list of recordings."""


class UnreadableLineError(SpeechmillError):
    """A line of a list or manifest names no recording."""


class Hint(NamedTuple):
    """What a manifest or a sidecar says of a recording. It is stored, but not trusted."""

    text: str
    """The JSON object, without secrets in URLs and without lone surrogates."""
    languages: list[str]
    """The languages that it names, sorted, each once."""
    labels: list[tuple[str, str]] | None
    """Its values of the labels that the recipe names."""


@dataclass(frozen=True)
class Entry:
    """A name of a recording, or of a file, line or folder that could not be read for names."""

    uri: str
    hint: Hint | None = None
    stat: Stat | None = None
    """Size and modification time, if a listing or an archive has them."""
    hashed: dict[str, Any] | None = None
    """The hashes from an earlier ingest of the same bytes, so that they are not hashed again."""
    error: Exception | None = None
    """The error, if there is one already. The entry then becomes a failed row."""


@dataclass
class Notes:
    """What reading the inputs reports besides their entries."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Counts of files and other things that were left out, by suffix or reason."""
    problems: list[InputError] = field(default_factory=list)
    """The errors of inputs that could not be read to their end."""
    watched: set[str] = field(default_factory=set)
    """Lists, manifests and archives for which the caller needs to know whether they are read to their end."""
    finished: set[str] = field(default_factory=set)
    """The watched files that were read to their end."""

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count something that is left out. Beyond `MAX_REASONS` reasons, all others are counted as 'others'."""
        known = reason in self.left_out or len(self.left_out) < MAX_REASONS
        self.left_out[reason if known else "others"] += count

    def finish(self, uri: str) -> None:
        """Note that a list, manifest or archive was read to its end."""
        if uri in self.watched:
            self.finished.add(uri)


def failed_entry(uri: str, error: Exception, hint: Hint | None = None) -> Entry:
    """Return the entry of a name that cannot be read. Raises `error` if it must stop the run (`Kind.RUN`)."""
    if kind_of(error) is Kind.RUN:
        raise error
    return Entry(uri, hint, error=error)


def make_hint(value: object, limits: IngestConfig, notes: Notes) -> Hint | None:
    """Make a hint from a JSON value. It is None unless the value is an object whose text is within the limits."""
    if not isinstance(value, dict) or not value:
        return None
    try:
        text = _to_json(value)
        if "://" in text:
            text = _to_json(_without_secrets(value))
    except RecursionError:
        return None
    if len(text) > int(limits.max_hint_mb * 1e6):
        return None
    return Hint(text, _languages(value), _labels(value, limits.labels, notes))


def _to_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold only as an escape
        return json.dumps(value, sort_keys=True)
    return text


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return redact_credentials(value)
    if isinstance(value, dict):
        return {redact_credentials(key): _without_secrets(inner) for key, inner in value.items()}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list) else value


def _languages(fields: dict[str, Any]) -> list[str]:
    """Return NeMo's `lang` and the languages of Lhotse's supervisions. Values of other types are ignored."""
    named = [fields.get("lang"), *(supervision.get("language") for supervision in _supervisions(fields))]
    texts = {name for name in named if isinstance(name, str) and 0 < len(name) <= MAX_LANGUAGE_LETTERS}
    return sorted(name for name in texts if name.isprintable())


def _supervisions(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the supervisions of a Lhotse cut."""
    supervisions = fields.get("supervisions")
    return [one for one in supervisions if isinstance(one, dict)] if isinstance(supervisions, list) else []


def _labels(fields: dict[str, Any], names: Sequence[str], notes: Notes) -> list[tuple[str, str]] | None:
    """Return the labels with these names, from the keys of a NeMo line, or from `custom` in a Lhotse cut and its parts.

    They may also be in an object `labels` there, as `manifest convert` writes them.
    """
    parts = [fields, fields.get("recording"), *_supervisions(fields)]
    places = [fields, *(part.get("custom") for part in parts if isinstance(part, dict))]
    places += [place.get("labels") for place in places if isinstance(place, dict)]
    labels: dict[str, str] = {}
    for name in names:
        values = {_as_text(place[name]) for place in places if isinstance(place, dict) and name in place}
        values -= {""}
        if len(values) > 1:
            notes.leave_out("labels that a line gives twice")
        for value in values if len(values) == 1 else ():
            if is_value(value):
                labels[name] = value
            else:
                notes.leave_out("labels that are no short plain text")
    return as_column(labels)


def _as_text(value: object) -> str:
    """Return a JSON value as text for a label: numbers and booleans as in JSON, and '' for null."""
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)

"""What ingest learns from outside before it reads any sound: names, what manifests say of them, and what is wrong."""

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
"""Different reasons that are counted apart in `Notes.left_out`."""


class InputError(SpeechmillError):
    """Something named by `--in` that cannot be read as recordings or as a list of them."""


class UnreadableLineError(SpeechmillError):
    """A line of a list or manifest that names no recording."""


class Hint(NamedTuple):
    """What a manifest or a sidecar says of a recording: recorded, not trusted."""

    text: str
    """A JSON object, without the secrets of URLs and without lone surrogates."""
    languages: list[str]
    """The different languages that it names, sorted."""
    labels: list[tuple[str, str]] | None
    """Those of the labels that the recipe names which it gives."""


@dataclass(frozen=True)
class Entry:
    """One name of a recording, or of a file, line or folder that should have named recordings and could not."""

    uri: str
    hint: Hint | None = None
    stat: Stat | None = None
    """Size and time of change, if a listing or an archive told them."""
    hashed: dict[str, Any] | None = None
    """What an earlier ingest found out about the same bytes, so that they are not hashed again."""
    error: Exception | None = None
    """What is wrong, if that is known already: the entry becomes a failed row."""


@dataclass
class Notes:
    """What is told about the inputs besides their entries."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Files and other things that were left out, by suffix or reason."""
    problems: list[InputError] = field(default_factory=list)
    """Inputs that could not be read as a whole; the others were."""
    watched: set[str] = field(default_factory=set)
    """Lists, manifests and archives that a caller wants to find in `finished`."""
    finished: set[str] = field(default_factory=set)
    """Those of `watched` that were read to their end, so that everything they name was met."""

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count something that is left out; beyond `MAX_REASONS` reasons the rest is one."""
        known = reason in self.left_out or len(self.left_out) < MAX_REASONS
        self.left_out[reason if known else "others"] += count

    def finish(self, uri: str) -> None:
        """Note that a list, manifest or archive was read to its end."""
        if uri in self.watched:
            self.finished.add(uri)


def failed_entry(uri: str, error: Exception, hint: Hint | None = None) -> Entry:
    """The entry of a name that cannot be read. Raises `error` again if it is the run's own and not the name's."""
    if kind_of(error) is Kind.RUN:
        raise error
    return Entry(uri, hint, error=error)


def make_hint(said: object, limits: IngestConfig, notes: Notes) -> Hint | None:
    """A hint from any JSON value; None unless it is an object whose JSON text is within the limits."""
    if not isinstance(said, dict) or not said:
        return None
    try:
        text = _to_json(said)
        if "://" in text:
            text = _to_json(_without_secrets(said))
    except RecursionError:
        return None
    if len(text) > int(limits.max_hint_mb * 1e6):
        return None
    return Hint(text, _languages(said), _labels(said, limits.labels, notes))


def _to_json(said: object) -> str:
    text = json.dumps(said, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which only an escape can hold
        return json.dumps(said, sort_keys=True)
    return text


def _without_secrets(said: Any) -> Any:
    if isinstance(said, str):
        return redact_credentials(said)
    if isinstance(said, dict):
        return {redact_credentials(key): _without_secrets(value) for key, value in said.items()}
    return [_without_secrets(value) for value in said] if isinstance(said, list) else said


def _languages(said: dict[str, Any]) -> list[str]:
    """NeMo's `lang` and the languages of Lhotse's supervisions; anything else in their places says nothing."""
    named = [said.get("lang"), *(one.get("language") for one in _supervisions(said))]
    texts = {name for name in named if isinstance(name, str) and 0 < len(name) <= MAX_LANGUAGE_LETTERS}
    return sorted(name for name in texts if name.isprintable())


def _supervisions(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Lhotse's segments of a cut."""
    inside = said.get("supervisions")
    return [one for one in inside if isinstance(one, dict)] if isinstance(inside, list) else []


def _labels(said: dict[str, Any], names: Sequence[str], notes: Notes) -> list[tuple[str, str]] | None:
    """Labels by these names: keys of NeMo's line, or of what Lhotse lets users attach to a cut and what is in it.

    `manifest convert` writes labels as an object `labels` of either, which is read as well.
    """
    parts = [said, said.get("recording"), *_supervisions(said)]
    places = [said, *(part.get("custom") for part in parts if isinstance(part, dict))]
    places += [place.get("labels") for place in places if isinstance(place, dict)]
    found: dict[str, str] = {}
    for name in names:
        values = {_as_text(place[name]) for place in places if isinstance(place, dict) and name in place}
        values -= {""}
        if len(values) > 1:
            notes.leave_out("labels that a line gives twice")
        for value in values if len(values) == 1 else ():
            if is_value(value):
                found[name] = value
            else:
                notes.leave_out("labels that are no short plain text")
    return as_column(found)


def _as_text(value: object) -> str:
    """A value of JSON as that of a label: text as it is, numbers and truth as JSON writes them, null as none."""
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)

"""What ingest learns from outside before it reads any sound: names, what manifests say of them, and what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manifests.storage import Stat
from pipelines.audio.files import secretless
from pipelines.errors import SpeechmillError
from pipelines.failures import Kind, kind_of

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


@dataclass(frozen=True)
class Entry:
    """One name of a recording, or of a file, line or folder that should have named recordings and could not."""

    uri: str
    hint: Hint | None = None
    stat: Stat | None = None
    """Size and time of change, if a listing or an archive told them."""
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


def make_hint(said: object, max_bytes: int) -> Hint | None:
    """A hint from any JSON value; None unless it is an object whose JSON text has at most `max_bytes` characters."""
    if not isinstance(said, dict) or not said:
        return None
    try:
        text = _to_json(said)
        if "://" in text:
            text = _to_json(_without_secrets(said))
    except RecursionError:
        return None
    return Hint(text, _languages(said)) if len(text) <= max_bytes else None


def _to_json(said: object) -> str:
    text = json.dumps(said, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which only an escape can hold
        return json.dumps(said, sort_keys=True)
    return text


def _without_secrets(said: Any) -> Any:
    if isinstance(said, str):
        return secretless(said)
    if isinstance(said, dict):
        return {secretless(key): _without_secrets(value) for key, value in said.items()}
    return [_without_secrets(value) for value in said] if isinstance(said, list) else said


def _languages(said: dict[str, Any]) -> list[str]:
    """NeMo's `lang` and the languages of Lhotse's supervisions; anything else in their places says nothing."""
    supervisions = said.get("supervisions")
    inside = supervisions if isinstance(supervisions, list) else []
    named = [said.get("lang"), *(one.get("language") for one in inside if isinstance(one, dict))]
    texts = {name for name in named if isinstance(name, str) and 0 < len(name) <= MAX_LANGUAGE_LETTERS}
    return sorted(name for name in texts if name.isprintable())

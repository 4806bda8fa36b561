"""What a process asks of its children, and what their failures mean here."""

from __future__ import annotations

import builtins
import importlib
import json
import os
from typing import Any

from manifests.storage import StorageConfig, StorageError
from pipelines.audio.children import DiedError
from pipelines.audio.config import DecodeConfig
from pipelines.audio.files import scheme
from runtime.errors import DecodeLimitError, DecoderDiedError, OutOfMemoryError, SpeechmillError


def request(what: str, path: str, config: StorageConfig, decode: DecodeConfig) -> dict[str, Any]:
    """A request to 'decode' or to 'probe' a file."""
    remote = bool(scheme(path))
    return {
        "what": what,
        "path": path,
        "config": _text(config),
        "decode": _text(decode),
        "folder": None if remote or os.path.isabs(path) else os.getcwd(),
        "environment": dict(os.environ) if remote else None,  # it holds what credentials are found by
    }


def overrun(path: str, what: str, cpu_s: float, setting: str) -> DecodeLimitError:
    """The error of a file with which `what` took more CPU time than `setting` of the table [decode] allows."""
    remedy = f"leave it out or convert it with ffmpeg, or raise decode.{setting} in the recipe"
    return DecodeLimitError(f"{path!r}: {what} took more than {cpu_s:g} s of CPU time", remedy)


def decoder_died_error(path: str, first: DiedError, death: DiedError) -> Exception:
    """The error of a file at which a second child has died; the machine's, where neither ever came to work."""
    if not first.started and not death.started:
        return OutOfMemoryError(f"no process that decodes can be started: {death}")
    return DecoderDiedError(f"{path!r}: the process that decodes died at it twice: {death}")


_texts: dict[int, tuple[StorageConfig | DecodeConfig, str]] = {}


def _text(config: StorageConfig | DecodeConfig) -> str:
    """Settings as JSON, made once: hashing all of them for a cache would take as long as writing them."""
    known, text = _texts.get(id(config), (None, ""))
    if known is not config:
        if len(_texts) > 8:
            _texts.clear()
        text = json.dumps(vars(config))
        _texts[id(config)] = config, text
    return text


def rebuilt(told: dict[str, Any]) -> Exception:
    """An error of a child: of its own class where that is ours or Python's, else of the nearest base that is."""
    for module, name in told["kinds"]:
        if module.partition(".")[0] in ("pipelines", "manifests", "runtime"):
            kind = getattr(importlib.import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, SpeechmillError | StorageError | OutOfMemoryError):
                error: Exception = kind(told["message"], told["remedy"])
                return error
        elif module == "builtins" and name not in ("Exception", "BaseException"):
            kind = getattr(builtins, name)
            given = (told["errno"], told["strerror"], told["filename"]) if "errno" in told else (told["message"],)
            try:
                error = kind(*given)
            except TypeError:  # UnicodeDecodeError, say, is made of other things than a message
                continue
            if "trace" in told:
                error.add_note(told["trace"])
            return error
    return RuntimeError(f"{told['kinds'][0][1]}: {told['message']}")

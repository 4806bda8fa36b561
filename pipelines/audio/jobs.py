"""The requests that a process sends to its decoding children, and the errors that it makes of their failures."""

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
    """Return the request to 'decode' or to 'probe' a file."""
    remote = bool(scheme(path))
    return {
        "what": what,
        "path": path,
        "config": _text(config),
        "decode": _text(decode),
        "folder": None if remote or os.path.isabs(path) else os.getcwd(),
        "environment": dict(os.environ) if remote else None,  # credentials are found by its variables
    }


def overrun_error(path: str, what: str, cpu_s: float, setting: str) -> DecodeLimitError:
    """Return the error of a file for which `what` took more CPU time than `decode.<setting>` allows."""
    remedy = f"leave it out or convert it with ffmpeg, or raise decode.{setting} in the recipe"
    return DecodeLimitError(f"{path!r}: {what} took more than {cpu_s:g} s of CPU time", remedy)


def decoder_died_error(path: str, first: DiedError, death: DiedError) -> Exception:
    """Return the error of a file during which two children died. If neither ever started, the machine is at fault."""
    if not first.started and not death.started:
        return OutOfMemoryError(f"no process that decodes can be started: {death}")
    return DecoderDiedError(f"{path!r}: the process that decodes died at it twice: {death}")


_texts: dict[int, tuple[StorageConfig | DecodeConfig, str]] = {}


def _text(config: StorageConfig | DecodeConfig) -> str:
    """Return settings as JSON, cached by identity, because hashing all of them would take as long as writing them."""
    known, text = _texts.get(id(config), (None, ""))
    if known is not config:
        if len(_texts) > 8:
            _texts.clear()
        text = json.dumps(vars(config))
        _texts[id(config)] = config, text
    return text


def error_from_json(stored: dict[str, Any]) -> Exception:
    """Return the error of a child that `child.error_to_json` wrote.

    It has the class of the original error if that is ours or Python's, or else the nearest such base class.
    """
    for module, name in stored["kinds"]:
        if module.partition(".")[0] in ("pipelines", "manifests", "runtime"):
            kind = getattr(importlib.import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, SpeechmillError | StorageError | OutOfMemoryError):
                error: Exception = kind(stored["message"], stored["remedy"])
                return error
        elif module == "builtins" and name not in ("Exception", "BaseException"):
            kind = getattr(builtins, name)
            names = ("errno", "strerror", "filename") if "errno" in stored else ("message",)
            try:
                error = kind(*(stored[name] for name in names))
            except TypeError:  # for example UnicodeDecodeError, which takes other arguments than a message
                continue
            if "trace" in stored:
                error.add_note(stored["trace"])
            return error
    return RuntimeError(f"{stored['kinds'][0][1]}: {stored['message']}")

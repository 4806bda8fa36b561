"""What must hold of every input, however hostile.

- Nothing is lost in ingest: each name becomes a row, ok or failed with its reason and remedy, and all are counted. The
  good recording beside it is ingested. What cannot be read to its end, or names nothing, may be told by
  an InputError besides, after that.
- Rows fit their schemas, as text too. What is ok claims a rate and channels, and its id is the hash of its bytes.
- Decoding ends in finite samples, at least one, or in an UnreadableAudioError; the same each time.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import sounds
from fuzz.scenes import Plan, Scene, laid_out
from manifests import schemas
from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.audio.config import DecodeConfig
from pipelines.audio.sound import decode_sound
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import InputError
from runtime.errors import SpeechmillError, UnreadableAudioError
from runtime.failures import Kind, kind_of

OURS = ("pipelines", "manifests", "encoders", "runtime")
DECODE = DecodeConfig(max_hours=1.0, stall_s=5.0, probe_s=3.0, memory_gb=0.6)
CONFIG = StorageConfig(http_private=True, http_max_s=1.0, http_max_gb=0.02, retry_s=0.1, timeout_s=0.3)


class BrokenRuleError(Exception):
    """A rule that does not hold."""


@dataclass
class Verdict:
    """What came of one input. `problem` names the rule that broke and where, without what differs between inputs."""

    problem: str | None = None
    detail: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    ok: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    """Types of the errors that became rows."""
    told: str = ""
    """What an InputError said of the inputs as a whole."""


def judge(target: str, plan: Plan, folder: Path) -> Verdict:
    """Lay the plan out, ingest it beside a good recording, decode what there is to decode, and compare."""
    verdict = Verdict()
    good = folder / "good.wav"
    good.write_bytes(sounds.sound("wav_u8"))
    try:
        with laid_out(target, plan, folder) as scene:
            started = time.monotonic()
            lake = Lake.at(str(folder / "lake"), CONFIG)
            try:
                counted = ingest(lake, [*scene.inputs, str(good)], IngestConfig(), decode=DECODE).names
            except InputError as error:  # told at the end, when everything else is in the lake
                if not error.remedy:
                    raise
                verdict.told = str(error)
                counted = None
            _check_rows(lake, scene, str(good), counted, verdict)
            for path in scene.sounds:
                _check_decoding(path, verdict)
            verdict.seconds = time.monotonic() - started
    except Exception as error:  # whatever it is, it should have become a row
        verdict.problem = _place(error)
        verdict.detail = traceback.format_exc()
    return verdict


def _place(error: Exception) -> str:
    """The error and the innermost line of ours that it passed: what tells one fault from another."""
    if isinstance(error, BrokenRuleError):
        return str(error.args[0])
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(f"/{room}/" in frame.filename for room in OURS)]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name} in {last.name} ({kind_of(error).value})"


def _check_rows(lake: Lake, scene: Scene, good: str, counted: int | None, verdict: Verdict) -> None:
    rows: list[dict[str, Any]] = []
    for _, table in lake.recordings():
        table.validate(full=True)
        if not table.schema.equals(schemas.RECORDINGS):
            raise BrokenRuleError("rows of another schema", str(table.schema))
        rows += table.to_pylist()
    for row in rows:
        _check_row(row)
        verdict.ok += row["status"] == "ok"
        verdict.failed += row["status"] == "failed"
        verdict.errors += [row["error_type"]] if row["status"] == "failed" else []
    names = [name for row in rows for name in row["uris"]]
    if counted not in (None, len(names)) or len(names) != len(set(names)):
        raise BrokenRuleError(
            "the counted names are not those in the lake", f"{counted} counted, {len(names)} in the lake: {names}"
        )
    if not any(good in row["uris"] and row["status"] == "ok" for row in rows):
        raise BrokenRuleError("the good recording is not ingested", str(rows))
    found = len(names) - 1
    if found + bool(verdict.told) < scene.at_least or (scene.exact and found != scene.at_least):
        raise BrokenRuleError("names are lost or made up", f"{scene.at_least} given, {found} met: {names}")


def _check_row(row: dict[str, Any]) -> None:
    for text in [*row["uris"], *(value for value in row.values() if isinstance(value, str))]:
        text.encode()
    if row["hints"] is not None and not isinstance(json.loads(row["hints"]), list):
        raise BrokenRuleError("hints are no list", row["hints"])
    if row["status"] == "failed":
        if not (row["error_type"] and row["error"] and row["remedy"]):
            raise BrokenRuleError("a failed row without type, reason or remedy", str(row))
        return
    if row["sha256"] is None or row["recording_id"] != row["sha256"][:20]:
        raise BrokenRuleError("an id that is not the hash", str(row))
    length_s = row["claimed_duration_s"]
    if not (row["sample_rate"] > 0 < row["channels"]) or not (length_s is None or 0 <= length_s < math.inf):
        raise BrokenRuleError("an impossible claim passes", str(row))


def _check_decoding(path: Path, verdict: Verdict) -> None:
    first, second = _decoded(path), _decoded(path)
    if first != second:
        raise BrokenRuleError("decoding twice gives two results", f"{first}\n{second}")
    if first[0] != "ok":
        verdict.errors.append(f"decode: {first[0]}")


def _decoded(path: Path) -> tuple[str, str]:
    """('ok', hash of the samples), or the type and text of the error; raises what is no fault of a recording."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        sound = decode_sound(str(path), sha256[:20], len(data), CONFIG, sha256, DECODE)
    except SpeechmillError as error:
        if not isinstance(error, UnreadableAudioError) or kind_of(error) is not Kind.RECORDING or not error.remedy:
            raise
        return type(error).__name__, str(error)
    with sound:
        samples = sound.read()
        signal = dict(sound.signal)
    if sound.num_samples <= 0 or samples.shape != (sound.tracks, sound.num_samples):
        raise BrokenRuleError("decoded sound of another length", f"{sound.num_samples} samples, {samples.shape} read")
    if not np.isfinite(samples).all():
        raise BrokenRuleError("samples are not finite", str(signal))
    if any(isinstance(value, float) and not math.isfinite(value) for value in signal.values()):
        raise BrokenRuleError("measures are not finite", str(signal))
    made = schemas.table([{"recording_id": "x", "status": "ok"} | signal], schemas.SIGNAL)
    made.validate(full=True)
    return "ok", signal["pcm_sha256"]

"""A simulation from its inputs to its tables. Several workers make the missing conversations, so it can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from manifests.fingerprint import fingerprint, pretty
from manifests.version import version
from manifests.whole import whole_text
from pipelines.simulate.bank import Bank
from pipelines.simulate.channels import check_codecs
from pipelines.simulate.scene import conversation
from pipelines.simulate.settings import Settings
from pipelines.simulate.synthetic import check
from pipelines.simulate.voices import LeftOut, Source, is_lake, make_bank, rows_of, side_of, voice_of
from pipelines.simulate.write import truth_file, write_conversation, write_tables
from pipelines.units.engines import Engine, Group, Worker
from runtime.errors import SpeechmillError

ABOUT = "simulation.json"
BYTES_A_SAMPLE = 2


def simulate(
    out: Path, source: Source, settings: Settings, count: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Make those of the conversations 0 to `count` - 1 that do not exist yet, and the tables of all of them.

    Returns the JSON document that docs/simulate.md describes. Raises SpeechmillError if `out` has conversations with
    other settings or voices, if there are too few voices, or if a codec is missing on this machine.
    """
    check_codecs(settings.codecs)
    check(source.tts)
    left_out = LeftOut()
    bank = make_bank(source, settings, left_out)
    _begin(out, settings, bank)
    missing = [number for number in range(count) if not truth_file(out, name_of(settings, number)).exists()]
    engine = Engine("local", (source.workers, source.workers))
    for done, number in enumerate(engine.run(missing, [Group("simulate", partial(_maker, out, settings, bank))]), 1):
        report(f"{name_of(settings, number)}: {done:,} of {len(missing):,} made")
    names = [name_of(settings, number) for number in range(count)]
    write_tables(out, names)
    truths = (json.loads(truth_file(out, name).read_text()) for name in names)
    seconds = [(truth["num_samples"] / truth["sample_rate"], truth["statistics"]) for truth in truths]
    return {
        "out": str(out),
        "side": settings.side,
        "voices": len(bank.voices),
        "voice_speech_hours": sum(one.length for voice in bank.voices for one in voice.utterances) / bank.rate / 3600,
        "left_out": left_out.as_list(),
        "conversations": count,
        "made_now": len(missing),
        "hours": sum(duration_s for duration_s, _ in seconds) / 3600,
        "utterances": sum(measured["utterances"] for _, measured in seconds),
        "utterances_repeated": sum(measured["utterances_repeated"] for _, measured in seconds),
        "words": sum(measured["words"] for _, measured in seconds),
        "backchannels_left_out": sum(measured["backchannels_left_out"] for _, measured in seconds),
    }


def name_of(settings: Settings, number: int) -> str:
    """The name of a conversation."""
    return f"{settings.side}-{settings.seed}-{number:06d}"


def estimate(source: Source, settings: Settings, count: int) -> dict[str, Any]:
    """Estimate a simulation from the names of recordings, without decoding or writing anything.

    Speakers that manifests name are not read, except from lakes.
    """
    from pipelines import sources

    check_codecs(settings.codecs)
    check(source.tts)
    lakes = [name for name in source.voices if is_lake(name)]
    rows = [row for name in lakes for row in rows_of(name)]
    if sounds := [name for name in source.voices if name not in lakes]:
        rows += [{"uris": [entry.uri]} for entry in sources.entries(sounds) if entry.error is None]
    voices = {one.name for one in source.tts}
    for row in rows:
        with contextlib.suppress(ValueError):  # a recording of several speakers would be left out
            voices.add(voice_of(row, source.names, source.by))
    hours = count * sum(settings.minutes) / 2 / 60
    return {
        "recordings": len(rows),
        "voices": {side: sum(side_of(voice, settings) == side for voice in voices) for side in ("tuning", "test")},
        "conversations": count,
        "hours": hours,
        "gigabytes_at_most": hours * 3600 * settings.rate * settings.channels * BYTES_A_SAMPLE / 1e9,
    }


def _begin(out: Path, settings: Settings, bank: Bank) -> None:
    """Record what the conversations in a folder are made from, or compare it with the existing record."""
    about = {
        "settings": dataclasses.asdict(settings),
        "voices": {voice.name: sorted({one.recording_id for one in voice.utterances}) for voice in bank.voices},
        "noises": [noise.recording_id for noise in bank.noises],
        "utterances": fingerprint([dataclasses.asdict(voice) for voice in bank.voices]),
        "version": version(),
    }
    path = out / ABOUT
    if not path.exists():
        with whole_text(path) as file:
            file.write(pretty(about))
        return
    stored, requested = json.loads(path.read_text()), json.loads(pretty(about))
    changed = sorted(name for name in requested if stored.get(name) != requested[name])
    if "settings" in changed:
        new, old = requested["settings"], stored.get("settings", {})
        changed += [f"settings.{name}" for name in new if new[name] != old.get(name)]
        changed.remove("settings")
    if changed:
        what = f"{out} has conversations that were made with other inputs: {', '.join(changed)}"
        raise SpeechmillError(what, "repeat the original command, or choose another folder")


def _maker(out: Path, settings: Settings, bank: Bank) -> Worker:
    """A worker that makes the conversation with a given number."""

    def make(number: int) -> int:
        scene, schedule = conversation(settings, bank, number)
        write_conversation(out, scene, schedule, bank)
        return number

    return make

"""A simulation from its inputs to its tables: what is made, by how many workers, and how it goes on after a kill."""

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


def simulate(out: Path, source: Source, settings: Settings, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Make the conversations 0 to `count` - 1 that are not there yet, and the tables of all of them.

    Returns what docs/simulate.md says of the JSON. Raises SpeechmillError where `out` holds conversations of other
    settings or voices, where there are too few voices, and where this machine lacks a codec.
    """
    check_codecs(settings.codecs)
    check(source.tts)
    left_out = LeftOut()
    bank = make_bank(source, settings, left_out)
    _begin(out, settings, bank)
    missing = [number for number in range(count) if not truth_file(out, name_of(settings, number)).exists()]
    engine = Engine("local", (source.workers, source.workers))
    for done, number in enumerate(engine.run(missing, [Group("simulate", partial(_maker, out, settings, bank))]), 1):
        tell(f"{name_of(settings, number)}: {done:,} of {len(missing):,} made")
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
        "utterances_said_again": sum(measured["utterances_said_again"] for _, measured in seconds),
        "words": sum(measured["words"] for _, measured in seconds),
        "backchannels_left_out": sum(measured["backchannels_left_out"] for _, measured in seconds),
    }


def name_of(settings: Settings, number: int) -> str:
    """The name of a conversation."""
    return f"{settings.side}-{settings.seed}-{number:06d}"


def foreseen(source: Source, settings: Settings, count: int) -> dict[str, Any]:
    """What a simulation would be made of, by the names of recordings alone: nothing is decoded and nothing is written.

    What manifests say of speakers is not read, but for lakes.
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
        with contextlib.suppress(ValueError):  # of several speakers: it would be left out
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
    """Write down what the conversations in a folder are made of, or compare that with what is there."""
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
    there, wanted = json.loads(path.read_text()), json.loads(pretty(about))
    changed = sorted(name for name in wanted if there.get(name) != wanted[name])
    if "settings" in changed:
        given, had = wanted["settings"], there.get("settings", {})
        changed += [f"settings.{name}" for name in given if given[name] != had.get(name)]
        changed.remove("settings")
    if changed:
        what = f"{out} holds conversations that were made otherwise: {', '.join(changed)}"
        raise SpeechmillError(what, "repeat the command that began it, or name another folder")


def _maker(out: Path, settings: Settings, bank: Bank) -> Worker:
    """A worker that makes the conversation of a number."""

    def make(number: int) -> int:
        scene, said = conversation(settings, bank, number)
        write_conversation(out, scene, said, bank)
        return number

    return make

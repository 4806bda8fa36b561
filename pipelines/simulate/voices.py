"""Voices from recordings of single speakers, and synthetic voices. They are measured, named and split into two sides.

Recordings are ingested into a lake in the folder of the bank, so that they are measured only once.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from manifests.lake import Lake
from manifests.storage import default_config
from pipelines.simulate.bank import LEAST_RMS, Bank, Noise, StoredSound, Voice, store_sound
from pipelines.simulate.settings import Settings
from pipelines.simulate.speech.voices import Speaker
from pipelines.simulate.synthetic import synthetic_voices
from pipelines.simulate.utterances import Span, utterances
from pipelines.units.engines import Engine, Group, Worker
from runtime.errors import SpeechmillError

LEAST_SPEECH_S = 3.0
"""A voice with less speech is left out, because it would repeat itself all the time."""
STRETCH_S = 15.0
"""Voice activity detection splits longer stretches at a pause. This bounds utterances, which are held in memory."""
BY = ("file", "folder")
MAX_NAMES_BYTES = 64 << 20
EXAMPLES = 5
Unit = tuple[dict[str, Any], Sequence[Span] | None]
"""A recording to decode, and the stretches over which its level is measured."""


@dataclass
class LeftOut:
    """Recordings and voices that are not used, counted by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one and remember the first few names."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            names.append(name)

    def as_list(self) -> list[dict[str, Any]]:
        """The counts as JSON."""
        return [{"reason": why, "count": count, "examples": self.examples[why]} for why, count in self.counts.items()]


@dataclass(frozen=True)
class Source:
    """What voices and noises are made from."""

    voices: tuple[str, ...]
    """Files, folders, lists, manifests or tars as `speechmill ingest` takes them, or lakes."""
    noises: tuple[str, ...]
    names: Mapping[str, str]
    """Names of voices by the end of the name of a recording."""
    by: str
    """'file' or 'folder': what a voice is named after if nothing else names it."""
    workers: int
    quiet: bool
    bank: Path
    """The folder for measured and decoded recordings."""
    tts: tuple[Speaker, ...] = ()
    """Synthetic voices."""
    texts: tuple[str, ...] = ()
    """The texts of synthetic voices."""


def read_names(path: str) -> dict[str, str]:
    """Read a table of two columns separated by a tab: the end of the name of a recording, and the name of its voice."""
    file = Path(path)
    if not file.is_file() or file.stat().st_size > MAX_NAMES_BYTES:
        what = f"{path}: not a file of at most {MAX_NAMES_BYTES >> 20} MiB"
        raise SpeechmillError(what, "give a text file with a recording, a tab and a voice on each line")
    found: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if row and (len(row) != 2 or not all(cell.strip() for cell in row)):
                    what = f"{path}:{number}: {len(row)} columns, not a recording and a voice"
                    raise SpeechmillError(what, "write the end of the recording's name, a tab, and the voice")
                if row:
                    found[row[0].strip()] = row[1].strip()
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpeechmillError(f"{path}: {error}", "write it as UTF-8 text with a tab on each line") from error
    return found


def voice_of(row: Mapping[str, Any], names: Mapping[str, str], by: str) -> str:
    """Return the name of the voice of a recording.

    It comes from the table of names, else the label `speaker`, else the only speaker in its manifests, else its file or
    folder. White space becomes `_`, because names of speakers in RTTM have none. Raises ValueError if manifests name
    several speakers, or if the name is empty.
    """
    voice = _stated_voice(row, names)
    if voice is None:
        folder, file = os.path.split(row["uris"][0])
        voice = os.path.splitext(file)[0] if by == "file" else os.path.basename(folder) or file
    if name := "_".join(voice.split()):
        return name
    raise ValueError("its voice has an empty name")


def _stated_voice(row: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """The name of the voice from anything except the name of the file, or None. Raises ValueError as `voice_of`."""
    parts = row["uris"][0].split("/")
    tails = ("/".join(parts[-count:]) for count in range(len(parts), 0, -1))
    if named := next((names[tail] for tail in tails if tail in names), None) or _label(row):
        return named
    speakers = sorted(set(_speakers(json.loads(row.get("hints") or "[]"))))
    if len(speakers) > 1:
        raise ValueError("its manifests name several speakers")
    return speakers[0] if speakers else None


def _label(row: Mapping[str, Any]) -> str | None:
    return dict(row.get("labels") or {}).get("speaker")


def _speakers(hints: Any) -> Iterator[str]:
    """Speakers that entries of manifests name: NeMo's `speaker`, or those of Lhotse's supervisions."""
    for hint in hints if isinstance(hints, list) else []:
        inside = hint.get("supervisions") if isinstance(hint, dict) else None
        for one in [hint, *(inside if isinstance(inside, list) else [])]:
            name = one.get("speaker") if isinstance(one, dict) else None
            if isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip():
                yield str(name)


def side_of(voice: str, settings: Settings) -> str:
    """'tuning' or 'test', by a hash of the name and the seed of the split, so that other voices do not change it."""
    digest = hashlib.sha256(f"{settings.split_seed}:{voice}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < settings.test_share * 2**64 else "tuning"


def make_bank(source: Source, settings: Settings, left_out: LeftOut) -> Bank:
    """Measure and decode all recordings, and return the bank with the voices of one side.

    Raises SpeechmillError if an input cannot be read, or if there are too few voices for the settings.
    """
    folder = source.bank
    rows = _measured(source.voices, folder / "voices", {"vad": {"max_speech_duration_s": STRETCH_S}}, source)
    named = _recordings_by_voice(rows, source, settings, left_out)
    noise = _measured(source.noises, folder / "noise", {}, source) if "files" in settings.beds else []
    noise = _usable(noise, {row["recording_id"] for row in rows}, left_out)
    units: list[Unit] = [(row, _stretches(row, settings.rate)) for recordings in named.values() for row in recordings]
    units += [(row, None) for row in noise]
    decoding = Group("decode", partial(_decoder, folder / "sound", settings.rate))
    stored = dict(Engine("local", (source.workers, source.workers)).run(units, [decoding]))
    for recording_id in sorted(name for name, one in stored.items() if one.rms < LEAST_RMS):
        left_out.add("silent", recording_id)
        del stored[recording_id]
    noises = [Noise(name, stored[name].num_samples) for row in noise if (name := row["recording_id"]) in stored]
    found = {name: _voice(name, recordings, stored, settings.rate) for name, recordings in named.items()}
    speakers = [one for one in source.tts if side_of(one.name, settings) == settings.side]
    if twice := sorted(found.keys() & {one.name for one in speakers}):
        what = f"{twice[0]} is the name of a voice of --voices and of one of --tts"
        raise SpeechmillError(what, "give the voice of the recordings another name with --voice-names")
    sound = folder / "sound"
    synthetic, rms = synthetic_voices(
        speakers, source.texts, settings.tts_utterances, sound, settings.rate, source.workers
    )
    found |= {voice.name: voice for voice in synthetic}
    voices = [voice for _, voice in sorted(found.items()) if _long_enough(voice, settings.rate, left_out)]
    rms |= {name: one.rms for name, one in stored.items()}
    bank = Bank(sound, settings.rate, tuple(voices), tuple(noises), rms)
    _check_enough(bank, settings, left_out)
    return bank


def _usable(noise: Iterable[dict[str, Any]], voices: Set[str], left_out: LeftOut) -> list[dict[str, Any]]:
    """Recordings of noise that decode and are not among the recordings of voices."""
    usable = []
    for row in noise:
        if row["recording_id"] in voices:
            left_out.add("a noise that is also a voice", row["uris"][0])
        elif _decoded(row, left_out):
            usable.append(row)
    return usable


def _decoder(folder: Path, rate: int) -> Worker:
    """A worker that decodes a recording into the bank."""

    def decode(unit: Unit) -> tuple[str, StoredSound]:
        row, stretches = unit
        return row["recording_id"], store_sound(row, stretches, folder, rate, default_config())

    return decode


def _measured(inputs: Sequence[str], root: Path, stages: dict[str, Any], source: Source) -> list[dict[str, Any]]:
    """Rows of the view `annotations` for all recordings of the inputs, in order of ids, each id once."""
    from pipelines import sources
    from pipelines.annotate_sound import ingest_and_annotate
    from pipelines.recipes.recipe import parse

    lakes = [name for name in inputs if is_lake(name)]
    sounds = [name for name in inputs if name not in lakes]
    rows = {row["recording_id"]: row | {"from_lake": True} for name in lakes for row in rows_of(name)}
    if sounds:
        recipe = parse({"name": root.name, "annotate": stages})
        ingest_and_annotate(sounds, str(root), recipe, source.workers, source.quiet, "speechmill simulate")
        requested = {entry.uri for entry in sources.entries(sounds, recipe.storage, recipe.ingest)}
        for row in rows_of(str(root)):
            # The lake may have recordings of an earlier simulation in the same folder.
            if uris := [uri for uri in row["uris"] if uri in requested]:
                rows.setdefault(row["recording_id"], row | {"uris": uris, "from_lake": False})
    return [rows[name] for name in sorted(rows)]


def is_lake(name: str) -> bool:
    """Whether an input is a lake and not a file or folder of sound."""
    from manifests.existing import holds_lake

    return ("://" in name or Path(name).is_dir()) and not name.startswith("http") and holds_lake(Lake.at(name))


def rows_of(lake: str) -> list[dict[str, Any]]:
    """The rows of the view `annotations`, with the type of the error of those that failed."""
    from manifests.commands.targets import resolve

    target = resolve(lake)
    views = ["recordings", *(stage for stage in ("signal", "vad") if stage in target.choice.stages)]
    errors = ", ".join(f"{view}.error_type" for view in views)
    joins = " ".join(f"LEFT JOIN {view} USING (recording_id)" for view in views)
    with target.connect() as connection:
        found = connection.execute(
            f"SELECT annotations.*, coalesce({errors}) AS error_type FROM annotations {joins} ORDER BY recording_id"
        )
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


def _decoded(row: Mapping[str, Any], left_out: LeftOut) -> bool:
    """Whether a recording was decoded when it was measured. If not, it is added to `left_out`."""
    if row.get("channel_relation") is None:
        left_out.add(f"not readable ({row['error_type'] or 'not annotated'})", row["uris"][0])
        return False
    return True


def _recordings_by_voice(
    rows: Iterable[dict[str, Any]], source: Source, settings: Settings, left_out: LeftOut
) -> dict[str, list[dict[str, Any]]]:
    """Recordings with speech, by the name of the voice, for the voices of this side."""
    named: dict[str, list[dict[str, Any]]] = {}
    folders: dict[str, str] = {}
    for row in rows:
        if not _decoded(row, left_out):
            continue
        if why := _unsuitable(row):
            left_out.add(why, row["uris"][0])
            continue
        try:
            name = voice_of(row, source.names, source.by)
        except ValueError as error:
            left_out.add(str(error), row["uris"][0])
            continue
        folder = os.path.dirname(row["uris"][0])
        named_by_file = source.by == "file" and _stated_voice(row, source.names) is None
        if named_by_file and folders.setdefault(name, folder) != folder:
            # With a folder for each speaker and numbered files, a file name would join several speakers in one voice.
            what = f"{folder} and {folders[name]} both have a recording named {name}"
            raise SpeechmillError(what, "name the voices by a table with --voice-names, or add --voice-by folder")
        if side_of(name, settings) == settings.side:
            named.setdefault(name, []).append(row)
        else:
            left_out.add("its voice is on the other side", row["uris"][0])
    return named


def _unsuitable(row: Mapping[str, Any]) -> str | None:
    """The reason why a decoded recording is not the speech of a single speaker, as far as can be known; else None."""
    if row.get("segments") is None:
        return f"no voice activity ({row['error_type'] or 'annotate the lake with the stage vad'})"
    if row["tracks"] != 1:
        return "it has a speaker on each of its channels"
    if row["from_lake"] and row.get("num_speakers") != 1 and _label(row) is None:
        return (
            "a recording of a lake without the label `speaker`, in which diarization did not find exactly one speaker"
        )
    return None if row["segments"] else "no speech"


def _stretches(row: Mapping[str, Any], rate: int) -> list[Span]:
    """Stretches of speech in samples at `rate`, as voice activity detection found them in the dry recording."""
    return [(round(one["start_s"] * rate), round(one["end_s"] * rate)) for one in row["segments"]]


def _voice(name: str, rows: Sequence[Mapping[str, Any]], stored: Mapping[str, StoredSound], rate: int) -> Voice:
    """Make a voice from its recordings."""
    found = []
    for row in rows:
        if (recording_id := row["recording_id"]) in stored:
            num_samples = stored[recording_id].num_samples
            inside = [(start, min(stop, num_samples)) for start, stop in _stretches(row, rate) if start < num_samples]
            found += utterances(recording_id, inside, num_samples, rate)
    return Voice(name, tuple(found))


def _long_enough(voice: Voice, rate: int, left_out: LeftOut) -> bool:
    if sum(one.length for one in voice.utterances) < LEAST_SPEECH_S * rate:
        left_out.add(f"voices with less than {LEAST_SPEECH_S:g} s of speech", voice.name)
        return False
    return True


def _check_enough(bank: Bank, settings: Settings, left_out: LeftOut) -> None:
    wanted = settings.speakers[1]
    if len(bank.voices) < wanted:
        reasons = "; ".join(f"{count} {why}" for why, count in left_out.counts.items())
        what = f"the side {settings.side} has {len(bank.voices)} voices, but conversations may have {wanted} speakers"
        raise SpeechmillError(
            f"{what}{f' (left out: {reasons})' if reasons else ''}",
            "give more recordings or synthetic voices, set fewer --speakers, or change --test-share",
        )
    if "babble" in settings.beds and len(bank.voices) == wanted:
        what = f"babble needs other voices than those of the {wanted} speakers, and there are no others"
        raise SpeechmillError(what, "give more recordings, set fewer --speakers, or choose another --bed")
    if "files" in settings.beds and not bank.noises:
        raise SpeechmillError("--bed files needs noises, and none can be read", "give --noise, or choose another --bed")

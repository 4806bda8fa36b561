"""Synthetic voices in the bank: each utterance is synthesised once, and stored with the times of its phonemes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manifests.fingerprint import canonical
from manifests.output import to_json
from manifests.whole import whole, whole_text
from pipelines.simulate.bank import Voice, sound_path
from pipelines.simulate.speech import models, reading
from pipelines.simulate.speech.texts import drawn
from pipelines.simulate.speech.voices import Speaker
from pipelines.simulate.utterances import MARGIN_S, Phone, Said, Span, Utterance, Word
from pipelines.units.engines import Engine, Group, Worker
from runtime import espeak_ng
from runtime.errors import SpeechmillError
from runtime.extras import require
from runtime.models import MODELS, find

PACKAGES = ("onnx", "onnxruntime")
EXTRA = "simulate-tts"
PAUSE_S = 0.1
"""A longer silence is a pause and not speech, as for voice activity detection in recordings."""
SILENCE_DB, LEVEL_S = -40.0, 0.01
"""Silence is this far below the loudest part of an utterance, where the level is measured over this time."""
LATE_S = 0.2
"""A phoneme that begins up to this time after a silence, by the times of the model, is taken to end the silence."""
VERSION = 1
"""Version of the synthesis, beyond the weights."""


@dataclass(frozen=True)
class Unit:
    """An utterance that is to be synthesised."""

    recording_id: str
    """A hash of everything that the sound depends on."""
    speaker: Speaker
    words: tuple[reading.Word, ...]
    rate: float
    pitch: float


def check(speakers: Sequence[Speaker]) -> None:
    """Raise SpeechmillError if a package, the weights of a voice or the program espeak-ng is missing."""
    if speakers:
        require("--tts", PACKAGES, EXTRA)
        for name in sorted({speaker.model for speaker in speakers}):
            find(name)
        espeak_ng.program()


def synthetic_voices(
    speakers: Sequence[Speaker], texts: tuple[str, ...], count: int, folder: Path, rate: int, workers: int
) -> tuple[list[Voice], dict[str, float]]:
    """Voices with `count` utterances each, and the root mean square of each utterance's voice by recording id.

    `folder` is where the bank keeps sound; what lies there is not spoken again. Raises SpeechmillError for a text that
    cannot be spoken.
    """
    planned = [_planned(speaker, texts, count) for speaker in speakers]
    missing = [unit for units in planned for unit in units if not _told(folder, unit.recording_id, rate).exists()]
    missing = list({unit.recording_id: unit for unit in missing}.values())
    speaking = Group("speak", partial(_speaking, folder, rate))
    for _ in Engine("local", (workers, workers)).run(missing, [speaking]):
        pass
    voices: list[Voice] = []
    rms: dict[str, float] = {}
    for speaker, units in zip(speakers, planned, strict=True):
        told = {unit.recording_id: json.loads(_told(folder, unit.recording_id, rate).read_text()) for unit in units}
        voices.append(Voice(speaker.name, tuple(_utterance(name, one, rate) for name, one in told.items())))
        # One level a voice, as a recording has: a backchannel stays quieter than a question.
        energy, measured = (sum(one[key] for one in told.values()) for key in ("energy", "measured"))
        rms |= dict.fromkeys(told, (energy / max(1, measured)) ** 0.5)
    return voices, rms


def _planned(speaker: Speaker, texts: tuple[str, ...], count: int) -> list[Unit]:
    """The utterances of a voice, drawn with a seed from its name, so that they do not depend on other voices."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(speaker.name.encode()).digest()[:8], "big"))
    units = []
    for words in reading.read(drawn(texts, count, rng)):
        rate, pitch = (round(float(rng.uniform(*span)), 4) for span in (speaker.rate, speaker.pitch))
        said = [VERSION, MODELS[speaker.model].sha256, speaker.voice, rate, pitch, [asdict(word) for word in words]]
        recording_id = hashlib.sha256(canonical(said).encode()).hexdigest()[:20]
        units.append(Unit(recording_id, speaker, words, rate, pitch))
    return units


def _told(folder: Path, recording_id: str, rate: int) -> Path:
    return sound_path(folder, recording_id, rate).with_suffix(".json")


def _speaking(folder: Path, rate: int) -> Worker:
    """A worker that synthesises utterances and stores them in the bank."""
    loaded = functools.cache(models.load)

    def speak(unit: Unit) -> str:
        seed = int.from_bytes(hashlib.sha256(unit.recording_id.encode()).digest()[:8], "big")
        made = loaded(unit.speaker.model).speak(
            unit.words, unit.speaker.style, unit.rate, unit.pitch, np.random.default_rng(seed)
        )
        _keep(unit, made, folder, rate)
        return unit.recording_id

    return speak


def _keep(unit: Unit, made: models.Spoken, folder: Path, rate: int) -> None:
    """Write the sound at the rate of the simulation, and then its properties."""
    import soundfile
    import soxr

    samples = soxr.resample(made.samples, made.sample_rate, rate)
    scale = rate / made.sample_rate
    spans = [(round(one.start * scale), min(len(samples), round(one.stop * scale))) for one in made.phones]
    spans = heard(spans, pauses(samples, rate), round(LATE_S * rate))
    words = []
    for number, word in enumerate(unit.words):
        mine = [span for one, span in zip(made.phones, spans, strict=True) if one.word == number]
        words.append(Word(word.text, mine[0][0], mine[-1][1]))
    phones = [Phone(one.symbol, *span) for one, span in zip(made.phones, spans, strict=True)]
    said = Said(tuple(words), tuple(phones), unit.rate, unit.pitch)
    speech = _stretches(spans, round(PAUSE_S * rate))
    energy = sum(float(np.sum(np.square(samples[start:stop], dtype=np.float64))) for start, stop in speech)
    if not energy:
        text = " ".join(word.text for word in unit.words)
        raise SpeechmillError(f"{unit.speaker.voice} makes no sound of {text!r:.80}", "take the line out of --texts")
    path = sound_path(folder, unit.recording_id, rate)
    with whole(path) as unfinished:
        soundfile.write(unfinished, samples, rate, "FLOAT", format="W64")
    told = {
        "num_samples": len(samples),
        "speech": speech,
        "energy": energy,
        "measured": sum(stop - start for start, stop in speech),
        "said": asdict(said),
    }
    with whole_text(_told(folder, unit.recording_id, rate)) as file:  # written last: it says that the sound is complete
        file.write(to_json(told))


def pauses(samples: np.ndarray, rate: int) -> list[Span]:
    """Silences of at least `PAUSE_S`, and those of any length at both ends."""
    from scipy.ndimage import uniform_filter1d

    level = uniform_filter1d(np.square(samples, dtype=np.float64), round(LEVEL_S * rate), mode="constant")
    loud = np.flatnonzero(level > level.max() * 10 ** (SILENCE_DB / 10))
    if not len(loud):
        return [(0, len(samples))]
    gaps = np.flatnonzero(np.diff(loud) > PAUSE_S * rate)
    inside = [(int(loud[gap]) + 1, int(loud[gap + 1])) for gap in gaps]
    return [(0, int(loud[0])), *inside, (int(loud[-1]) + 1, len(samples))]


def heard(phones: Sequence[Span], silences: Sequence[Span], most: int) -> list[Span]:
    """Phonemes without the silences. Models add a pause to the phoneme before it, and may be late after one.

    One that begins at most `most` samples after a silence begins where that ends.
    """
    made = []
    last = 0
    for start, stop in phones:
        for quiet, loud in silences:
            if start < loud and stop > quiet:
                if quiet - start >= stop - loud:
                    stop = max(start, quiet)
                else:
                    start = min(stop, loud)
            elif last <= loud <= start <= loud + most:
                start = loud
        made.append((start, stop))
        last = stop
    return made


def _stretches(phones: Sequence[Span], pause: int) -> list[Span]:
    """Phonemes joined to stretches of speech, where less than a pause lies between them."""
    found: list[Span] = []
    for start, stop in phones:
        if found and start - found[-1][1] < pause:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found


def _utterance(recording_id: str, told: Mapping[str, Any], rate: int) -> Utterance:
    speech = tuple((start, stop) for start, stop in told["speech"])
    margin = round(MARGIN_S * rate)
    sound = max(0, speech[0][0] - margin), min(told["num_samples"], speech[-1][1] + margin)
    known = told["said"]
    said = Said(
        tuple(Word(**word) for word in known["words"]),
        tuple(Phone(**phone) for phone in known["phones"]),
        known["rate"],
        known["pitch"],
    )
    return Utterance(recording_id, sound, speech, said)

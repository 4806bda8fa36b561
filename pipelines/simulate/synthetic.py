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
from pipelines.simulate.utterances import MARGIN_S, Phone, Span, Transcript, Utterance, Word
from pipelines.units.engines import Engine, Group, Worker
from runtime import espeak_ng
from runtime.errors import SpeechmillError
from runtime.extras import require
from runtime.models import MODELS, find

PACKAGES = ("onnx", "onnxruntime")
EXTRA = "simulate-tts"
PAUSE_S = 0.1
"""Longer silences are pauses and not speech, as for voice activity detection in recordings."""
SILENCE_DB, LEVEL_S = -40.0, 0.01
"""Silence is sound below this level relative to the loudest part of an utterance, measured over this many seconds."""
LATE_S = 0.2
"""A phoneme that begins at most this long after a silence, by the times of the model, is extended back to it."""
VERSION = 1
"""Version of the synthesis, apart from the weights."""


@dataclass(frozen=True)
class Unit:
    """An utterance to synthesise."""

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
    """Return voices with `count` utterances each, and for each recording id the root mean square of its voice.

    `folder` is the folder of the bank's sound; utterances that are there already are not synthesised again. Raises
    SpeechmillError for a text that cannot be synthesised.
    """
    planned = [_planned(speaker, texts, count) for speaker in speakers]
    units = {unit.recording_id: unit for of_voice in planned for unit in of_voice}
    missing = [unit for name, unit in units.items() if not _properties_file(folder, name, rate).exists()]
    synthesis = Group("speak", partial(_synthesiser, folder, rate))
    for _ in Engine("local", (workers, workers)).run(missing, [synthesis]):
        pass
    voices: list[Voice] = []
    rms: dict[str, float] = {}
    for speaker, of_voice in zip(speakers, planned, strict=True):
        names = [unit.recording_id for unit in of_voice]
        properties = {name: json.loads(_properties_file(folder, name, rate).read_text()) for name in names}
        voices.append(Voice(speaker.name, tuple(_utterance(name, one, rate) for name, one in properties.items())))
        # Each voice has one level, as in a recording, so that a backchannel stays quieter than a question.
        energy, measured = (sum(one[key] for one in properties.values()) for key in ("energy", "measured"))
        rms |= dict.fromkeys(properties, (energy / max(1, measured)) ** 0.5)
    return voices, rms


def _planned(speaker: Speaker, texts: tuple[str, ...], count: int) -> list[Unit]:
    """The utterances of a voice, drawn with a seed from its name, so that they do not depend on other voices."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(speaker.name.encode()).digest()[:8], "big"))
    units = []
    for words in reading.read(drawn(texts, count, rng)):
        rate, pitch = (round(float(rng.uniform(*span)), 4) for span in (speaker.rate, speaker.pitch))
        inputs = [VERSION, MODELS[speaker.model].sha256, speaker.voice, rate, pitch, [asdict(word) for word in words]]
        recording_id = hashlib.sha256(canonical(inputs).encode()).hexdigest()[:20]
        units.append(Unit(recording_id, speaker, words, rate, pitch))
    return units


def _properties_file(folder: Path, recording_id: str, rate: int) -> Path:
    return sound_path(folder, recording_id, rate).with_suffix(".json")


def _synthesiser(folder: Path, rate: int) -> Worker:
    """A worker that synthesises utterances and stores them in the bank."""
    loaded = functools.cache(models.load)

    def speak(unit: Unit) -> str:
        seed = int.from_bytes(hashlib.sha256(unit.recording_id.encode()).digest()[:8], "big")
        made = loaded(unit.speaker.model).speak(
            unit.words, unit.speaker.style, unit.rate, unit.pitch, np.random.default_rng(seed)
        )
        _store(unit, made, folder, rate)
        return unit.recording_id

    return speak


def _store(unit: Unit, made: models.Spoken, folder: Path, rate: int) -> None:
    """Write the sound at the rate of the simulation, and after it the properties."""
    import soundfile
    import soxr

    samples = soxr.resample(made.samples, made.sample_rate, rate)
    scale = rate / made.sample_rate
    spans = [(round(one.start * scale), min(len(samples), round(one.stop * scale))) for one in made.phones]
    spans = without_silences(spans, silences_in(samples, rate), round(LATE_S * rate))
    words = []
    for number, word in enumerate(unit.words):
        of_word = [span for one, span in zip(made.phones, spans, strict=True) if one.word == number]
        words.append(Word(word.text, of_word[0][0], of_word[-1][1]))
    phones = [Phone(one.symbol, *span) for one, span in zip(made.phones, spans, strict=True)]
    transcript = Transcript(tuple(words), tuple(phones), unit.rate, unit.pitch)
    speech = _stretches(spans, round(PAUSE_S * rate))
    energy = sum(float(np.sum(np.square(samples[start:stop], dtype=np.float64))) for start, stop in speech)
    if not energy:
        text = " ".join(word.text for word in unit.words)
        raise SpeechmillError(f"{unit.speaker.voice} makes no sound of {text!r:.80}", "remove the line from --texts")
    path = sound_path(folder, unit.recording_id, rate)
    with whole(path) as unfinished:
        soundfile.write(unfinished, samples, rate, "FLOAT", format="W64")
    properties = {
        "num_samples": len(samples),
        "speech": speech,
        "energy": energy,
        "measured": sum(stop - start for start, stop in speech),
        "transcript": asdict(transcript),
    }
    # The properties are written last, as a sign that the sound is complete.
    with whole_text(_properties_file(folder, unit.recording_id, rate)) as file:
        file.write(to_json(properties))


def silences_in(samples: np.ndarray, rate: int) -> list[Span]:
    """Return silences of at least `PAUSE_S`, and those of any length at both ends."""
    from scipy.ndimage import uniform_filter1d

    level = uniform_filter1d(np.square(samples, dtype=np.float64), round(LEVEL_S * rate), mode="constant")
    loud = np.flatnonzero(level > level.max() * 10 ** (SILENCE_DB / 10))
    if not len(loud):
        return [(0, len(samples))]
    gaps = np.flatnonzero(np.diff(loud) > PAUSE_S * rate)
    inside = [(int(loud[gap]) + 1, int(loud[gap + 1])) for gap in gaps]
    return [(0, int(loud[0])), *inside, (int(loud[-1]) + 1, len(samples))]


def without_silences(phones: Sequence[Span], silences: Sequence[Span], most: int) -> list[Span]:
    """Remove silences from the times of phonemes.

    Models add a pause to the phoneme before it, and the phoneme after it may begin late. A phoneme that begins at most
    `most` samples after a silence is therefore extended back to the end of the silence.
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
    """Join phonemes to stretches of speech, if the silence between them is shorter than a pause."""
    found: list[Span] = []
    for start, stop in phones:
        if found and start - found[-1][1] < pause:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found


def _utterance(recording_id: str, properties: Mapping[str, Any], rate: int) -> Utterance:
    speech = tuple((start, stop) for start, stop in properties["speech"])
    margin = round(MARGIN_S * rate)
    sound = max(0, speech[0][0] - margin), min(properties["num_samples"], speech[-1][1] + margin)
    stored = properties["transcript"]
    transcript = Transcript(
        tuple(Word(**word) for word in stored["words"]),
        tuple(Phone(**phone) for phone in stored["phones"]),
        stored["rate"],
        stored["pitch"],
    )
    return Utterance(recording_id, sound, speech, transcript)

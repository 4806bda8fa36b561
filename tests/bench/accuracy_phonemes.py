"""Phonemes and pJSD on real recordings: phones next to the text, phones in sound without speech, and the pJSD of
English with itself, with other languages, and with copies of itself after a round trip. It takes about ten minutes of
CPU time.
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
from sounds import ArraySound, recordings_or_packaged

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig
from encoders.vocoders import hifigan, synthesise
from pipelines.stages.phonemes import Phonemes, PhonemesConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime import models
from studies.ngrams import Corpus
from studies.pjsd import Order, Range, compare

CLIP_S = 10.0
"""Stretches of speech that begin within the same so many seconds of a recording are a clip."""
SHOWN = (
    "leopard/test.wav", "leopard/diarization_test.wav", "fw/jfk.flac", "librosa/198-209-0000.ogg", "vosk/test.wav",
    "watson/Us_English_Narrowband_Sample_1.wav", "lyra/sample1_48kHz.wav", "azure/whatstheweatherlike-mulaw.wav",
    "pyannote_ami/trn04.flac", "leopard/test_de.wav",
)  # fmt: skip
Clips = list[tuple[str, list[list[str]]]]


class Recogniser:
    """Recognises the phones of recordings, as mono and of at most `longest_s` seconds each."""

    def __init__(self, recogniser: str, folder: Path, longest_s: float) -> None:
        self.folder, self.longest_s = folder, longest_s
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
            for stretch in self.stretches(ArraySound(changed(self.mono(name).samples[0]))):
                found.setdefault(f"{name}:{stretch['start_s'] // CLIP_S:.0f}", []).append(stretch["phones"])
        return list(found.items())

    def mono(self, name: str) -> ArraySound:
        sound = ArraySound.from_file(self.folder / name)
        return ArraySound(sound.samples.mean(axis=0)[: round(self.longest_s * 16000)])


def after_logmel(config: LogMelConfig, vocoder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that turns sound at 16 kHz into log-mel features and back."""
    encoder = LogMel(config)

    def changed(samples: np.ndarray) -> np.ndarray:
        sound = soxr.resample(samples, 16000, config.sample_rate)[None].astype(np.float32)
        (features,) = encoder.encode([encoder.cut(sound, 0, sound.shape[1] // config.hop_samples)])
        return soxr.resample(synthesise(features[0], config, vocoder), config.sample_rate, 16000)

    return changed


def companded(samples: np.ndarray) -> np.ndarray:
    """Limit a sound to the telephone band, 300 to 3,400 Hz, and code it in 8 bits of mu-law."""
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
    parser.add_argument("--no-text", action="store_true", help="do not show phones next to the text")
    parser.add_argument("--only-trips", action="store_true", help="only compare English with copies of itself")
    parser.add_argument("--longest", type=float, default=30.0, metavar="SECONDS", help="used of each recording")
    given = parser.parse_args()
    folder = recordings_or_packaged()
    recogniser = Recogniser(given.recogniser, folder, given.longest)
    with (folder / "index.tsv").open(encoding="utf-8") as index:
        rows = [row for row in csv.DictReader(index, delimiter="\t") if (folder / row["path"]).is_file()]
    english = [row["path"] for row in rows if row["language"] == "en"]
    if not (given.no_text or given.only_trips):
        next_to_text(recogniser, [name for name in SHOWN if (folder / name).is_file()] or english)
    if not given.only_trips:
        without_speech(recogniser, [row["path"] for row in rows if row["n_speakers"] == "0"])
    # Each talk once: the same recording in another container or at another rate would make English more like itself.
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
    collections = ("watson", "leopard")
    copied = [
        row["path"] for row in once if row["language"] == "en" and any(part in row["path"] for part in collections)
    ]
    copied = copied or english
    header = "phones A       B  n   pJSD    same size: A-B   interval       A-A     B-B"
    print(
        f"\npJSD in bits with {recogniser.stage.mark}; the two halves of English have different speakers\n"
        f"{'A':<13}{'B':<22}{header}"
    )
    if not given.only_trips:
        by_languages(recogniser, once)
    original = recogniser.clips(copied)
    trips = {
        "telephone": companded,
        given.vocoder: after_logmel(hifigan.LAYOUT, given.vocoder),
        f"80-7600 Hz {given.vocoder}": after_logmel(LogMelConfig(), given.vocoder),
    }
    for trip, changed in trips.items():
        print_pjsd("English", original, trip, [(f"{trip} {name}", s) for name, s in recogniser.clips(copied, changed)])
    print(f"\n{recogniser.cpu_s / recogniser.speech_s:.3f} CPU s a second of speech")


def by_languages(recogniser: Recogniser, rows: Sequence[dict[str, str]]) -> None:
    """Print the pJSD of English with itself and with other languages."""
    by_language = {
        code: recogniser.clips([row["path"] for row in rows if row["language"] == code])
        for code in ("en", "de", "es", "it", "nl", "fr", "ja")
    }
    english = by_language.pop("en")
    names = sorted({clip.partition(":")[0] for clip, _ in english})
    halves = [[clip for clip in english if names.index(clip[0].partition(":")[0]) % 2 == half] for half in (0, 1)]
    print_pjsd("English 1", halves[0], "English 2", halves[1])
    if not any(by_language.values()):
        print("no recordings in other languages")
        return
    for code, clips in by_language.items():
        print_pjsd("English", english, code, clips)
    print_pjsd("English", english, "the others together", [clip for clips in by_language.values() for clip in clips])


def next_to_text(recogniser: Recogniser, names: Sequence[str]) -> None:
    """Print Whisper's text of some recordings, and their phones."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(models.resolve("whisper-base")[0]), compute_type="int8", cpu_threads=1)
    for name in names:
        sound = ArraySound(recogniser.mono(name).samples[:, : 16 * 16000])
        pieces, _ = whisper.transcribe(sound.samples[0], beam_size=1, temperature=0.0)
        phones = " | ".join("".join(s["phones"]) for s in recogniser.stretches(sound))
        print(f"{name}\n  text   {' '.join(piece.text.strip() for piece in pieces)[:150]}\n  phones {phones[:150]}")


def without_speech(recogniser: Recogniser, names: Sequence[str]) -> None:
    """Print the number of phones in noise, music and silence, with voice activity detection and without it."""
    print("\nphones without speech     seconds   gated   not gated")
    for name in names:
        sound = recogniser.mono(name)
        gated, plain = (sum(len(s["phones"]) for s in recogniser.stretches(sound, gate)) for gate in (True, False))
        print(f"{name[:40]:<42}{sound.num_samples / 16000:>5.1f}{gated:>8}{plain:>12}")


def print_pjsd(name_a: str, a: Clips, name_b: str, b: Clips) -> None:
    for order in compare(Corpus.of(a), Corpus.of(b), (1, 2, 3), draws=50):
        matched = order.matched
        print(
            f"{name_a:<12} {name_b:<20} {order.a.count:>9} {order.b.count:>7}  {order.n}  {_value(order)}          "
            f"{_range(matched.between, True)}  {_range(matched.within_a)}  {_range(matched.within_b)}",
            flush=True,
        )


def _value(order: Order) -> str:
    return f"{order.pjsd.value:.4f}" if order.pjsd else "     -"


def _range(values: Range | None, interval: bool = False) -> str:
    if values is None:
        return "     -"
    return f"{values.value:.4f}" + (f"  {values.low:.4f}-{values.high:.4f}" if interval else "")


if __name__ == "__main__":
    main()

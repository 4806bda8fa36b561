"""Accuracy of fingerprints: copies and excerpts of real and simulated recordings that are found after each distortion,
beside Chromaprint on the same sounds; a jingle in many recordings; false pairs among recordings of few voices.

Needs espeak-ng and, for Chromaprint, fpcalc (Debian: libchromaprint-tools); takes some 15 CPU minutes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names
sys.path.append(str(Path(__file__).parent / "peers"))

import chromaprint
import numpy as np
import pyarrow as pa
import soxr
from copies import COPIES
from sounds import ArraySound, recordings_or_packaged

from manifests.matches.align import Marks, Stretch, stretches
from manifests.matches.index import ROW_BITS, codes
from manifests.matches.join import hits
from pipelines.stages.landmarks import landmarks

LONGEST_S = 40
LENGTHS_S = (5, 10, 30)
TEXTS = Path(__file__).parents[2] / "pipelines/simulate/speech/texts_en.txt"
Pairs = dict[tuple[int, int], list[Stretch]]


def recordings(every: int) -> list[tuple[str, np.ndarray]]:
    """Mono real recordings of 8 s at least that are not silent; of those at two rates only one is taken."""
    folder = recordings_or_packaged()
    found, known = [], list[Marks]()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mp4"):
            continue
        try:
            samples = ArraySound.from_file(path).samples.mean(axis=0)[: LONGEST_S * 16000]
        except Exception as error:
            print(f"left out: {path.name}: {error}", file=sys.stderr)
            continue
        marks = heard(samples)
        if len(samples) >= 8 * 16000 and len(marks) > 3 * len(samples) / 16000:
            known.append(marks)
            found.append((str(path.relative_to(folder)), samples))
    copies = {one for one, other in pairs([], known) if one != other}
    return [one for number, one in enumerate(found) if number not in copies][::every]


def heard(samples: np.ndarray) -> Marks:
    return Marks(*landmarks(ArraySound(samples)))


def pairs(known: list[Marks], new: list[Marks], key_bits: int = 22, among_new: bool = True) -> Pairs:
    """Stretches that new recordings share with known ones, and with each other, by both numbers.

    They are found as in a lake, where known recordings were met before new ones.
    """
    every = [*known, *new]
    numbers = [number + ((number >= len(known)) << ROW_BITS) for number in range(len(every))]
    made = [codes(marks.bits, key_bits) for marks in every]
    recording = np.concatenate([np.full(len(marks), n, np.int64) for marks, n in zip(every, numbers, strict=True)])
    table = {
        "code": np.concatenate(made, axis=1).ravel(),
        "recording": np.tile(recording, 2),
        "time_ms": np.tile(np.concatenate([marks.times_ms for marks in every]), 2),
    }
    found = hits(pa.table(table), key_bits, 8, [1]).table
    later, earlier, later_ms, earlier_ms = (found[name].to_numpy() for name in found.column_names)
    edges = np.flatnonzero(np.append(True, (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])))
    shared: Pairs = {}
    for first, last in zip(edges, np.append(edges[1:], len(later)), strict=True):
        if first == last:
            continue
        one, other = (int(side[first]) & ((1 << ROW_BITS) - 1) for side in (later, earlier))
        if other >= len(known) and not among_new:
            continue
        stretch = stretches(every[one], every[other], later_ms[first:last], earlier_ms[first:last])
        if stretch:
            shared[one, other] = stretch
    return shared


def inside(samples: np.ndarray, around: np.ndarray) -> tuple[np.ndarray, float]:
    """A sound in the middle of another one, at its level, and where it starts in ms."""
    half = len(around) // 2
    level = np.sqrt(np.square(around).mean() / max(1e-12, float(np.square(samples).mean())))
    return np.concatenate([around[:half], samples * level, around[half:]]).astype(np.float32), half / 16


@dataclass
class Cell:
    """What was found of the pairs of one distortion and one length."""

    pairs: int = 0
    found: int = 0
    false: int = 0
    edges_ms: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    """Chromaprint's bit error rates of these pairs, and"""
    wrong: list[float] = field(default_factory=list)
    """of all pairs of sounds that have nothing in common."""


def distortions(real: list[tuple[str, np.ndarray]], with_chromaprint: bool) -> None:
    """Print recall and false pairs by distortion and length, ours and Chromaprint's, of the same sounds.

    Each copy is compared to all recordings. Chromaprint's pairs are those up to one bit error rate: the highest at
    which 99 % of all pairs that it finds in the whole table are right.
    """
    base = [heard(samples) for _, samples in real]
    printed = [chromaprint.fingerprint(samples) for _, samples in real] if with_chromaprint else []
    cells = {
        (name, length_s): cell(real, base, printed, name, length_s)
        for name in COPIES
        for length_s in (None, *LENGTHS_S)
    }
    most = threshold(list(cells.values()))
    print(f"{len(real)} recordings, {sum(len(s) for _, s in real) / 16000:.0f} s")
    names = [*(f"{one} s inside" for one in LENGTHS_S), "false"]
    print("| distortion | whole |", " | ".join(names), "| edges | Chromaprint: whole |", " | ".join(names), "|")
    print("|" + "---|" * (5 + 1 + 1 + 5))
    for name in [*COPIES, "all"]:
        row = [
            [cells[one, length_s] for one in (COPIES if name == "all" else [name])] for length_s in (None, *LENGTHS_S)
        ]
        every = [one for of_length in row for one in of_length]
        ours = [f"{sum(c.found for c in of)}/{sum(c.pairs for c in of)}" for of in row]
        theirs = [str(sum(rate <= most for c in of for rate in c.right)) for of in row]
        errors = [error for c in every for error in c.edges_ms]
        edges = f"{np.median(errors):.0f}" if errors else "-"
        of_theirs = sum(rate <= most for c in every for rate in c.wrong)
        print("|", " | ".join([name, *ours, str(sum(c.false for c in every)), edges, *theirs, str(of_theirs)]), "|")
    right, wrong = ([rate for c in cells.values() for rate in getattr(c, kind)] for kind in ("right", "wrong"))
    if with_chromaprint:
        least = min(wrong)
        print(f"{chromaprint.version()}: bit error rate up to {most:.4f}; without any false pair up to {least:.4f}, "
              f"which finds {sum(rate < least for rate in right)} of {len(right)}")  # fmt: skip


def cell(
    real: list[tuple[str, np.ndarray]],
    base: list[Marks],
    printed: list[np.ndarray],
    name: str,
    length_s: int | None,
) -> Cell:
    """Whole copies, or excerpts of a length inside other recordings, after a distortion."""
    changed, speed = COPIES[name]
    rng = np.random.default_rng(length_s or 0)
    made, truth = [], []
    for number, (_, samples) in enumerate(real):
        if length_s is None:
            made.append(changed(samples))
            truth.append((number, number, 0.0, len(samples) / 16 / speed))
        elif len(samples) >= length_s * 16000:
            at = int(rng.integers(0, len(samples) - length_s * 16000 + 1))
            other = (number + 7) % len(real)
            whole, start_ms = inside(changed(samples[at : at + length_s * 16000]), real[other][1])
            made.append(whole)
            truth.append((number, other, start_ms, start_ms + 1000 * length_s / speed))
    found = pairs(base, [heard(samples) for samples in made], among_new=False)
    told = Cell(len(truth))
    for place, (number, other, start_ms, end_ms) in enumerate(truth, len(base)):
        good = [s for s in found.get((place, number), []) if s.start_ms < end_ms and s.end_ms > start_ms]
        told.found += bool(good)
        told.edges_ms += [abs(good[0].start_ms - start_ms), abs(good[-1].end_ms - end_ms)] if good else []
        told.false += sum(one == place and two not in (number, other) for one, two in found)
        if printed:
            rates = chromaprint.bit_errors(chromaprint.fingerprint(made[place - len(base)]), printed)
            told.right.append(float(rates[number]))
            told.wrong += [float(rate) for two, rate in enumerate(rates) if two not in (number, other)]
    return told


def threshold(cells: list[Cell]) -> float:
    """The highest bit error rate up to which at most 1 % of the pairs are wrong."""
    right, wrong = (np.sort([rate for c in cells for rate in getattr(c, kind)]) for kind in ("right", "wrong"))
    rates = np.unique(right)
    counts, false = np.searchsorted(right, rates, "right"), np.searchsorted(wrong, rates, "right")
    good = rates[false <= 0.01 * (counts + false)]
    return float(good[-1]) if len(good) else 0.0


def jingles(real: list[tuple[str, np.ndarray]], count: int) -> None:
    """An 8 s jingle at random places of recordings, each coded otherwise."""
    rng = np.random.default_rng(5)
    music = next((samples for name, samples in real if "Vibe" in name), real[0][1])
    jingle, coded = music[5 * 16000 : 13 * 16000], [COPIES[name][0] for name in list(COPIES)[:7]]
    others = [samples for name, samples in real if samples is not music]
    made = []
    for number in range(count):
        base = others[number % len(others)]
        at = int(rng.integers(0, len(base)))
        level = np.sqrt(np.square(base).mean() / np.square(jingle).mean())
        part = coded[number % len(coded)](jingle) * level
        made.append(heard(np.concatenate([base[max(0, at - 48000) : at], part, base[at : at + 48000]])))
    found = pairs([heard(jingle)], made)
    with_it = {one for one, other in found if other == 0}
    print(f"jingle of 8 s in {count} recordings: found in {len(with_it)}", flush=True)


def voices(count: int, kind: str) -> None:
    """Print the pairs found among different recordings of four synthetic voices, of 14 words each.

    espeak-ng says the same word in the same way each time, so two texts with a run of words in common are the same
    sound for the length of that run: no two texts of a voice share two words that follow one another.
    """
    rng = np.random.default_rng(3)
    if kind == "invented":
        syllables = [a + b for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "u", "ai", "ee", "oo")]
        words = np.array(sorted({"".join(rng.choice(syllables, int(rng.integers(1, 4)))) for _ in range(3000)}))
        speakers = [("en-us", 30), ("en-gb", 30), ("de", 30), ("en-us+f3", 30)]
    else:
        words = np.array(sorted(set(re.findall(r"[a-z']+", TEXTS.read_text().lower()))))
        speakers = [("en-us", 1), ("en-gb", 1), ("en-us+m3", 1), ("en-us+f3", 1)]
    made, seconds, used = [], 0.0, [set[tuple[str, str]]() for _ in speakers]
    for number in range(count):
        (voice, speeds), known = speakers[number % 4], used[number % 4]
        text = [str(rng.choice(words))]
        while len(text) < 14:
            word = str(rng.choice(words))
            if (text[-1], word) not in known:
                known.add((text[-1], word))
                text.append(word)
        speed = 150 + number % speeds
        samples = spoken(voice, speed, " ".join(text))
        made.append(heard(samples))
        seconds += len(samples) / 16000
    begun = time.process_time()
    found = pairs([], made)
    print(f"{count} different recordings of 4 voices, {kind} words, {seconds:.0f} s: {len(found)} false pairs, "
          f"{time.process_time() - begun:.1f} CPU s to match")  # fmt: skip
    for (one, other), shared in list(found.items())[:10]:
        print("  ", one, other, [(s.start_ms, s.end_ms, s.same, s.of, round(s.evidence, 1)) for s in shared])
    sys.stdout.flush()


def spoken(voice: str, words_a_minute: int, text: str) -> np.ndarray:
    """Float32 (samples,) at 16 kHz."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_a_minute), "--stdout", text]
    told = subprocess.run(command, capture_output=True, check=True)
    samples = np.frombuffer(told.stdout[44:], "<i2") / np.float32(32768)
    made: np.ndarray = soxr.resample(samples, 22050, 16000)
    return made


def conversations(count: int, folder: Path) -> list[tuple[str, np.ndarray]]:
    """Conversations of two synthetic voices in a folder, made if they are not there, each with texts of its own."""
    words = sorted(set(re.findall(r"[a-z']+", TEXTS.read_text().lower())))
    found = []
    for number in range(count):
        out, texts = folder / str(number), folder / f"{number}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        texts.write_text("".join(" ".join(rng.choice(words, int(rng.integers(5, 12)))) + ".\n" for _ in range(30)))
        command = [
            sys.executable,
            "-c",
            "from pipelines.commands.cli import main; main()",
            "simulate",
            str(out),
            "--quiet",
        ]
        command += ["--tts", "piper:joe", "--tts", "kokoro:jf_alpha", "--side", "test", "--texts", str(texts)]
        command += ["--count", "1", "--minutes", "0.6..0.7", "--seed", str(number), "--set", "tts_utterances=14"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        for path in sorted((out / "conversations").glob("*.flac")):
            found.append((f"simulated {number}", ArraySound.from_file(path).samples.mean(axis=0)))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every nth recording")
    parser.add_argument("--simulated", type=int, default=3, help="simulated conversations beside them")
    parser.add_argument("--folder", type=Path, help="where simulated conversations are kept for another time")
    parser.add_argument("--voices", type=int, default=2000)
    parser.add_argument("--jingles", type=int, default=200)
    parser.add_argument("--no-chromaprint", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="speechmill-bench-") as folder:
        simulated = conversations(given.simulated, given.folder or Path(folder))
    real = recordings(given.every)
    distortions(real + simulated, not given.no_chromaprint)
    if given.jingles:
        jingles(real, given.jingles)
    if given.voices:
        voices(given.voices, "invented")
        voices(given.voices, "English")

"""Accuracy of fingerprints: recall of copies and excerpts after each distortion, compared with Chromaprint; jingles;
and false pairs among different recordings of the same few voices.

It needs espeak-ng, and fpcalc for Chromaprint, and takes minutes of CPU time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import pyarrow as pa
from copies import COPIES
from sounds import ArraySound, recordings_or_packaged

from manifests.matches.align import Marks, Stretch, stretches
from manifests.matches.index import ROW_BITS, keys
from manifests.matches.join import hits
from pipelines.stages.landmarks import landmarks

LONGEST_S = 40
LENGTHS_S = (5, 10, 30)
CHROMAPRINT_RUN = 24
"""Consecutive items of Chromaprint, 3 s, whose bits are compared."""
Pairs = dict[tuple[int, int], list[Stretch]]


def recordings(every: int) -> list[tuple[str, np.ndarray]]:
    """Return every n-th recording as mono, without short or silent ones and without copies of others."""
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


def pairs(known: list[Marks], new: list[Marks], key_bits: int = 28) -> Pairs:
    """Find the stretches that new recordings share with others, as the matching of a lake does, by pairs of numbers."""
    every = [*known, *new]
    numbers = [number + ((number >= len(known)) << ROW_BITS) for number in range(len(every))]
    made = [keys(marks.bits, key_bits) for marks in every]
    recording = np.concatenate([np.full(len(marks), n, np.int64) for marks, n in zip(every, numbers, strict=True)])
    table = {
        "key": np.concatenate(made, axis=1).ravel(),
        "recording": np.tile(recording, 2),
        "time_ms": np.tile(np.concatenate([marks.times_ms for marks in every]), 2),
    }
    found = hits(pa.table(table), 8, [1]).table
    later, earlier, later_ms, earlier_ms = (found[name].to_numpy() for name in found.column_names)
    edges = np.flatnonzero(np.append(True, (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])))
    shared: Pairs = {}
    for first, last in zip(edges, np.append(edges[1:], len(later)), strict=True):
        if first == last:
            continue
        one, other = (int(side[first]) & ((1 << ROW_BITS) - 1) for side in (later, earlier))
        stretch = stretches(every[one], every[other], later_ms[first:last], earlier_ms[first:last])
        if stretch:
            shared[one, other] = stretch
    return shared


def inside(samples: np.ndarray, around: np.ndarray) -> tuple[np.ndarray, float]:
    """Insert a sound into the middle of another one, at its level. Returns the sound, and where the insert starts,
    ms."""
    half = len(around) // 2
    level = np.sqrt(np.square(around).mean() / max(1e-12, float(np.square(samples).mean())))
    return np.concatenate([around[:half], samples * level, around[half:]]).astype(np.float32), half / 16


def distortions(real: list[tuple[str, np.ndarray]], chromaprint: bool) -> None:
    """Print the recall by distortion and length, and the error of the ends of the stretches that were found."""
    base = [heard(samples) for _, samples in real]
    printed = [raw(samples) for _, samples in real] if chromaprint else []
    print(f"{len(real)} recordings, {sum(len(s) for _, s in real) / 16000:.0f} s. Recall; median error of ends in ms")
    print("| distortion | whole copy | 5 s inside | 10 s inside | 30 s inside | edges | false pairs |", end="")
    print(" Chromaprint whole | 10 s inside |" if chromaprint else "")
    for name, (changed, speed) in COPIES.items():
        cells, errors, false, theirs = [], [], 0, []
        for length_s in (None, *LENGTHS_S):
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
            found = pairs(base, [heard(samples) for samples in made])
            right = 0
            for place, (number, other, start_ms, end_ms) in enumerate(truth, len(base)):
                good = [s for s in found.get((place, number), []) if s.start_ms < end_ms and s.end_ms > start_ms]
                right += bool(good)
                if good:
                    errors += [abs(good[0].start_ms - start_ms), abs(good[-1].end_ms - end_ms)]
                wanted = {number, other}
                for one, two in found:
                    new = two >= len(base)
                    same = new and wanted & set(truth[two - len(base)][:2])
                    false += one == place and two not in wanted and not same
            cells.append(f"{right}/{len(truth)}")
            if chromaprint and length_s in (None, 10):
                theirs.append(of_chromaprint(printed, [raw(samples) for samples in made], truth))
        edges = f"{np.median(errors):.0f}" if errors else "-"
        print(f"| {name} | {' | '.join(cells)} | {edges} | {false} |", *(f"{t} |" for t in theirs))
        sys.stdout.flush()


def raw(samples: np.ndarray) -> np.ndarray:
    """Chromaprint's items, uint32 (n,), about 8 a second."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        write_wav(file.name, samples)
        told = subprocess.run(
            ["fpcalc", "-raw", "-length", "0", file.name], capture_output=True, text=True, check=False
        )
    line = next((line for line in told.stdout.splitlines() if line.startswith("FINGERPRINT=")), "FINGERPRINT=")
    return np.array([int(item) for item in line[12:].split(",") if item], np.uint32)


def write_wav(path: str, samples: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def of_chromaprint(base: list[np.ndarray], made: list[np.ndarray], truth: list[tuple]) -> str:
    """Count the copies that are closer to their original than any recording is to another one. This is the best recall
    of a threshold without false pairs."""
    right = [distance(items, base[number]) for items, (number, *_) in zip(made, truth, strict=True)]
    wrong = [
        distance(items, base[other])
        for place, (items, (number, inner, *_)) in enumerate(zip(made, truth, strict=True))
        for other in ((number + 3 + place) % len(base), (number + 11) % len(base))
        if other not in (number, inner)
    ]
    return f"{sum(one < min(wrong, default=0.5) for one in right)}/{len(right)}"


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the smallest share of differing bits over 3 s at any offset."""
    if min(len(one), len(other)) < CHROMAPRINT_RUN:
        return 0.5
    differ = np.bitwise_count(one[:, None] ^ other[None]).astype(np.int64)
    best = 32.0
    for offset in range(CHROMAPRINT_RUN - len(one), len(other) - CHROMAPRINT_RUN + 1):
        sums = np.append(0, np.cumsum(np.diagonal(differ, offset)))
        if len(sums) > CHROMAPRINT_RUN:
            best = min(best, float((sums[CHROMAPRINT_RUN:] - sums[:-CHROMAPRINT_RUN]).min()) / CHROMAPRINT_RUN)
    return best / 32


def jingles(real: list[tuple[str, np.ndarray]], count: int) -> None:
    """Print how often an 8 s jingle is found that is inserted into recordings at random, each time in another codec."""
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
    print(f"jingle of 8 s in {count} recordings: found in {len(with_it)}")


def voices(count: int) -> None:
    """Print the false pairs among recordings of four synthetic voices, which always pronounce a word in the same
    way."""
    rng = np.random.default_rng(3)
    syllables = [a + b for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "u", "ai", "ee", "oo")]
    words = ["".join(rng.choice(syllables, int(rng.integers(1, 4)))) for _ in range(3000)]
    made, seconds = [], 0.0
    for number in range(count):
        text = " ".join(rng.choice(words, 14))
        voice, speed = ("en-us", "en-gb", "de", "en-us+f3")[number % 4], 150 + number % 30
        spoken = subprocess.run(
            ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text], capture_output=True, check=True
        )
        samples = np.frombuffer(spoken.stdout[44:], "<i2") / np.float32(32768)
        resampled = np.interp(np.arange(0, len(samples), 22050 / 16000), np.arange(len(samples)), samples)
        made.append(heard(resampled.astype(np.float32)))
        seconds += len(resampled) / 16000
    begun = time.process_time()
    found = pairs([], made)
    print(f"{count} different recordings of 4 voices, {seconds:.0f} s: {len(found)} false pairs, "
          f"{time.process_time() - begun:.1f} CPU s to match")  # fmt: skip
    for (one, other), shared in list(found.items())[:10]:
        print("  ", one, other, [(s.start_ms, s.end_ms, s.same, s.of, round(s.evidence, 1)) for s in shared])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="use every n-th recording")
    parser.add_argument("--voices", type=int, default=2000, help="recordings of synthetic voices")
    parser.add_argument("--jingles", type=int, default=200, help="recordings with a jingle")
    parser.add_argument("--no-chromaprint", action="store_true", help="do not compare with Chromaprint")
    given = parser.parse_args()
    real = recordings(given.every)
    jingles(real, given.jingles)
    voices(given.voices)
    distortions(real, not given.no_chromaprint)

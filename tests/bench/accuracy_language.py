"""Accuracy and cost of language identification: on whole recordings in one language, on their first seconds, and on
recordings that are put together from several languages.
"""

import argparse
import csv
import hashlib
import os
import platform
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
from sounds import ArraySound, recordings_or_packaged

from pipelines.stages import prior
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.errors import SpeechmillError

RATE = 16000
KINDS = ("whole", "3s", "10s", "30s", "switching")
RANGES: dict[str, tuple[float, ...]] = {
    "prior_strength": (0.0, 0.1, 0.3, 0.4, 0.6, 1.0),
    "language_odds": (1.0, 3.0, 30.0, 100.0),
    "switch_odds": (1.0, 2.0, 5.0, 10.0, 30.0),
    "floor": (0.001, 0.005, 0.05, 0.1, 0.2),
    "whole_s": (0.0, 1.0, 5.0, 10.0),
    "sure": (0.8, 0.9, 0.98, 0.995),
}
Truth = list[tuple[float, float, str]]


@dataclass(frozen=True)
class Case:
    """A sound, the languages that are spoken in it by spans of seconds, and its voice activity."""

    name: str
    kind: str
    half: str
    sound: ArraySound
    truth: Truth
    heard: dict[str, Any]

    def shares(self) -> dict[str, float]:
        """Return the share of each language in the speech that voice activity detection finds."""
        seconds: dict[str, float] = defaultdict(float)
        for segment in self.heard["segments"]:
            for start, end, language in self.truth:
                seconds[language] += max(0.0, min(end, segment["end_s"]) - max(start, segment["start_s"]))
        total = sum(seconds.values())
        return {code: part / total for code, part in seconds.items() if part} if total else {self.truth[0][2]: 1.0}


class CachedLanguage(Language):
    """Runs the model once per window, so that settings can be compared, and records CPU seconds by window length."""

    def setup(self) -> None:
        super().setup()
        self.cache: dict[tuple[bytes, float], dict[str, float]] = {}
        self.cost: dict[float, list[float]] = defaultdict(list)

    def probabilities(self, windows: Any, most_s: float = 30.0) -> list[dict[str, float]]:
        found = []
        for window in windows:
            key = hashlib.sha256(window.tobytes()).digest(), most_s
            if key not in self.cache:
                begun = time.process_time()
                (self.cache[key],) = super().probabilities([window], most_s)
                self.cost[most_s].append(time.process_time() - begun)
            found.append(self.cache[key])
        return found


def half_of(path: str) -> str:
    """Return the half that a recording belongs to, by a hash of its name without band, format and number."""
    voice = re.match(r"[^_.0-9]*", path.rpartition("/")[2])
    assert voice is not None
    return "tuning" if hashlib.sha256(voice[0].encode()).digest()[0] % 2 == 0 else "test"


def recordings(folder: Path, vad: Vad) -> Iterator[Case]:
    """Yield the recordings of a folder that are in one language or without speech."""
    with (folder / "index.tsv").open(encoding="utf-8") as index:
        rows = list(csv.DictReader(index, delimiter="\t"))
    for row in rows:
        truth = row["language"]
        if len(truth) != 2 and truth != "zxx":
            continue  # unknown, or several languages
        try:
            sound = ArraySound.from_file(folder / row["path"])
        except SpeechmillError as error:
            print(f"  {row['path']}: not decoded: {error}")
            continue
        spans = [(0.0, sound.num_samples / RATE, truth)]
        yield Case(row["path"], "whole", half_of(row["path"]), sound, spans, vad.annotate(sound, {}))


def opening(case: Case, seconds: int, vad: Vad) -> Case | None:
    if case.sound.num_samples <= seconds * RATE:
        return None
    sound = ArraySound(case.sound.samples[:, : seconds * RATE])
    return replace(case, kind=f"{seconds}s", sound=sound, heard=vad.annotate(sound, {}))


def switching(cases: list[Case], noise: np.ndarray, vad: Vad, count: int) -> Iterator[Case]:
    """Yield recordings of 40 to 90 s in two or three languages, put together from stretches of 3 to 15 s.

    The stretches come from recordings of one half and have equal levels. A third of the recordings is left as it is, a
    third is limited to the telephone band, and a third has noise 10 dB below the speech.
    """
    for half in ("tuning", "test"):
        voices = defaultdict(list)
        for case in cases:
            if case.half == half and case.truth[0][2] != "zxx" and case.heard["segments"]:
                voices[case.truth[0][2]].append(case)
        if len(voices) < 3:
            print(f"  {half}: recordings in {len(voices)} languages are too few to put together")
            continue
        drawn = random.Random(half)
        for number in range(count):
            languages = drawn.sample(sorted(voices), 2 if number % 4 else 3)
            if number % 2 == 0 and "en" not in languages:
                languages[0] = "en"
            weights = drawn.choice([(5, 5, 2), (8, 2, 2), (9, 1, 2)])[: len(languages)]
            parts, truth, at_s, wanted_s = [], [], 0.0, drawn.uniform(40, 90)
            while at_s < wanted_s:
                language = drawn.choices(languages, weights)[0]
                case = drawn.choice(voices[language])
                segments = [segment for segment in case.heard["segments"] if segment["track"] == 0]
                begin_s, length_s = drawn.choice(segments or case.heard["segments"])["start_s"], drawn.uniform(3, 15)
                part = case.sound.samples[0, round(begin_s * RATE) : round((begin_s + length_s) * RATE)]
                part = part * 0.05 / max(1e-4, float(np.sqrt(np.mean(np.square(part)))))
                parts += [part, np.zeros(round(drawn.uniform(0.1, 0.8) * RATE), np.float32)]
                end_s = at_s + (len(parts[-2]) + len(parts[-1])) / RATE
                truth.append((at_s, end_s, language))
                at_s = end_s
            how = ("as it is", "telephone", "noise")[number % 3]
            samples = np.concatenate(parts)
            if how == "telephone":
                spectrum = np.fft.rfft(samples)
                hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
                spectrum[(hertz < 300) | (hertz > 3400)] = 0
                samples = np.fft.irfft(spectrum, len(samples))
            elif how == "noise":
                samples = samples + np.resize(noise, len(samples)) * 0.05 * 10**-0.5 / np.sqrt(np.mean(noise**2))
            sound = ArraySound(samples)
            name = f"{half} {number}, {'+'.join(languages)}, {how}"
            yield Case(name, "switching", half, sound, truth, vad.annotate(sound, {}))


def judge(stage: Language, cases: list[Case], tell: bool = False) -> dict[str, str]:
    """Describe the accuracy for each kind of recording. `tell` prints those with errors."""
    words = {}
    for kind in KINDS:
        rows = [(case, stage.annotate(case.sound, {"vad": case.heard})) for case in cases if case.kind == kind]
        spoken = [(case, row) for case, row in rows if case.truth[0][2] != "zxx"]
        if not spoken:
            continue
        decided = [(case, row) for case, row in spoken if row["language"] is not None]
        pairs = [(case.shares(), row["language_shares"]) for case, row in decided]
        errors = [sum(abs(a.get(code, 0) - b.get(code, 0)) for code in {*a, *b}) / 2 for a, b in pairs]
        if kind == "switching":
            missed = [code not in found for truth, found in pairs for code in truth]
            wrong = [code for truth, found in pairs for code in found if code not in truth]
            words[kind] = (
                f"share error {np.mean(errors):.3f} (worst {max(errors):.2f}), languages missed {sum(missed)} of "
                f"{len(missed)}, not spoken {len(wrong)}, in {len(decided)} recordings"
            )
        else:
            right = sum(row["language"] == case.truth[0][2] for case, row in decided)
            pure = sum(error <= 0.01 for error in errors)
            words[kind] = (
                f"{right} of {len(decided)} right, {pure} with a share of 0.99, "
                f"{len(spoken) - len(decided)} without a language"
            )
        unspoken = [row["language"] for case, row in rows if case.truth[0][2] == "zxx"]
        if unspoken:
            words[kind] += f"; no speech: {unspoken.count(None)} of {len(unspoken)} without a language"
        for (case, row), error in zip(decided, errors, strict=True):
            if tell and error > 0.01:
                found = ", ".join(f"{code} {share:.2f}" for code, share in row["language_shares"].items())
                truth = ", ".join(f"{code} {share:.2f}" for code, share in case.shares().items())
                print(f"  {kind} {case.name}: {truth}; found {found} (confidence {row['language_confidence']:.2f})")
    return words


def reliability(stage: Language, cases: list[Case]) -> None:
    """Print how often the language is right, by its confidence, for recordings and first seconds in one language."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for case in cases:
        if case.kind != "switching" and case.truth[0][2] != "zxx":
            row = stage.annotate(case.sound, {"vad": case.heard})
            if (confidence := row["language_confidence"]) is not None:
                bins[sum(confidence >= edge for edge in (0.4, 0.6, 0.8, 0.9))].append(
                    (confidence, row["language"] == case.truth[0][2])
                )
    print("confidence   recordings       mean   right")
    for number, name in enumerate(("under 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 0.9", "0.9 to 1")):
        if inside := bins[number]:
            mean, right = np.mean([c for c, _ in inside]), np.mean([ok for _, ok in inside])
            print(f"{name:<13}{len(inside):>10}{mean:>11.2f}{right:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", action="store_true", help="also vary each setting")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of recordings")
    parser.add_argument(
        "--switching", type=int, default=12, help="recordings to put together from each half of the voices"
    )
    given = parser.parse_args()
    folder = recordings_or_packaged()
    vad, stage = Vad(VadConfig()), CachedLanguage(LanguageConfig())
    vad.setup()
    stage.setup()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {stage.config}")
    cases = list(recordings(folder, vad))
    openings = [opening(case, seconds, vad) for seconds in (3, 10, 30) for case in cases if case.truth[0][2] != "zxx"]
    cases += [one for one in openings if one]
    if "switching" in given.only:
        whole = [case for case in cases if case.kind == "whole"]
        noise = next(case.sound.samples[0] for case in whole if "noise" in case.name)
        cases += switching(whole, noise, vad, given.switching)
    cases = [case for case in cases if case.kind in given.only]
    for kind, words in judge(stage, cases, tell=True).items():
        print(f"{kind:<10} {words}")
    reliability(stage, cases)
    heard = {most_s: (len(spent), sum(spent)) for most_s, spent in stage.cost.items()}
    speech_s = sum(segment["end_s"] - segment["start_s"] for case in cases for segment in case.heard["segments"])
    spent_s = sum(seconds for _, seconds in heard.values())
    print(
        f"{speech_s:.0f} s of speech: {spent_s:.0f} CPU s; "
        + ", ".join(
            f"{count} windows of {most_s:g} s at {seconds / count:.2f} CPU s"
            for most_s, (count, seconds) in heard.items()
        )
    )
    long = max(cases, key=lambda case: case.sound.num_samples).sound.samples[0][: 30 * RATE]
    stage.probabilities([long[: 29 * RATE], long])
    print(f"for comparison, windows of 30 s: {np.mean(stage.cost[30.0]):.2f} CPU s")
    for name, values in RANGES.items() if given.settings else ():
        for value in values:
            other = copy(stage)
            changed: dict[str, Any] = {name: value}
            other.config = config = replace(stage.config, **changed)
            other.log_prior = prior.log_prior(stage.languages, prior.MILLIONS, config.prior_strength)
            for kind, words in judge(other, cases).items():
                print(f"{name} {value:g}: {kind:<10} {words}", flush=True)


if __name__ == "__main__":
    main()

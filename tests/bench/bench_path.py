"""CPU time of a whole run on one worker, compared with the sum of its parts: audio seconds per CPU second."""

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
import psutil
import soundfile
from sounds import ArraySound, telephone_conversation

import encoders
from manifests.lake import Lake
from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled
from pipelines.audio.sound import decode_sound
from pipelines.progress.watch import Watch
from pipelines.recipes import recipe
from pipelines.run import Run

FAST = ("annotate={vad={}}", "select.recordings={}", "select.windows={}")
FINGERPRINT = ("annotate.fingerprint={}",)


def cpu_s(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of some work, including its decoder processes."""
    begun = spent_s()
    work()
    return spent_s() - begun


def spent_s() -> float:
    """Return the CPU seconds so far of this process, its living children and its ended children."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = (child.cpu_times() for child in psutil.Process().children())
    counted = sum(times.user + times.system + times.children_user + times.children_system for times in living)
    return time.process_time() + ended.ru_utime + ended.ru_stime + counted


def conversation(folder: Path, minutes: float) -> tuple[list[Path], float]:
    """Write FLAC files of at most ten minutes of real conversation. Returns them and their total seconds."""
    speech, rate = telephone_conversation()
    each_s = 60 * min(10.0, minutes)
    paths = []
    for number in range(max(1, round(minutes / 10))):
        paths.append(folder / f"{number}.flac")
        soundfile.write(paths[-1], np.resize(np.roll(speech, number * rate), round(each_s * rate)), rate)
    return paths, each_s * len(paths)


def decode_to(paths: list[Path], rate: int) -> None:
    for path in paths:
        decoder = Decoder(str(path))
        for _ in resampled(decoder, decoder.sample_rate, rate):
            pass


def parts_of(paths: list[Path], stages: list[str]) -> dict[str, float]:
    """Measure the CPU seconds of each part alone, after its models are loaded."""
    loaded = recipe.load("demo", FINGERPRINT)
    decode_sound(str(paths[0]), "x").read(0, 0)  # imports what the meters need
    found = {
        "decode": cpu_s(lambda: decode_to(paths, 16000)),
        "decode + signal": cpu_s(lambda: [decode_sound(str(path), "x").read(0, 0) for path in paths]),
        "decode for the encoder": cpu_s(lambda: decode_to(paths, 24000)),
    }
    sounds = [ArraySound.from_file(path) for path in paths]
    known: list[dict[str, Any]] = [{} for _ in sounds]
    for stage in loaded.make_stages():
        if stage.name not in stages:
            continue
        stage.setup()
        spent = 0.0
        for sound, rows in zip(sounds, known, strict=True):
            begun = time.process_time()
            rows[stage.name] = stage.annotate(sound, rows)
            spent += time.process_time() - begun
        found[stage.name] = spent
    encoder = encoders.load("logmel", {})
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 42 * encoder.sample_rate)).astype(np.float32)
    window = encoder.cut(sound, 80, 40 * 80)
    windows = sum(sound.num_samples for sound in sounds) / 16000 / 40
    found["log-mel"] = cpu_s(lambda: [encoder.encode([window]) for _ in range(5)]) / 5 * windows
    return found


def steps_of(lake: Lake, paths: list[Path], overrides: tuple[str, ...]) -> dict[str, float]:
    """Measure the CPU seconds of each step of a run."""
    with Watch(lake.storage, "bench", {}, quiet=True) as watch:
        work = Run(recipe.load("demo", overrides), lake, watch)
        return {
            "ingest": cpu_s(lambda: work.ingest(map(str, paths))),
            "annotate": cpu_s(lambda: list(work.annotate())),
            "select": cpu_s(work.select),
            "encode": cpu_s(work.encode),
        }


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="Length of the sound.")
@click.option("--every-stage", is_flag=True, help="Also run the other default stages; about 20 times as slow.")
@click.option("--fingerprint", is_flag=True, help="Also compute and match fingerprints.")
def main(minutes: float, every_stage: bool, fingerprint: bool) -> None:
    stages = ["vad", "diarize", "language", "quality"] if every_stage else ["vad"]
    stages += ["fingerprint"] if fingerprint or every_stage else []
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, seconds = conversation(folder, minutes)
        parts = parts_of(paths, stages)
        overrides = () if every_stage else FAST + (FINGERPRINT if fingerprint else ())
        # A first run loads the libraries, which were loaded for the parts too.
        steps_of(Lake.at(str(folder / "warm-up")), paths[:1], overrides)
        steps = steps_of(Lake.at(str(folder / "lake")), paths, overrides)
    print(f"{seconds / 60:g} minutes of conversation, 16 kHz FLAC; audio seconds per CPU second")
    for part, spent in parts.items():
        print(f"  {part:<26}{seconds / spent:>10,.0f}")
    floor = parts["decode + signal"] + parts["decode for the encoder"] + parts["log-mel"]
    floor += sum(parts[stage] for stage in stages)
    print(f"  {'sum of the parts':<26}{seconds / floor:>10,.0f}")
    for step, spent in steps.items():
        print(f"  run: {step:<21}{seconds / spent:>10,.0f}")
    total = sum(steps.values())
    print(f"  {'run: all':<26}{seconds / total:>10,.0f}   {100 * floor / total:.0f} % of the sum of the parts")
    bare = parts["decode"] + parts["log-mel"] + sum(parts[stage] for stage in stages)
    print(f"  {'one decode, stages, log-mel':<27}{seconds / bare:>9,.0f}   {100 * bare / total:.0f} % of it")


if __name__ == "__main__":
    main()

"""Hours of audio per GPU hour: diarization and language on CUDA, by precision and batch, against the CPU's own rows.

`bench_gpu.py cpu` runs the same on a CPU over little sound, to see that it would run.
"""

import functools
import os
import platform
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import torch
from sounds import RECORDINGS, ArraySound, packaged_conversation

from pipelines.stages.base import Stage
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.batches import together

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cuda"
MINUTES, ROUNDS, SHORT = (30, 3, 256) if DEVICE == "cuda" else (1, 1, 8)
SHORT_S = 15.0
"""SHORT recordings of this length make the case in which recordings share calls."""


def conversation() -> ArraySound:
    """Half an hour, as the usual recording: the call of the test recordings, else the sample of pyannote.audio."""
    call = RECORDINGS / "lca_calls" / "lca_40_mix16k.flac"
    samples = ArraySound.from_file(call if call.is_file() else packaged_conversation()).samples[:1]
    return ArraySound(np.resize(samples, (1, MINUTES * 60 * 16000)))


def active(row: dict) -> np.ndarray:
    """Whether each speaker, in order of their speech, is heard in each 10 ms."""
    found = np.zeros((max(1, row["num_speakers"]), MINUTES * 6000), bool)
    for turn in row["turns"]:
        found[int(turn["speaker"][-2:]), round(turn["start_s"] * 100) : round(turn["end_s"] * 100)] = True
    return found[np.argsort(-found.sum(axis=1))]


def differ(one: dict, other: dict) -> str:
    first, second = active(one), active(other)
    if first.shape != second.shape:
        return f"{len(second)} speakers, not {len(first)}"
    return f"{(first != second).mean():.2%} of 10 ms differ"


def rate(stage: Stage, sounds: list[ArraySound], known: list[dict]) -> tuple[list[dict], float, float]:
    """The rows, and the lowest and highest hours of audio an hour over ROUNDS, one before not counted."""
    jobs = [functools.partial(stage.annotate, *both) for both in zip(sounds, known, strict=True)]
    found = []
    for _ in range(ROUNDS + 1):
        begun = time.monotonic()
        batches = [jobs[start : start + stage.at_once] for start in range(0, len(jobs), stage.at_once)]
        rows = [row for batch in batches for row in together(batch)]  # rows are on the CPU: nothing is left to wait for
        found.append(sum(sound.num_samples for sound in sounds) / 16000 / (time.monotonic() - begun))
    return rows, min(found[1:]), max(found[1:])


def main() -> None:
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return
    print(torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor())
    sound = conversation()
    length = round(SHORT_S * 16000)
    starts = np.linspace(0, sound.num_samples - length, SHORT).astype(int)
    short = [ArraySound(sound.samples[:, start : start + length], f"{start}") for start in starts]
    vad = Vad(VadConfig())
    vad.setup()
    known, short_known = [{"vad": vad.annotate(sound, {})}], [{"vad": vad.annotate(one, {})} for one in short]
    reference = Diarize(DiarizeConfig())
    reference.setup()
    expected = reference.annotate(sound, known[0])
    for precision in ("float32", "float16") if DEVICE == "cuda" else ("float32",):
        for batch_size in (32, 128, 512):
            if DEVICE == "cuda":
                torch.cuda.reset_peak_memory_stats()
            stage = Diarize(DiarizeConfig(device=DEVICE, precision=precision, batch_size=batch_size))
            stage.setup()
            (row,), low, high = rate(stage, [sound], known)
            peak_gb = torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else 0.0
            name = f"diarize, {precision}, {batch_size} windows"
            print(f"{name:<40}{low:>7.0f} to {high:.0f} h/h, {peak_gb:.1f} GB; from the CPU's: {differ(expected, row)}")
    for at_once in (1, 8, 64):
        stage = Diarize(DiarizeConfig(device=DEVICE, batch_size=512, recordings_at_once=at_once))
        stage.setup()
        _, low, high = rate(stage, short, short_known)
        print(f"{f'diarize, {SHORT_S:.0f} s recordings, {at_once} at once':<40}{low:>7.0f} to {high:.0f} h/h")
    listener = Language(LanguageConfig())
    listener.setup()
    expected = listener.annotate(sound, known[0])
    for compute_type in ("float32", "float16", "int8_float16") if DEVICE == "cuda" else ("float32",):
        for batch_size in (1, 8):
            hearing = Language(LanguageConfig(device=DEVICE, compute_type=compute_type, batch_size=batch_size))
            hearing.setup()
            (row,), low, high = rate(hearing, [sound], known)
            moved = abs(row["language_confidence"] - expected["language_confidence"])
            same = "same language" if row["language"] == expected["language"] else "ANOTHER LANGUAGE"
            name = f"language, {compute_type}, {batch_size} windows"
            print(f"{name:<40}{low:>7.0f} to {high:.0f} h/h; from the CPU's: {same}, confidence moved {moved:.1e}")
    for at_once in (1, 8, 64):
        compute_type = "float16" if DEVICE == "cuda" else "float32"
        hearing = Language(
            LanguageConfig(device=DEVICE, compute_type=compute_type, batch_size=64, recordings_at_once=at_once)
        )
        hearing.setup()
        _, low, high = rate(hearing, short, short_known)
        print(f"{f'language, {SHORT_S:.0f} s recordings, {at_once} at once':<40}{low:>7.0f} to {high:.0f} h/h")


if __name__ == "__main__":
    main()

"""Hours of audio per GPU hour: diarization and language on CUDA, by precision and batch, against the CPU's own rows."""

import importlib.util
import os
import platform
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from sounds import ArraySound

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig

MINUTES = 30
ROUNDS = 3


def conversation() -> ArraySound:
    """Half an hour, as the usual recording: the call of the test recordings, else the sample of pyannote.audio."""
    folder = Path(os.environ.get("SPEECHMILL_TEST_AUDIO", Path(__file__).parents[3] / "shared" / "audio"))
    path = folder / "lca_calls" / "lca_40_mix16k.flac"
    if not path.is_file():
        (package,) = importlib.util.find_spec("pyannote.audio").submodule_search_locations
        path = Path(package) / "sample" / "sample.wav"
    samples = ArraySound.from_file(path).samples[:1]
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


def rate(stage: object, sound: ArraySound, known: dict) -> tuple[dict, float, float]:
    """The row, and the lowest and highest hours of audio an hour over ROUNDS, one before not counted."""
    row, found = stage.annotate(sound, known), []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begun = time.monotonic()
        row = stage.annotate(sound, known)
        torch.cuda.synchronize()
        found.append(MINUTES * 60 / (time.monotonic() - begun))
    return row, min(found), max(found)


def main() -> None:
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return
    print(torch.cuda.get_device_name())
    sound = conversation()
    vad = Vad(VadConfig())
    vad.setup()
    known = {"vad": vad.annotate(sound, {})}
    reference = Diarize(DiarizeConfig())
    reference.setup()
    expected = reference.annotate(sound, known)
    for precision in ("float32", "float16"):
        for batch_size in (32, 128, 512):
            torch.cuda.reset_peak_memory_stats()
            stage = Diarize(DiarizeConfig(device="cuda", precision=precision, batch_size=batch_size))
            stage.setup()
            row, low, high = rate(stage, sound, known)
            peak_gb = torch.cuda.max_memory_allocated() / 1e9
            name = f"diarize, {precision}, {batch_size} windows"
            print(f"{name:<34}{low:>7.0f} to {high:.0f} h/h, {peak_gb:.1f} GB; from the CPU's: {differ(expected, row)}")
    reference = Language(LanguageConfig())
    reference.setup()
    expected = reference.annotate(sound, known)
    for compute_type in ("float32", "float16", "int8_float16"):
        for batch_size in (1, 8):
            stage = Language(LanguageConfig(device="cuda", compute_type=compute_type, batch_size=batch_size))
            stage.setup()
            row, low, high = rate(stage, sound, known)
            moved = abs(row["language_confidence"] - expected["language_confidence"])
            same = "same language" if row["language"] == expected["language"] else "ANOTHER LANGUAGE"
            name = f"language, {compute_type}, {batch_size} windows"
            print(f"{name:<34}{low:>7.0f} to {high:.0f} h/h; from the CPU's: {same}, confidence moved {moved:.1e}")


if __name__ == "__main__":
    main()

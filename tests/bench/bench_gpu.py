"""Hours of audio per hour on one GPU: encoders, encoding from FLAC files, diarization and language. It takes six
minutes.

`--device cpu --tiny` runs everything with tiny models over little sound. The models of the encoders and Whisper
large-v3 have their full size and random weights. Each part runs in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import soundfile
import soxr
import torch
from sounds import ArraySound, packaged_conversation

import encoders
from encoders.base import Encoder
from manifests.lake import Lake
from pipelines.progress.watch import Watch
from pipelines.recipes import recipe as recipes
from pipelines.run import Run
from pipelines.stages.base import Stage
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.engines import Engine
from runtime.batches import run_batched

RATE = 16_000
WINDOW_S = 40.0
MODELS = {"mimi": "mimi", "encodec": "encodec 24 kHz", "dac": "dac 44.1 kHz"}
"""Encoders with weights, and the names of their models in `bench_encoders`."""


class Size(NamedTuple):
    """How much is measured."""

    tiny: bool
    rounds: int
    windows: int
    """Windows of WINDOW_S that encoders take from memory."""
    files: int
    file_s: float
    """Length of each FLAC file."""
    sound_s: float
    """Length of the conversation for diarization."""
    processes: tuple[int, ...]
    short: int
    """Recordings of 15 s that share calls."""


FULL = Size(False, 3, 64, 16, 900.0, 1800.0, (1, 6), 256)
TINY = Size(True, 1, 1, 1, 12.0, 10.0, (2,), 2)


def show(what: str, hours: float, seconds: float, note: str = "") -> None:
    print(f"{what:<46}{hours * 3600 / seconds:>12,.1f} h/h {note}".rstrip(), flush=True)


def sound_of(seconds: float, rate: int = RATE, shift: int = 0) -> np.ndarray:
    """Return the packaged conversation, repeated to `seconds` from the sample `shift` on: float32 (samples,)."""
    samples = ArraySound.from_file(packaged_conversation()).samples[0]
    found: np.ndarray = np.resize(np.roll(samples, -shift), round(seconds * RATE))
    return found if rate == RATE else soxr.resample(found, RATE, rate)


def save(name: str, folder: Path, tiny: bool) -> dict[str, Any]:
    """Save a model with random weights to a folder. Returns the settings of its encoder; none for log-mel."""
    if name not in MODELS:
        return {}
    torch.manual_seed(0)
    if tiny:
        import tiny_models

        tiny_models.TINY[name].save(folder)
    else:
        from bench_encoders import save as save_full

        save_full(MODELS[name], folder)
    return {"model": str(folder)}


def timed(job: Callable[[], Any], rounds: int) -> float:
    """Return the fewest seconds of some rounds, after one to warm up. The job must return its result to the CPU."""
    found = []
    for _ in range(rounds + 1):
        begun = time.monotonic()
        job()
        found.append(time.monotonic() - begun)
    return min(found[1:])


def of_encoders(device: str, size: Size, folder: Path) -> None:
    """Encode windows from memory with each encoder in each precision; log-mel with torch in float64."""
    for name in ("logmel", *MODELS):
        settings = save(name, folder / name, size.tiny) | {"device": device}
        for precision in ("float32", "bfloat16") if name in MODELS else ("float64",):
            given = {"precision": precision} if name in MODELS else {}
            encoder = encoders.load(name, settings | given)
            encoder.setup()
            if isinstance(encoder, encoders.find("logmel")) and device == "cpu":
                encoder.use_torch("cpu", 1)  # type: ignore[attr-defined]
            windows = list(_windows(encoder, size.windows, 1.0 if size.tiny else WINDOW_S))
            hours = sum(window.frames for window in windows) / encoder.frame_rate / 3600
            seconds = timed(functools.partial(encoder.encode, windows), size.rounds)
            show(f"{name}, {precision}, from memory", hours, seconds)


def _windows(encoder: Encoder, count: int, seconds: float) -> Iterator[Any]:
    sound = sound_of(seconds + 60, encoder.sample_rate)[None]
    first = encoder.frames(round(25 * encoder.sample_rate))
    for number in range(count):
        yield encoder.cut(np.roll(sound, 1000 * number, axis=1), first, int(seconds * encoder.frame_rate))


def of_files(device: str, size: Size, folder: Path) -> None:
    """Encode FLAC files to shards with the pipeline: one worker in this process, and several for log-mel."""
    sounds = folder / "in"
    sounds.mkdir()
    for number in range(size.files):
        soundfile.write(sounds / f"{number}.flac", sound_of(size.file_s, shift=1 + 977 * number), RATE)
    hours = size.files * size.file_s / 3600
    cases = [(name, 1) for name in ("logmel", *MODELS)] + [("logmel", os.cpu_count() or 1)] * (not size.tiny)
    for name, count in cases:
        model = folder / name
        settings = save(name, model, size.tiny) if not model.is_dir() else {"model": str(model)}
        settings |= {"device": device}
        tables = {"encoder": name, "on_grid": name == "logmel", "shard_mb": 5.0, "settings": settings}
        select = (
            {"context_s": 10.0, "continuation_s": WINDOW_S - 10.0}
            if not size.tiny
            else {"context_s": 2.0, "continuation_s": 4.0}
        )
        recipe = recipes.parse({"name": f"bench-{count}", "select": select, "encode": tables})
        lake = Lake.at(str(folder / "lake"))
        with Watch(lake.storage, "bench_gpu", recipe.resolved, quiet=True) as watch:
            run = Run(recipe, lake, watch, Engine(workers=(count, count)))
            run.ingest([str(sounds)])
            list(run.annotate())
            run.select()
            begun = time.monotonic()
            (made,) = run.encode()
            seconds = time.monotonic() - begun
        if not made.version.frames:
            raise SystemExit(f"{name}: the dataset has no frames")
        note = "with the start of workers" if count > 1 else "with the loading of the model"
        show(f"{name}, from {size.files} FLAC files, {count} workers", hours, seconds, note)


def of_diarization(device: str, size: Size, folder: Path) -> None:
    """Diarize a conversation in one process and in several on the same device, and short recordings in shared
    batches."""
    for count in size.processes:
        context = multiprocessing.get_context("spawn")
        ready, found = context.Barrier(count), context.Queue()
        given = (device, size.sound_s, size.rounds, ready, found)
        processes = [context.Process(target=_diarize, args=given) for _ in range(count)]
        for process in processes:
            process.start()
        slowest = max(found.get(timeout=170) for _ in processes)
        for process in processes:
            process.join()
        show(f"diarize, {count} processes, start-up apart", count * size.rounds * size.sound_s / 3600, slowest)
    _short("diarize", lambda at_once: Diarize(DiarizeConfig(device=device, recordings_at_once=at_once)), size)


def _diarize(device: str, seconds: float, rounds: int, ready: Any, found: Any) -> None:
    """Diarize in one of several processes, which all start when their models are loaded."""
    sound, vad = ArraySound(sound_of(seconds)), Vad(VadConfig())
    vad.setup()
    known = {"vad": vad.annotate(sound, {})}
    stage = Diarize(DiarizeConfig(device=device, batch_size=128 if device == "cuda" else 32))
    stage.setup()
    stage.annotate(sound, known)
    ready.wait(timeout=160)
    begun = time.monotonic()
    for _ in range(rounds):
        stage.annotate(sound, known)
    found.put(time.monotonic() - begun)


def of_language(device: str, size: Size, folder: Path) -> None:
    """Identify languages with Whisper large-v3 in transformers."""
    model = str(_whisper(folder / "whisper", size.tiny))
    precision = "float16" if device == "cuda" else "float32"
    made = functools.partial(LanguageConfig, model=model, device=device, compute_type=precision, batch_size=64)
    _short(f"language, {precision}", lambda at_once: Language(made(recordings_at_once=at_once)), size)


def _whisper(folder: Path, tiny: bool) -> Path:
    """Save a model with random weights in the layout of openai/whisper-large-v3."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    width, layers, heads = (64, 2, 2) if tiny else (1280, 32, 20)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=51_866, num_mel_bins=128, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, decoder_start_token_id=50_258, pad_token_id=50_256, bos_token_id=50_257,
        eos_token_id=50_257, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    WhisperForConditionalGeneration(config).half().save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["lang_to_id"] = {f"<|{code}|>": 50_259 + number for number, code in enumerate(LANGUAGES)}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    return folder


def _short(name: str, make: Callable[[int], Stage], size: Size) -> None:
    """Process recordings of 15 s, one by one and in shared batches."""
    sounds = [ArraySound(sound_of(15.0, shift=1 + 977 * number), f"{number}") for number in range(size.short)]
    vad = Vad(VadConfig())
    vad.setup()
    known = [{"vad": vad.annotate(sound, {})} for sound in sounds]
    for at_once in (2,) if size.tiny else (1, 16, 64):
        stage = make(at_once)
        stage.setup()
        jobs = [functools.partial(stage.annotate, *both) for both in zip(sounds, known, strict=True)]

        def work(jobs: list[Any] = jobs, at_once: int = at_once) -> None:
            for first in range(0, len(jobs), at_once):
                run_batched(jobs[first : first + at_once])

        show(f"{name}, 15 s recordings, {at_once} at once", size.short * 15 / 3600, timed(work, size.rounds))


PARTS: dict[str, tuple[Callable[[str, Size, Path], None], int]] = {
    "encoders": (of_encoders, 90), "files": (of_files, 90), "diarization": (of_diarization, 110),
    "language": (of_language, 70),
}  # fmt: skip
"""The function of each part, and its time limit in seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run: {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use tiny models and little sound")
    parser.add_argument("--here", action="store_true", help="run in this process, without a time limit")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {min(unknown)}; choose from: {', '.join(PARTS)}")
    if given.here:
        for part in given.parts or PARTS:
            with tempfile.TemporaryDirectory() as folder:
                PARTS[part][0](given.device, TINY if given.tiny else FULL, Path(folder))
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return
    print(torch.cuda.get_device_name() if given.device == "cuda" else platform.processor(), flush=True)
    failed = []
    for part in given.parts or PARTS:
        command = [sys.executable, __file__, part, "--here", "--device", given.device, *["--tiny"] * given.tiny]
        try:
            done = subprocess.run(command, timeout=PARTS[part][1]).returncode == 0
        except subprocess.TimeoutExpired:
            print(f"{part}: ended after {PARTS[part][1]} s", flush=True)
            done = False
        failed += [part] * (not done)
    if failed:
        sys.exit(f"failed or timed out: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""Peak resident memory after each step of a run over one long recording: ingest, annotate, select and encode.

The recording is made on the fly: an MP3 file that repeats the frames of a real conversation.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import soundfile
from sounds import packaged_conversation

from manifests.lake import Lake
from pipelines.audio.decode import Decoder
from pipelines.progress.watch import Watch
from pipelines.recipes.recipe import parse
from pipelines.run import Run

STAGES = ("vad", "diarize", "language", "quality")


def make_long(path: Path, speech: Path, hours: float) -> None:
    """Write an MP3 of about `hours` that repeats `speech`, mono or stereo. Only one copy is held in memory."""
    decoder = Decoder(str(speech))
    once = path.with_name("once.mp3")
    with soundfile.SoundFile(once, "w", decoder.sample_rate, decoder.channels) as file:
        num_samples = 0
        for block in decoder:
            file.write(block.T)
            num_samples += block.shape[1]
    duration_s = num_samples / decoder.sample_rate
    with path.open("wb") as file:
        for _ in range(max(1, round(3600 * hours / duration_s))):
            with once.open("rb") as copied:
                shutil.copyfileobj(copied, file)
    once.unlink()


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=10.0, help="length of the recording")
    parser.add_argument("--stages", default="vad", help=f"stages to run, vad among them: {','.join(STAGES)}")
    parser.add_argument("--speech", type=Path, default=packaged_conversation(), help="file to repeat to that length")
    arguments = parser.parse_args()
    stages = arguments.stages.split(",")
    raw = {"name": "long", "annotate": {name: {} for name in STAGES if name in stages}}
    recipe = parse(raw | {"encode": {"encoder": "logmel", "shard_mb": 1000.0}})
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, stages {', '.join(stages)}"
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "long.mp3"
        make_long(path, arguments.speech, arguments.hours)
        lake = Lake.at(str(Path(folder) / "lake"))
        watch = stack.enter_context(Watch(lake.storage, "memory_long", {}, quiet=True))
        run = Run(recipe, lake, watch)
        print(f"{'step':<10}{'peak MiB':>10}{'CPU s':>10}{'s':>10}")
        print(f"{'start':<10}{peak_mib():>10,.0f}")
        annotated: list[Any] = []
        encoded: list[Any] = []
        steps: dict[str, Callable[[], object]] = {
            "ingest": lambda: run.ingest([str(path)]),
            "annotate": lambda: annotated.extend(run.annotate()),
            "select": run.select,
            "encode": lambda: encoded.extend(run.encode()),
        }
        for name, step in steps.items():
            cpu, begun = time.process_time(), time.perf_counter()
            step()
            spent = (time.process_time() - cpu, time.perf_counter() - begun)
            print(f"{name:<10}{peak_mib():>10,.0f}{spent[0]:>10.1f}{spent[1]:>10.1f}", flush=True)
        for unit in annotated:
            print(f"annotated {unit.done_s / 3600:.2f} h, {unit.failed} failed")
        print(f"encoded {encoded[0].version.frames:,} frames")


if __name__ == "__main__":
    main()

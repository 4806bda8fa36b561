"""Speed of voice activity detection on one thread, compared with Silero's own JIT and streaming ONNX models."""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import silero_vad
import torch
from sounds import ArraySound, packaged_conversation

from pipelines.stages.vad import Vad, VadConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of the 30 s conversation")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is printed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sound = ArraySound(np.tile(ArraySound.from_file(packaged_conversation()).samples, arguments.repeats))
    seconds = sound.num_samples / 16000
    stage = Vad(VadConfig())
    stage.setup()
    jit, streaming = silero_vad.load_silero_vad(), silero_vad.load_silero_vad(onnx=True)
    waveform = torch.from_numpy(sound.samples[0])
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    upstream = ("upstream JIT", "upstream streaming ONNX")
    rates: dict[str, list[float]] = {name: [] for name in ("speechmill", *upstream)}
    for _ in range(arguments.rounds):
        for name, run in (
            ("speechmill", lambda: stage.annotate(sound, {})),
            (upstream[0], lambda: silero_vad.get_speech_timestamps(waveform, jit)),
            (upstream[1], lambda: silero_vad.get_speech_timestamps(waveform, streaming)),
        ):
            begun = time.process_time()
            run()
            rates[name].append(seconds / (time.process_time() - begun))
    for name, found in rates.items():
        print(f"{name:<25}{np.median(found):>8.0f} audio s per CPU s (from {min(found):.0f} to {max(found):.0f})")
    for name in upstream:
        ratios = [ours / theirs for ours, theirs in zip(rates["speechmill"], rates[name], strict=True)]
        print(f"speechmill over {name}: {np.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

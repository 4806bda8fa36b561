"""Speed of each neural encoder on one core, with random weights in the default configuration of its library.

A window in the middle of a recording is encoded twice, with its whole look-back and look-ahead, and the second time is
measured. The models are saved to a temporary folder one after another; the largest has 2.7 GB.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import encoders
from encoders.neural import NeuralEncoder

MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "pocket": ("pocket", "transformers", "PocketTTSAudioTokenizer", {}),
    "mimi": ("mimi", "transformers", "Mimi", {}),
    "vibevoice": ("vibevoice", "transformers", "VibeVoiceAcousticTokenizer", {}),
    "encodec 24 kHz": ("encodec", "transformers", "Encodec", {}),
    "encodec 48 kHz": (
        "encodec", "transformers", "Encodec",
        {"sampling_rate": 48_000, "audio_channels": 2, "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01,
         "norm_type": "time_group_norm", "use_causal_conv": False},
    ),
    "dac 44.1 kHz": (
        "dac", "transformers", "Dac", {"downsampling_ratios": [2, 4, 8, 8], "sampling_rate": 44_100}
    ),
    "oobleck": ("oobleck", "diffusers", "AutoencoderOobleck", {}),
    "same": ("same", "diffusers", "AutoencoderSAME", {}),
    "longcat": ("longcat", "diffusers", "LongCatAudioDiTVae", {"strides": [2, 4, 4, 8, 8]}),
    "wav2vec2 base": ("hidden", "transformers", "Wav2Vec2", {}),
    "hubert base": ("hidden", "transformers", "Hubert", {}),
    "wavlm base": ("hidden", "transformers", "WavLM", {}),
    "w2v-bert 2.0": ("hidden", "transformers", "Wav2Vec2Bert", {}),
}  # fmt: skip
"""The encoder, library, class, and changes to the default configuration, by the name of the model."""


def save(name: str, folder: Path) -> None:
    """Save a model of full size with random weights in the format of its library."""
    encoder, library, class_name, different = MODELS[name]
    module = __import__(library)
    torch.manual_seed(0)
    if library == "diffusers":
        model = getattr(module, class_name)(**different)
    else:
        model = getattr(module, f"{class_name}Model")(getattr(module, f"{class_name}Config")(**different))
    model.save_pretrained(folder)
    if encoder == "hidden":
        kind = "SeamlessM4TFeatureExtractor" if class_name == "Wav2Vec2Bert" else "Wav2Vec2FeatureExtractor"
        getattr(module, kind)().save_pretrained(folder)


def measure(name: str, seconds: float) -> str:
    """Measure a model. Returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        save(name, Path(folder))
        encoder = encoders.load(MODELS[name][0], {"model": folder, "device": "cpu"})
        encoder.setup()
    assert isinstance(encoder, NeuralEncoder)
    rate = encoder.sample_rate
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, round((seconds + 50) * rate)))
    window = encoder.cut(noise.astype(np.float32), encoder.frames(25 * rate), encoder.frames(round(seconds * rate)))
    for _ in range(2):
        cpu = time.process_time()
        (features,) = encoder.encode([window])
        cpu = time.process_time() - cpu
    size = sum(parameter.numel() for parameter in encoder.module.parameters()) / 1e6
    encoded_s = features.shape[1] / encoder.frame_rate
    back, ahead = encoder.look_back_samples / rate, encoder.look_ahead_samples / rate
    grid = f"{encoder.frame_rate:8.2f} {encoder.dim:6} {back:7.2f} {ahead:7.2f}"
    return f"{name:15} {size:9.1f} {grid} {encoded_s / cpu:10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the window")
    parser.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS), metavar="NAME", help="models")
    arguments = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, float32, random weights"
    )
    print(f"{'encoder':15} {'million':>9} {'frames/s':>8} {'values':>6} {'back s':>7} {'ahead s':>7} {'s a CPU s':>10}")
    for name in arguments.only:
        print(measure(name, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()

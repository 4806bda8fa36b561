"""Speed of the log-mel encoder on one core, compared with librosa and torchaudio in the same run.

Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from encoders.base import WindowSound
from encoders.logmel import LogMel
from encoders.mel import LogMelConfig

Transform = Callable[[np.ndarray], np.ndarray]


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def one_thread() -> Iterator[str]:
    """Limit every thread pool to one thread, if threadpoolctl is installed. Yields the means that was used."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ModuleNotFoundError:
        yield f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset, set it to 1')}"
        return
    with threadpoolctl.threadpool_limits(1):
        yield "threadpoolctl"


def ours(config: LogMelConfig) -> Transform:
    encoder = LogMel(config)
    margin = encoder.look_back_samples

    def transform(padded: np.ndarray) -> np.ndarray:
        frames = (padded.size - 2 * margin) // encoder.hop_samples
        (features,) = encoder.encode([WindowSound(padded[None], margin, frames)])
        return features[0]

    return transform


def librosa_logmel(config: LogMelConfig) -> Transform:
    import librosa

    def transform(padded: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=padded,
            sr=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_samples,
            win_length=config.window_samples,
            n_mels=config.num_mels,
            fmin=config.fmin_hz,
            fmax=config.fmax_hz,
            power=1.0,
            center=False,
        )
        return np.log(np.maximum(mel, config.floor)).T

    return transform


def torchaudio_logmel(config: LogMelConfig) -> Transform:
    import torch
    import torchaudio

    torch.set_num_threads(1)
    melspectrogram = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        f_min=config.fmin_hz,
        f_max=config.fmax_hz,
        n_mels=config.num_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        center=False,
    )

    def transform(padded: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return melspectrogram(torch.from_numpy(padded)).clamp_min(config.floor).log().T.numpy()

    return transform


def cpu_times_s(transforms: dict[str, Transform], sound: np.ndarray, repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each run. The transforms take turns, so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in transforms}
    for _ in range(repeats):
        for name, transform in transforms.items():
            start = time.process_time()
            transform(sound)
            taken[name].append(time.process_time() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the sound, s")
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns; printed are the fastest, the median and the median of the ratios"
    )
    arguments = parser.parse_args()
    config = LogMelConfig()
    num_frames = int(arguments.seconds * config.sample_rate) // config.hop_samples
    padded_samples = num_frames * config.hop_samples + config.n_fft
    sound = (0.1 * np.random.default_rng(0).standard_normal(padded_samples)).astype(np.float32)
    seconds = num_frames * config.hop_samples / config.sample_rate

    versions = [f"python {platform.python_version()}"]
    for package in ("numpy", "scipy", "librosa", "torch", "torchaudio"):
        with contextlib.suppress(ModuleNotFoundError):
            versions.append(f"{package} {importlib.import_module(package).__version__}")
    makers = {"encoders.logmel": ours, "librosa": librosa_logmel, "torchaudio": torchaudio_logmel}
    with one_thread() as means:
        print(f"hardware  {cpu_name()}, {os.cpu_count()} cores, one thread ({means}); {platform.platform()}")
        print(f"versions  {', '.join(versions)}")
        print(f"input     {seconds:.1f} s of white noise at {config.sample_rate} Hz, {arguments.repeats} turns")
        print(
            f"{'CPU time':18}{'s':>9}{'x real time':>13}{'median':>9}{'us/frame':>10}{'ours is':>10}{'max |diff|':>12}"
        )
        transforms, features = {}, {}
        for name, make in makers.items():
            try:
                transforms[name] = make(config)
                features[name] = transforms[name](sound)[:num_frames]  # compiles, caches, warms up
            except ModuleNotFoundError as error:
                print(f"{name:18}not installed ({error.name})")
                transforms.pop(name, None)
        taken = cpu_times_s(transforms, sound, arguments.repeats)
        first = next(iter(transforms))
        for name, times in taken.items():
            ratio = np.median(np.divide(times, taken[first]))
            print(
                f"{name:18}{min(times):9.4f}{seconds / min(times):13.0f}{seconds / np.median(times):9.0f}"
                f"{min(times) / num_frames * 1e6:10.2f}{ratio:9.2f}x"
                f"{np.abs(features[name] - features[first]).max():12.1e}"
            )


if __name__ == "__main__":
    main()

"""Speed of decoding, signal measures and resampling, compared with plain PyAV and soundfile: audio seconds per CPU
second.

Each round measures everything for one format in turn, so that a busy machine slows all alike. The table has the medians
of the rounds; the ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import av
import numpy as np
import soundfile
from sounds import packaged_conversation

from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled
from pipelines.audio.signal import SignalMeter

FORMATS = {
    "wav 16k mono": ("wav", "pcm_s16le", 16000, 1),
    "wav 8k stereo": ("wav", "pcm_s16le", 8000, 2),
    "wav 44.1k stereo": ("wav", "pcm_s16le", 44100, 2),
    "flac 16k mono": ("flac", "flac", 16000, 1),
    "flac 44.1k stereo": ("flac", "flac", 44100, 2),
    "mp3 44.1k stereo": ("mp3", "libmp3lame", 44100, 2),
    "m4a 44.1k stereo": ("m4a", "aac", 44100, 2),
    "opus 48k mono": ("opus", "libopus", 48000, 1),
}
SOUNDFILE_READS = ("wav", "flac", "mp3", "opus")


def encoded(path: Path, speech: np.ndarray, rate: int, codec: str, channels: int) -> None:
    """Encode speech, (samples,) at 16 kHz, at another rate. The second channel is delayed by half a second."""
    mono = np.concatenate(list(resampled([speech[None]], 16000, rate)), axis=1)
    sound = np.concatenate([mono, np.roll(mono, rate // 2, axis=1)])[:channels].clip(-1, 1)
    layout = ("mono", "stereo")[channels - 1]
    if codec in ("pcm_s16le", "flac"):
        soundfile.write(path, sound.T, rate, subtype="PCM_16")
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.astype(np.float32)), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, layout, rate)
        for part in resampler.resample(frame):
            fifo.write(part)
        while full := fifo.read(stream.codec_context.frame_size, partial=True):
            container.mux(stream.encode(full))
        container.mux(stream.encode(None))


def plain_pyav(path: Path) -> None:
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            frame.to_ndarray()


def read_by_soundfile(path: Path) -> None:
    with soundfile.SoundFile(path) as file:
        while len(file.read(1 << 18, dtype="float32", always_2d=True)):
            pass


def drain(blocks: Iterable[np.ndarray]) -> None:
    for _ in blocks:
        pass


def measured(decoder: Decoder) -> Iterator[np.ndarray]:
    meter = SignalMeter(decoder.sample_rate, decoder.channels, decoder.channel_layout)
    for block in decoder:
        meter.push(block)
        yield block
    meter.finish()


def runs(path: Path) -> dict[str, Callable[[], None]]:
    def at(rate: int) -> Callable[[], None]:
        decoder = Decoder(str(path))
        return lambda: drain(resampled(decoder, decoder.sample_rate, rate))

    found: dict[str, Callable[[], None]] = {"PyAV": lambda: plain_pyav(path)}
    if path.suffix[1:] in SOUNDFILE_READS:
        found["soundfile"] = lambda: read_by_soundfile(path)
    return found | {
        "decode": lambda: drain(Decoder(str(path))),
        "+ signal": lambda: drain(measured(Decoder(str(path)))),
        "+ to 16 k": lambda: at(16000)(),
        "+ to 24 k": lambda: at(24000)(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the sound")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds")
    parser.add_argument("--speech", type=Path, default=packaged_conversation(), help="file to repeat to that length")
    arguments = parser.parse_args()
    decoder = Decoder(str(arguments.speech))
    speech = np.concatenate(list(resampled(decoder, decoder.sample_rate, 16000)), axis=1)[0]
    speech = np.resize(speech, arguments.seconds * 16000)
    versions = f"Python {platform.python_version()}, av {av.__version__}, numpy {np.__version__}"
    print(f"{platform.processor() or platform.machine()}, one thread, {versions}, soundfile {soundfile.__version__}")
    columns = ("PyAV", "soundfile", "decode", "+ signal", "+ to 16 k", "+ to 24 k")
    print(f"{'audio s per CPU s':<19}" + "".join(f"{name:>11}" for name in columns) + "   decode over PyAV")
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, codec, rate, channels) in FORMATS.items():
            path = Path(folder) / f"x.{suffix}"
            encoded(path, speech, rate, codec, channels)
            taken: dict[str, list[float]] = {}
            for _ in range(arguments.repeats):
                for what, run in runs(path).items():
                    begun = time.process_time()
                    run()
                    taken.setdefault(what, []).append(time.process_time() - begun)
            rates = {what: arguments.seconds / float(np.median(times)) for what, times in taken.items()}
            ratio = np.median(np.divide(taken["PyAV"], taken["decode"]))
            cells = "".join(f"{rates[what]:>11,.0f}" if what in rates else f"{'':>11}" for what in columns)
            print(f"{name:<19}{cells}{ratio:>19.2f}")


if __name__ == "__main__":
    main()

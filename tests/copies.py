"""Distortions that copies of a sound may have: codecs, rates, levels, equalisation, compression, noise and speeds."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import soxr
from scipy.signal import lfilter

RATE = 16000


def coded(samples: np.ndarray, rate: int, codec: str, container: str, bit_rate: int) -> np.ndarray:
    """Encode and decode float32 (samples,) at 16 kHz with a codec. Returns them at 16 kHz."""
    given = soxr.resample(samples, RATE, rate) if rate != RATE else samples
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        for frame in _frames(given, rate, stream.format.name, stream.codec_context.frame_size or 4096):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as heard:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        frames = [part for frame in heard.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate([part.to_ndarray()[0] for part in [*frames, *resampler.resample(None)]])


def filtered(samples: np.ndarray, name: str, settings: str) -> np.ndarray:
    """Apply a filter of FFmpeg to float32 (samples,) at 16 kHz."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="fltp", layout="mono")
    middle, sink = graph.add(name, settings), graph.add("abuffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    for frame in _frames(samples, RATE, "fltp", 4096):
        source.push(frame)
    source.push(None)
    made = []
    while True:
        try:
            made.append(sink.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            return np.concatenate(made)


def _frames(samples: np.ndarray, rate: int, form: str, size: int) -> list[av.AudioFrame]:
    """Return frames of a format and a size, with timestamps."""
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "fltp", "mono")
    whole.sample_rate = rate
    fifo, frames, position = av.AudioFifo(), [], 0
    for part in av.AudioResampler(form, "mono", rate).resample(whole):
        part.pts = None
        fifo.write(part)
    while frame := fifo.read(size, partial=True):
        frame.pts, frame.time_base = position, Fraction(1, rate)
        position += frame.samples
        frames.append(frame)
    return frames


def equalised(samples: np.ndarray) -> np.ndarray:
    """Cut 9 dB at 500 Hz and 3.5 kHz and boost 9 dB at 1.5 kHz, with peaking filters from RBJ's cookbook."""
    for centre_hz, gain_db in ((500, -9), (1500, 9), (3500, -9)):
        root, angle = 10 ** (gain_db / 40), 2 * np.pi * centre_hz / RATE
        width, middle = np.sin(angle) / 1.6, -2 * np.cos(angle)
        samples = lfilter(
            [1 + width * root, middle, 1 - width * root], [1 + width / root, middle, 1 - width / root], samples
        )
    return samples.astype(np.float32)


def noisy(samples: np.ndarray, snr_db: float, pink: bool = False) -> np.ndarray:
    """Add noise at a signal-to-noise ratio."""
    noise = np.random.default_rng(0).standard_normal(len(samples))
    if pink:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(samples))
    level = np.sqrt(np.square(samples, dtype=float).mean() / np.square(noise).mean() * 10 ** (-snr_db / 10))
    return (samples + level * noise).astype(np.float32)


def faster(samples: np.ndarray, speed: float) -> np.ndarray:
    """Change the speed, and with it the pitch."""
    resampled: np.ndarray = soxr.resample(samples, RATE * speed, RATE)
    return resampled


COPIES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "opus, 16 kbit/s": (lambda x: coded(x, 48000, "libopus", "ogg", 16_000), 1.0),
    "mp3, 64 kbit/s": (lambda x: coded(x, RATE, "libmp3lame", "mp3", 64_000), 1.0),
    "telephone, 8 kHz mu-law": (lambda x: coded(x, 8000, "pcm_mulaw", "wav", 64_000), 1.0),
    "8 kHz": (lambda x: coded(x, 8000, "pcm_s16le", "wav", 128_000), 1.0),
    "48 kHz": (lambda x: coded(x, 48000, "pcm_s16le", "wav", 768_000), 1.0),
    "20 dB softer": (lambda x: (np.round(x * 3276.8) / 32768).astype(np.float32), 1.0),
    "equalised": (equalised, 1.0),
    "compressed, 8 to 1": (
        lambda x: filtered(
            x / np.abs(x).max() * 0.9, "acompressor", "threshold=0.03:ratio=8:attack=5:release=80:makeup=4"
        ),
        1.0,
    ),
    "white noise, 15 dB": (lambda x: noisy(x, 15), 1.0),
    "pink noise, 15 dB": (lambda x: noisy(x, 15, pink=True), 1.0),
    "1 % faster, higher": (lambda x: faster(x, 1.01), 1.01),
    "1 % slower, lower": (lambda x: faster(x, 0.99), 0.99),
    "1 % faster, same pitch": (lambda x: filtered(x, "atempo", "1.01"), 1.01),
}
"""Each distortion with the factor by which it changes the speed."""

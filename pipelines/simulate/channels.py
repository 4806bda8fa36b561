"""Telephone bands and codecs, applied to streams of blocks. The delay of each is removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np

from pipelines.audio.resample import rechunk, resampled
from runtime.errors import SpeechmillError

TAPS = 511
BLOCK = 1 << 15
ANY_FRAME = 8000
"""Samples that are given to an encoder at once, if it accepts any number."""
PROBE_S, SEARCH_S = 2.0, 0.2
"""Length of the noise by which the delay of a codec is measured, and the longest delay that is considered."""


@dataclass(frozen=True)
class Codec:
    """A codec: the names of its encoder and decoder in FFmpeg, and the format of its input."""

    encoder: str
    decoder: str
    rate: int
    band_hz: tuple[float, float]
    bit_rate: int | None = None


NARROW, WIDE = (300.0, 3400.0), (50.0, 7000.0)
CODECS = {
    "mulaw": Codec("pcm_mulaw", "pcm_mulaw", 8000, NARROW),
    "alaw": Codec("pcm_alaw", "pcm_alaw", 8000, NARROW),
    "gsm": Codec("libgsm", "gsm", 8000, NARROW),
    "amr": Codec("libopencore_amrnb", "amrnb", 8000, NARROW, 12200),
    "opus": Codec("libopus", "opus", 16000, WIDE, 12000),
    "g722": Codec("g722", "g722", 16000, WIDE),
}
"""G.711 mu-law and A-law, GSM full rate, AMR-NB at 12.2 kbit/s, Opus at 12 kbit/s, G.722."""


def check_codecs(names: Iterable[str]) -> None:
    """Raise SpeechmillError for a codec whose encoder the installed FFmpeg lacks."""
    import av

    for name in names:
        codec = CODECS.get(name)
        try:
            if codec:
                av.codec.Codec(codec.encoder, "w")
        except av.codec.codec.UnknownCodecError as error:
            what = f"the codec {name}: FFmpeg, as PyAV brings it, has no encoder {codec and codec.encoder}"
            remedy = "choose another one, such as mulaw, alaw or g722, or install a PyAV that was built with it"
            raise SpeechmillError(what, remedy) from error


def coded(blocks: Iterable[np.ndarray], rate: int, name: str) -> Iterator[np.ndarray]:
    """Band-limit, encode and decode mono blocks (1, samples), without a change of their number or a delay."""
    codec = CODECS[name]
    return _aligned(blocks, rate, codec, _delay(codec, rate))


def band_passed(blocks: Iterable[np.ndarray], rate: int, band_hz: tuple[float, float]) -> Iterator[np.ndarray]:
    """Filter blocks (channels, samples) with a linear-phase band-pass (a windowed sinc), and remove its delay."""
    from scipy.signal import firwin, oaconvolve

    low, high = band_hz
    taps = firwin(TAPS, [low, min(high, 0.49 * rate)], pass_zero=False, fs=rate)[None].astype(np.float32)
    held: np.ndarray | None = None
    skip = TAPS // 2
    for block in blocks:
        if held is None:
            held = np.zeros((len(block), TAPS - 1), np.float32)
        held = np.concatenate([held, block], axis=1)
        out = oaconvolve(held, taps, mode="valid", axes=1)
        held = held[:, -(TAPS - 1) :]
        yield out[:, skip:].astype(np.float32)
        skip = max(0, skip - out.shape[1])
    if held is not None:
        rest = np.concatenate([held, np.zeros((len(held), TAPS // 2), np.float32)], axis=1)
        yield oaconvolve(rest, taps, mode="valid", axes=1)[:, skip:].astype(np.float32)


@cache
def _delay(codec: Codec, rate: int) -> int:
    """The delay of a codec in samples, by the maximum of the correlation between seeded noise and its output."""
    from scipy.signal import correlate

    noise = 0.1 * np.random.default_rng(0).normal(size=(1, round(PROBE_S * rate))).astype(np.float32)
    output = np.concatenate(list(_aligned(rechunk([noise], BLOCK), rate, codec, 0)), axis=1)
    band = np.concatenate(list(band_passed([noise], rate, codec.band_hz)), axis=1)
    related = correlate(output[0], band[0])[band.shape[1] - 1 :]
    return int(np.argmax(related[: round(SEARCH_S * rate)]))


def _aligned(blocks: Iterable[np.ndarray], rate: int, codec: Codec, delay: int) -> Iterator[np.ndarray]:
    """The output of a codec without its first `delay` samples, with as many samples as its input."""
    taken = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for block in blocks:
            taken += block.shape[1]
            yield block
        yield np.zeros((1, delay + round(SEARCH_S * rate)), np.float32)

    narrow = band_passed(resampled(counted(), rate, codec.rate), codec.rate, codec.band_hz)
    yielded, skip = 0, delay
    out = _through(narrow, codec)
    first = next(out)
    for block in resampled((block for _, block in itertools.chain([first], out)), first[0], rate):
        block, skip = block[:, skip:], max(0, skip - block.shape[1])
        # Until the input has ended, what comes out is not longer than what went in.
        block = block[:, : taken - yielded]
        yielded += block.shape[1]
        if block.shape[1]:
            yield block


def _through(blocks: Iterable[np.ndarray], codec: Codec) -> Iterator[tuple[int, np.ndarray]]:
    """Encode and decode blocks. Each result comes with the sample rate of the decoder."""
    import av

    from pipelines.audio.decode import to_float

    encoder = cast(av.AudioCodecContext, av.CodecContext.create(codec.encoder, "w"))
    encoder.sample_rate, encoder.layout, encoder.format = codec.rate, "mono", "s16"
    if codec.bit_rate:
        encoder.bit_rate = codec.bit_rate
    encoder.open()
    decoder = cast(av.AudioCodecContext, av.CodecContext.create(codec.decoder, "r"))
    decoder.sample_rate, decoder.layout, decoder.extradata = codec.rate, "mono", encoder.extradata
    size = encoder.frame_size or ANY_FRAME
    samples = (np.rint(np.clip(block, -1, 1) * 32767).astype(np.int16) for block in blocks)
    for block in itertools.chain(rechunk(samples, size), [None]):
        frame = None
        if block is not None:
            if block.shape[1] < size:  # the last one
                block = np.pad(block, ((0, 0), (0, size - block.shape[1])))
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = codec.rate
        for packet in encoder.encode(frame):
            for decoded in decoder.decode(packet):
                yield decoded.sample_rate, to_float([decoded])

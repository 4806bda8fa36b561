"""Decoding: any container to float32 blocks at its own rate with all its channels, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import av
import numpy as np
import soxr

from pipelines.audio.probe import audio_stream, open_container
from pipelines.errors import UnreadableAudioError

# Full scale of FFmpeg's sample formats; u8 is offset binary. Powers of two, so that 16 and 24 bits stay exact.
FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}

DTYPE = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


class Decoder:
    """One pass over a recording. Iterate it once; `decode_errors` counts the packets that did not decode.

    Yields float32 (channels, samples), full scale 1, of `block_samples` each but for the last. Raises
    UnreadableAudioError where nothing decodes, a sample is not finite, or rate or channels change on the way.
    """

    def __init__(self, path: str, block_samples: int = 1 << 18) -> None:
        self.path = path
        self.block_samples = block_samples
        self.container = open_container(path)
        self.stream = audio_stream(self.container, path)
        self.sample_rate = self.stream.codec_context.sample_rate
        self.channels = self.stream.codec_context.channels
        self.channel_layout = self.stream.codec_context.layout.name
        self.num_samples = 0
        self.decode_errors = 0
        self.decode_error: str | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.container:
            yield from rechunk(map(self._checked, self._frames()), self.block_samples)
        if not self.num_samples:
            detail = f": {self.decode_error}" if self.decode_error else ""
            raise UnreadableAudioError(f"{self.path!r}: not one sample decodes{detail}")

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:  # the container breaks off; what came before it counts
                self._note(error)
                return
            try:
                yield from packet.decode()
            except av.error.FFmpegError as error:  # one bad packet; decoding picks up at the next
                self._note(error)

    def _note(self, error: av.error.FFmpegError) -> None:
        self.decode_errors += 1
        self.decode_error = self.decode_error or f"{type(error).__name__}: {error.strerror}"

    def _checked(self, frame: av.AudioFrame) -> np.ndarray:
        channels = frame.layout.nb_channels
        if (frame.sample_rate, channels) != (self.sample_rate, self.channels):
            if not self.num_samples:  # the first frame knows better than the header
                self.sample_rate, self.channels = frame.sample_rate, channels
                self.channel_layout = frame.layout.name
            else:
                change = f"{self.sample_rate} Hz x {self.channels} to {frame.sample_rate} Hz x {channels}"
                at_s = self.num_samples / self.sample_rate
                raise UnreadableAudioError(
                    f"{self.path!r}: rate or channels change from {change} at {at_s:.2f} s", "split it there"
                )
        samples = to_float(frame)
        if not np.isfinite(samples).all():
            first = self.num_samples + int(np.argmin(np.isfinite(samples).all(axis=0)))
            raise UnreadableAudioError(
                f"{self.path!r}: samples that are not finite, the first at sample {first}",
                "export it again from its source",
            )
        self.num_samples += samples.shape[1]
        return samples


def to_float(frame: av.AudioFrame) -> np.ndarray:
    """A frame as float32 (channels, samples), full scale 1."""
    channels, kind = frame.layout.nb_channels, frame.format.name.removesuffix("p")
    dtype, scale = DTYPE[kind], FULL_SCALE[kind]
    if frame.format.is_planar:
        # Not frame.to_ndarray(): PyAV 18.1 lists a ninth plane for 8 channels and reads past the end of memory.
        array = np.stack([np.frombuffer(memoryview(frame.planes[c]), dtype, frame.samples) for c in range(channels)])
    else:
        array = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels).reshape(-1, channels).T
    if kind == "u8":
        return (array.astype(np.float32) - np.float32(128)) / np.float32(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # doubles beyond float32 become inf and are then refused
        return array.astype(np.float32) if scale == 1 else array.astype(np.float32) / np.float32(scale)


def rechunk(blocks: Iterable[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `block_samples`, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += block.shape[1]
        if count >= block_samples:
            joined = np.concatenate(held, axis=1)
            whole = count - count % block_samples
            for start in range(0, whole, block_samples):
                yield joined[:, start : start + block_samples]
            held, count = [joined[:, whole:]], count - whole
    if count:
        yield np.concatenate(held, axis=1)


def resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """Blocks at another rate (soxr, HQ), in all round(n * rate_out / rate_in) samples.

    The blocks are cut to one fixed size first, so that the result never depends on how they came.
    """
    if rate_in == rate_out:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    taken = given = channels = 0
    for block in rechunk(blocks, 1 << 16):
        channels = block.shape[0]
        stream = stream or soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")
        taken += block.shape[1]
        out = stream.resample_chunk(np.ascontiguousarray(block.T))
        given += len(out)
        yield out.T
    if stream is not None:
        rest = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
        wanted = round(taken * rate_out / rate_in) - given
        if len(rest) < wanted:  # soxr rounds the length on its own
            rest = np.concatenate([rest, np.zeros((wanted - len(rest), rest.shape[1]), np.float32)])
        yield rest[: max(0, wanted)].T

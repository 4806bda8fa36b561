"""Decoding: any container to float32 blocks at its own rate with all its channels, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.probe import audio_stream, open_container
from pipelines.audio.resample import rechunk
from pipelines.errors import UnreadableAudioError

# Full scale of FFmpeg's sample formats; u8 is offset binary. Powers of two, so that 16 and 24 bits stay exact.
FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}

CHECKED = {"ape", "flac", "tak", "tta", "wavpack"}
"""Codecs whose frames carry a checksum that FFmpeg compares only when asked: a damaged frame would pass as noise."""
GAP_S = 0.01
"""Sound is missing where a frame starts this much later than the one before it ended; Matroska rounds times to 1 ms."""

DTYPE = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


class Decoder:
    """One pass over a recording. Iterate it once.

    Yields float32 (channels, samples), full scale 1, of `block_samples` each but for the last. `decode_errors` counts
    the packets that did not decode and the gaps that damage left in the container's times. Nothing is put in their
    place. Raises UnreadableAudioError where nothing decodes, samples are not finite, or rate or channels change on the
    way.
    """

    def __init__(self, path: str, block_samples: int = 1 << 18, config: StorageConfig = DEFAULT) -> None:
        self.path = path
        self.block_samples = block_samples
        self.container, self._file = open_container(path, config)
        self.stream = audio_stream(self.container, path)
        if self.stream.codec_context.name in CHECKED:
            self.stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.sample_rate = self.stream.codec_context.sample_rate
        self.channels = self.stream.codec_context.channels
        self.channel_layout = self.stream.codec_context.layout.name
        # A FLAC file begins at 0 and its header holds its exact length. Of a damaged one FFmpeg would take a later time
        # for the start, and the last frame may go without an error.
        flac = self.container.format.name == "flac"
        self._begins_s = 0.0 if flac else self._seconds(self.stream.start_time)
        self._ends_s = self._seconds(self.stream.duration) if flac else None
        self.num_samples = 0
        self.decode_errors = 0
        self.missing_s = 0.0
        self._first_error: str | None = None
        self._broken = False  # since the last frame: its gap is no second error

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.container:
            yield from self._finite(rechunk(map(self._samples, self._frames()), self.block_samples))
        self._follow(self._ends_s)
        if not self.num_samples:
            detail = f": {self.decode_error}" if self.decode_error else ""
            raise UnreadableAudioError(f"{self.path!r}: not one sample decodes{detail}")

    def prove(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this hex digest; reads what decoding did not."""
        self._file.prove(self.path, sha256)

    def facts(self) -> dict[str, Any]:
        """What is known of the recording so far, as plain data; rate and channels are right from the first block on."""
        about = ("sample_rate", "channels", "channel_layout", "num_samples")
        return {name: getattr(self, name) for name in (*about, "decode_errors", "decode_error", "missing_s")}

    def close(self) -> None:
        self.container.close()
        self._file.close()

    @property
    def decode_error(self) -> str | None:
        """The first error with its place in what was decoded, and how much the container's times show to be missing."""
        if self._first_error and self.missing_s > GAP_S:
            return f"{self._first_error}; {self.missing_s:.3f} s missing in all"
        return self._first_error

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except MemoryError:  # no damage of the file
                raise
            except av.error.FFmpegError as error:  # the container breaks off; what came before it counts
                self._note(f"{type(error).__name__}: {error.strerror}")
                return
            try:
                yield from packet.decode()
            except MemoryError:
                raise
            except av.error.FFmpegError as error:  # one bad packet; decoding picks up at the next
                self._note(f"{type(error).__name__}: {error.strerror}")

    def _note(self, what: str) -> None:
        self.decode_errors += 1
        self._first_error = self._first_error or f"{what} at {self.num_samples / self.sample_rate:.2f} s"
        self._broken = True

    def _samples(self, frame: av.AudioFrame) -> np.ndarray:
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
        self._follow(frame.time)
        self.num_samples += frame.samples
        return to_float(frame)

    def _follow(self, time_s: float | None) -> None:
        """Count what is missing before `time_s` by the container's times: Ogg and PyAV drop damage without an error."""
        if time_s is None:
            return
        self._begins_s = time_s if self._begins_s is None else self._begins_s
        missing_s = time_s - self._begins_s - self.num_samples / self.sample_rate
        if missing_s > self.missing_s + GAP_S and not self._broken:
            self._note("sound is missing")
        self.missing_s = missing_s
        self._broken = False

    def _seconds(self, time: int | None) -> float | None:
        return None if time is None or self.stream.time_base is None else float(time * self.stream.time_base)

    def _finite(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks, or UnreadableAudioError that counts all samples which are not finite and places the first."""
        seen = 0
        for block in blocks:
            if not np.isfinite(block).all():
                finite = np.isfinite(block).all(axis=0)
                first, bad = seen + int(np.argmin(finite)), int(np.sum(~finite))
                bad += sum(int(np.sum(~np.isfinite(later).all(axis=0))) for later in blocks)
                raise UnreadableAudioError(
                    f"{self.path!r}: {bad} of {self.num_samples} samples are not finite, the first is sample {first}",
                    "export it again from its source",
                )
            seen += block.shape[1]
            yield block


def to_float(frame: av.AudioFrame) -> np.ndarray:
    """A frame as float32 (channels, samples), full scale 1."""
    channels, kind = frame.layout.nb_channels, frame.format.name.removesuffix("p")
    dtype, scale = DTYPE[kind], FULL_SCALE[kind]
    if frame.format.is_planar:
        # Not frame.to_ndarray(): PyAV 18.1 lists a ninth plane for 8 channels and reads past the end of memory.
        array = np.stack([np.frombuffer(memoryview(frame.planes[c]), dtype, frame.samples) for c in range(channels)])
    else:
        array = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels).reshape(-1, channels).T
    if kind == "dbl":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # beyond float32 they become inf and are then refused
            return array.astype(np.float32)
    samples = array.astype(np.float32)
    if kind == "u8":
        samples -= np.float32(128)
    samples /= np.float32(scale)
    return samples

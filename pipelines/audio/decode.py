"""Decodes any container to float32 blocks with all channels, at the recording's own rate, in bounded memory."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.probe import audio_stream, bit_depth, impossible_format, open_container
from pipelines.audio.resample import rechunk, resampled
from runtime.errors import UnreadableAudioError

# Full scale of FFmpeg's sample formats; u8 is offset binary. These are powers of two, so 16 and 24 bits stay exact.
FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}

CHECKED = {"ape", "flac", "tak", "tta", "wavpack"}
"""Codecs whose frames have a checksum that FFmpeg compares only on request. Otherwise a damaged frame becomes noise."""
GAP_S = 0.01
"""Sound is missing if a frame starts this much after the end of the one before. Matroska rounds times to 1 ms."""
VORBIS_GAP_S = 0.03
"""The same for Vorbis, whose short blocks FFmpeg places up to 20 ms late."""
LEAD_S = 0.1
"""The beginning is missing if a stream starts this much later than its container. Less is the delay of the codec."""
JUMP_S = 3600.0
"""If a frame starts this much too late, no sound is missing, but the clock of the container was reset."""
JUMP_BACK_S = 1.0
"""The same if a frame starts this much too early. FLAC numbers its frames, so it has no clock that could be reset."""
FEW_PACKETS = 10
"""If more consecutive packets than this fail to decode, up to the end, the length of the missing sound is unknown."""
CONVERTED_SAMPLES = 1 << 14
"""Frames with this number of samples are converted at a time."""
SILENCE_SAMPLES = 1 << 16
"""The longest block of inserted silence, so that memory stays bounded."""

DTYPE = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}
FACTS = (
    "sample_rate", "channels", "channel_layout", "decode_errors", "decode_error", "missing_s", "filled_s", "breaks_off",
    "format_changes", "format_change",
)  # fmt: skip
"""The keys of `Decoder.facts`."""
Format = tuple[int, int]
"""Sampling rate in Hz and number of channels."""
FORMAT = operator.attrgetter("sample_rate", "layout.nb_channels")
"""The format of a frame."""


class Decoder:
    """Decodes a recording once. Iterate over it once.

    It yields float32 (channels, samples), full scale 1. Each block has `block_samples`, the last one fewer. All blocks
    have the rate and channels of the first frame. Later frames with another format are converted, and `format_changes`
    counts the changes. `decode_errors` counts packets that did not decode, gaps and jumps in the container's times, and
    a header that declares less sound than there is. Missing sound is replaced by silence only with `decode.fill_gaps`.

    Raises:
        UnreadableAudioError: Nothing decodes, or samples are not finite.

    >>> decoder = Decoder("talk.flac")  # doctest: +SKIP
    >>> sum(block.shape[1] for block in decoder) / decoder.sample_rate  # doctest: +SKIP
    61.5
    """

    def __init__(
        self,
        path: str,
        block_samples: int = 1 << 18,
        config: StorageConfig = DEFAULT,
        decode: DecodeConfig = DECODE,
        stream: int = 0,
    ) -> None:
        """
        Args:
            path: The name of the file.
            block_samples: Samples of each block.
            config: How storage is accessed.
            decode: The limits, and whether gaps are filled.
            stream: The number of the audio stream, from 0.
        """
        self.path = path
        self.block_samples = block_samples
        self.decode = decode
        self._opened = open_container(path, config)
        try:
            self._begin(stream)
        except BaseException:
            self.close()
            raise

    def _begin(self, stream: int) -> None:
        self.container = self._opened.container
        self.stream = audio_stream(self.container, self.path, stream)
        context = self.stream.codec_context
        if context.name in CHECKED:
            context.options = {"err_detect": "crccheck+explode"}
        self.sample_rate = context.sample_rate
        self.channels = context.channels
        self.channel_layout = context.layout.name
        # A FLAC file begins at 0, and its header has its exact length. For a damaged file, FFmpeg would take a
        # later time as the start, and drop the last frame without an error.
        self._flac = self.container.format.name == "flac"
        self._begins_s = 0.0 if self._flac else self._seconds(self.stream.start_time)
        self._ends_s = self._seconds(self.stream.duration) if self._flac else None
        self._position_s = 0.0
        """Seconds before the samples that `_count` counts."""
        self._count = 0
        """Samples so far at the current rate."""
        self._rate = self.sample_rate
        self._format = (self.sample_rate, self.channels)
        """The format of the last frame."""
        self._started = False
        """Whether a frame has decoded."""
        self._has_samples = False
        """Whether samples were yielded."""
        self.decode_errors = 0
        self._gap_s = VORBIS_GAP_S if context.name == "vorbis" else GAP_S
        self._timed = True
        self._failed_packets = 0
        """Consecutive packets that failed to decode."""
        self._broken_off = False
        self.missing_s = 0.0
        """Seconds that are missing by the container's times, and are not filled."""
        self.filled_s = 0.0
        """Seconds of silence that replace missing sound."""
        self.format_changes = 0
        self.format_change: str | None = None
        """The first change of rate or channels, with its place."""
        self._first_error: str | None = None
        self._broken = False
        """Whether there was an error since the last frame. A gap after it is not counted as a second error."""
        self._check_header()

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.container:
            yield from self._finite(rechunk(self._blocks(), self.block_samples))
        self._track_time(self._ends_s)
        if not self._has_samples:
            detail = f": {self.decode_error}" if self.decode_error else ""
            raise UnreadableAudioError(f"{self.path!r}: not one sample decodes{detail}")

    def verify_sha256(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this sha256 (hex digits).

        It reads the bytes that decoding has not read.
        """
        self._opened.file.verify_sha256(self.path, sha256)

    def sha256(self) -> str:
        """Return the sha256 of the bytes of the file (hex digits); it reads bytes that decoding did not."""
        return self._opened.file.sha256()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the recording so far. Rate and channels are right from the first block on."""
        return {name: getattr(self, name) for name in FACTS}

    def close(self) -> None:
        self._opened.close()

    @property
    def decode_error(self) -> str | None:
        """The first error with its time, and how much sound is missing by the container's times."""
        missing_s = self.missing_s + self.filled_s
        if self.breaks_off:
            return f"{self._first_error}; what follows does not decode"
        if not self._first_error or missing_s <= GAP_S:
            return self._first_error
        filled = f", {self.filled_s:.3f} s of it filled with silence" if self.filled_s else ""
        return f"{self._first_error}; {missing_s:.3f} s missing in all{filled}"

    @property
    def breaks_off(self) -> bool:
        """Whether the end is missing, of unknown length: the container is cut short, or its last packets fail."""
        return self._broken_off or self._failed_packets > FEW_PACKETS

    @property
    def _elapsed_s(self) -> float:
        return self._position_s + self._count / self._rate

    def _check_header(self) -> None:
        """Record an error if the header declares less or more sound than the file holds.

        For plain samples it is exact.
        """
        data, context = self._opened.data, self.stream.codec_context
        bytes_per_s = (context.bit_rate or 0) / 8
        if data is None or data.declared is None or not bytes_per_s:
            return
        undeclared_s, unread_s = data.undeclared / bytes_per_s, data.unread / bytes_per_s
        if undeclared_s > GAP_S:
            declared_s = data.declared / bytes_per_s
            self.decode_errors += 1
            self._first_error = f"its header declares {declared_s:.2f} s of sound, {undeclared_s:.3f} s more follow"
        if unread_s > GAP_S:
            self.decode_errors += 1
            self._first_error = f"its format ends at 4 GiB, {unread_s:.3f} s of sound beyond are not read"
        if data.absent / bytes_per_s > GAP_S and context.name.startswith("pcm_") and bit_depth(context):
            self._ends_s = (self._begins_s or 0.0) + data.declared / bytes_per_s

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 (channels, samples) in the format of the first frame."""
        for format_, frames in itertools.groupby(self._frames(), FORMAT):
            if impossible := impossible_format(*format_):
                self._skip_frames(frames, impossible)
                continue
            if not self._started:  # the first frame is more reliable than the header
                self._started = True
                self.sample_rate, self.channels = self._rate, _ = format_
            elif format_ != self._format:
                self._record_format_change(format_)
            self._format = format_
            blocks = self._samples(frames, format_)
            if format_ == (self.sample_rate, self.channels):
                yield from blocks
            else:
                yield from resampled((remixed(block, self.channels) for block in blocks), format_[0], self.sample_rate)

    def _skip_frames(self, frames: Iterable[av.AudioFrame], impossible: str) -> None:
        """Skip frames of a format that is not supported. Damaged files have such frames."""
        if not self._started:
            raise UnreadableAudioError(f"{self.path!r}: it decodes to {impossible}")
        for _ in frames:
            self._record_error(f"a frame of {impossible}")

    def _record_format_change(self, format_: Format) -> None:
        at_s = self._elapsed_s
        if format_[0] != self._rate:
            self._position_s, self._count, self._rate = at_s, 0, format_[0]
            self._timed = False  # FFmpeg still computes the times of packets with the first rate
        self.format_changes += 1
        what = f"from {self.sample_rate} Hz x {self.channels} to {format_[0]} Hz x {format_[1]}"
        self.format_change = self.format_change or f"{what} at {at_s:.2f} s"

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except MemoryError:  # the file is not damaged
                raise
            except av.error.FFmpegError as error:  # the container is cut short; what came before is used
                self._record_error(f"{type(error).__name__}: {error.strerror}")
                self._broken_off = True
                return
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except av.error.FFmpegError as error:  # one bad packet; decoding continues with the next one
                self._record_error(f"{type(error).__name__}: {error.strerror}")
                self._failed_packets += 1
                continue
            if frames:
                self._failed_packets = 0
                yield from frames

    def _record_error(self, what: str) -> None:
        self.decode_errors += 1
        self._first_error = self._first_error or f"{what} at {self._elapsed_s:.2f} s"
        self._broken = True

    def _samples(self, frames: Iterable[av.AudioFrame], format_: Format) -> Iterator[np.ndarray]:
        """Yield the samples of frames of one format, with silence in gaps if these are filled.

        Many frames are converted at once, since a frame of some codecs has only a few hundred samples.
        """
        held: list[av.AudioFrame] = []
        held_samples = 0
        for frame in frames:
            if not self._has_samples:
                self.channel_layout = frame.layout.name
            self._track_time(frame.time)
            gap = self.decode.fill_gaps and self.missing_s > self._gap_s
            if held and (gap or held_samples >= CONVERTED_SAMPLES or frame.format.name != held[0].format.name):
                yield to_float(held)
                held, held_samples = [], 0
            if gap:
                yield from self._silence(*format_)
            held.append(frame)
            held_samples += frame.samples
            self._count += frame.samples
            self._has_samples = True
        if held:
            yield to_float(held)

    def _track_time(self, time_s: float | None) -> None:
        """Measure how much sound is missing before `time_s`, since Ogg and PyAV drop damaged parts without an error."""
        if time_s is None or not self._timed:
            return
        if self._begins_s is None or not (self._has_samples or self._broken or self._flac):
            self._begins_s = self._expected_start_s(time_s)  # later than the stream's start by the delay of the decoder
        missing_s = time_s - self._begins_s - (self._position_s + self._count / self._rate)
        grown_s = missing_s - self.missing_s
        if not self._flac and not -JUMP_BACK_S <= grown_s <= JUMP_S:
            self._begins_s, missing_s = self._begins_s + grown_s, self.missing_s
            # Each link of a chained Ogg file has its own clock.
            if not self._broken and self.container.format.name != "ogg":
                self._record_error(f"the container's clock jumps by {grown_s:.3f} s")
        elif grown_s > self._gap_s and not self._broken:
            self._record_error("sound is missing")
        self.missing_s = missing_s
        self._broken = False

    def _expected_start_s(self, time_s: float) -> float:
        """Return when the sound should begin if its first frame has this time.

        With filled gaps it begins with the container.
        """
        start_s = None if self.container.start_time is None else self.container.start_time / av.time_base
        if self.decode.fill_gaps and start_s is not None and LEAD_S < time_s - start_s <= JUMP_S:
            return start_s
        return time_s

    def _silence(self, rate: int, channels: int) -> Iterator[np.ndarray]:
        """Yield silence for the sound that is missing before the current frame."""
        left = round(self.missing_s * rate)
        self.filled_s += left / rate
        self.missing_s -= left / rate
        self._count += left
        while left:
            count = min(left, SILENCE_SAMPLES)
            yield np.zeros((channels, count), np.float32)
            left -= count

    def _seconds(self, time: int | None) -> float | None:
        return None if time is None or self.stream.time_base is None else float(time * self.stream.time_base)

    def _finite(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the blocks.

        Raises UnreadableAudioError if samples are not finite, with their count and the first place.
        """
        seen = 0
        for block in blocks:
            if not np.isfinite(block).all():
                finite = np.isfinite(block).all(axis=0)
                first, bad, total = seen + int(np.argmin(finite)), int(np.sum(~finite)), seen + block.shape[1]
                for later in blocks:
                    bad += int(np.sum(~np.isfinite(later).all(axis=0)))
                    total += later.shape[1]
                raise UnreadableAudioError(
                    f"{self.path!r}: {bad} of {total} samples are not finite, the first is sample {first}",
                    "export it again from its source",
                )
            seen += block.shape[1]
            yield block


def remixed(block: np.ndarray, channels: int) -> np.ndarray:
    """Return a block (channels, samples) with another number of channels, each the mean of the given ones."""
    if len(block) == channels:
        return block
    mean: np.ndarray = block.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.repeat(mean, channels, axis=0)


def to_float(frames: Sequence[av.AudioFrame]) -> np.ndarray:
    """Convert frames of one sample format to one block, float32 (channels, samples), full scale 1."""
    first = frames[0]
    channels, kind = first.layout.nb_channels, first.format.name.removesuffix("p")
    dtype, scale = DTYPE[kind], FULL_SCALE[kind]

    # Not frame.to_ndarray(): PyAV 18.1 lists a ninth plane for 8 channels and reads past the end of memory.
    def plane(number: int, width: int) -> np.ndarray:
        parts = [np.frombuffer(memoryview(frame.planes[number]), dtype, frame.samples * width) for frame in frames]
        return np.concatenate(parts)

    if first.format.is_planar:
        array = np.stack([plane(channel, 1) for channel in range(channels)])
    else:
        array = plane(0, channels).reshape(-1, channels).T
    if kind == "dbl":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # values beyond float32 become infinite
            return array.astype(np.float32)
    samples = array.astype(np.float32)
    if kind == "u8":
        samples -= np.float32(128)
    samples *= np.float32(1 / scale)  # exact, since it is a power of two
    return samples

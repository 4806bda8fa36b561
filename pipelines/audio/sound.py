"""Decodes a recording: measures it at its own rate, and holds it at 16 kHz for the stages, in memory or on disk."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.isolated import IsolatedDecoder
from pipelines.audio.reach import check_size
from pipelines.audio.resample import resampled
from pipelines.audio.signal import ChannelMeter, SignalMeter
from runtime.errors import (
    DecodeLimitError,
    DecoderDiedError,
    UnreachableAudioError,
    UnreadableAudioError,
)

RATE = 16000
MEMORY_BYTES = 128 << 20
"""Sound up to this size is held in memory. Longer sound is in a temporary file."""


class DecodedSound:
    """The `Sound` of the stages. Ranges are read, not memory-mapped, so that resident memory does not grow."""

    sample_rate = RATE

    def __init__(
        self, recording_id: str, spool: Any, channels: int, num_samples: int, signal: dict[str, Any], first: int = 0
    ) -> None:
        """
        Args:
            recording_id: The id of the recording.
            spool: A file with all channels, float32 (samples, channels), from sample `first` on.
            channels: The number of channels.
            num_samples: Samples of the whole recording at 16 kHz.
            signal: The columns of `manifests.schemas.SIGNAL`.
            first: The first sample that the spool has.
        """
        self.recording_id = recording_id
        self.num_samples = num_samples
        self.tracks: int = signal["tracks"]
        self.signal = signal
        self._spool = spool
        self._channels = channels
        self._first = first

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the samples [start, stop) at 16 kHz, float32 (tracks, samples), or fewer at the end."""
        stop = self.num_samples if stop is None else min(stop, self.num_samples)
        width = 4 * self._channels
        assert start >= self._first
        self._spool.seek((start - self._first) * width)
        data = self._spool.read(max(0, stop - start) * width)
        samples = np.frombuffer(data, np.float32).reshape(-1, self._channels).T
        return tracks_of(samples, self.signal)

    def __enter__(self) -> DecodedSound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()


def tracks_of(block: np.ndarray, signal: dict[str, Any]) -> np.ndarray:
    """Convert channels, (channels, n), to the tracks that are analysed and encoded, (tracks, n).

    The relation of the channels in the signal row decides. Channels with a speaker each stay separate. One of several
    equal channels is taken, and the live one of one-sided channels. A room, a stereo mix and surround sound are
    averaged. In a room, channels of opposite phase are inverted before, because they would cancel each other.
    """
    relation = signal["channel_relation"]
    if relation in ("mono", "speakers"):
        return block
    if relation in ("dual_mono", "one_sided"):
        live = signal["live_channel"] if relation == "one_sided" else 0
        return block[live : live + 1]
    if signal["inverted_channels"]:
        signs = np.ones((len(block), 1), np.float32)
        signs[signal["inverted_channels"]] = -1
        block = block * signs
    mean: np.ndarray = block.mean(axis=0, keepdims=True, dtype=np.float32)
    return mean


def decode_sound(
    path: str,
    recording_id: str,
    size_bytes: int | None = None,
    config: StorageConfig = DEFAULT,
    sha256: str | None = None,
    decode: DecodeConfig = DECODE,
) -> DecodedSound:
    """Decode a recording, and measure its signal.

    Args:
        path: The name of the file.
        recording_id: The id of the recording.
        size_bytes: The size of the file when it was ingested.
        config: How storage is accessed.
        sha256: The sha256 of the file when it was ingested.
        decode: The table [decode] of the recipe.

    Returns:
        The sound. Its `signal` has the columns of `manifests.schemas.SIGNAL`.

    Raises:
        UnreadableAudioError: Nothing decodes.
        ChangedAudioError: The file has another size or another sha256.
    """
    check_size(path, size_bytes, config)
    with closing(IsolatedDecoder(path, config, decode)) as decoder, _verified(decoder, sha256):
        return _measure(decoder, recording_id)


@contextmanager
def _verified(decoder: IsolatedDecoder, sha256: str | None) -> Iterator[None]:
    """Verify the bytes after the block, also if they do not decode, because changed bytes may be the reason."""
    try:
        yield
    except (DecodeLimitError, DecoderDiedError):  # there is no child left to verify them
        raise
    except UnreadableAudioError as error:
        if sha256 is not None and not isinstance(error, UnreachableAudioError):
            decoder.verify_sha256(sha256)
        raise
    if sha256 is not None:
        decoder.verify_sha256(sha256)


def _measure(decoder: IsolatedDecoder, recording_id: str) -> DecodedSound:
    meter: SignalMeter | None = None

    def measured(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal meter
        for block in blocks:
            meter = meter or SignalMeter(decoder.sample_rate, decoder.channels, decoder.channel_layout)
            meter.push(block)
            yield block

    spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 (the sound closes it)
    relations: ChannelMeter | None = None
    num_samples = 0
    try:
        blocks = measured(decoder)
        first = next(blocks)  # the decoder has its rate only after the first block
        for block in resampled(_chain(first, blocks), decoder.sample_rate, RATE):
            relations = relations or ChannelMeter(decoder.channels)
            relations.push(block)
            spool.write(np.ascontiguousarray(block.T, dtype=np.float32).data)
            num_samples += block.shape[1]
        assert meter is not None
        assert relations is not None
        signal = meter.finish() | relations.finish(decoder.channel_layout) | _events(decoder)
    except BaseException:  # the temporary file of a long recording must not outlive a failure
        spool.close()
        raise
    return DecodedSound(recording_id, spool, decoder.channels, num_samples, signal)


def _events(decoder: IsolatedDecoder) -> dict[str, Any]:
    """Return the columns with the errors of decoding.

    `filled_s` is null if gaps are not filled. `missing_s` is null if it is unknown.
    """
    return {
        "decode_errors": decoder.decode_errors,
        "decode_error": decoder.decode_error,
        "missing_s": None if decoder.breaks_off else max(0.0, decoder.missing_s),
        "filled_s": decoder.filled_s if decoder.decode.fill_gaps else None,
        "format_changes": decoder.format_changes,
        "format_change": decoder.format_change,
    }


class TrackStream:
    """Decodes a recording again, for an encoder. Iterate over it once, verify its bytes, and close it.

    It yields blocks, float32 (tracks, n), from the first sample on.

    Raises:
        UnreadableAudioError: The sound does not decode, or has another rate or other channels than the signal row.
    """

    def __init__(
        self,
        uri: str,
        sample_rate: int | None,
        signal: Mapping[str, Any],
        config: StorageConfig = DEFAULT,
        decode: DecodeConfig = DECODE,
    ) -> None:
        """
        Args:
            uri: The name of the recording.
            sample_rate: The rate of the blocks in Hz; None for the rate of the recording.
            signal: The signal row of the recording.
            config: How storage is accessed.
            decode: The table [decode] of the recipe.
        """
        self._sample_rate, self._signal = sample_rate or signal["sample_rate"], dict(signal)
        self._decoder = _make_decoder(uri, signal, config, decode)

    def __iter__(self) -> Iterator[np.ndarray]:
        blocks = _check_format(self._decoder, self._signal)
        tracks = (tracks_of(block, self._signal) for block in blocks)
        yield from resampled(tracks, self._signal["sample_rate"], self._sample_rate)

    def verify_sha256(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this sha256 (hex digits).

        It may be called after any block, and ends the iteration. Bytes that decoding has not read are read.
        """
        self._decoder.verify_sha256(sha256)

    def close(self) -> None:
        """End the decoding. It may be called at any time."""
        self._decoder.close()


def decode_span(
    path: str,
    size_bytes: int | None,
    signal: dict[str, Any],
    start: int,
    stop: int,
    config: StorageConfig = DEFAULT,
    sha256: str | None = None,
    decode: DecodeConfig = DECODE,
) -> DecodedSound:
    """Decode a recording again, and hold the samples [start, stop) at 16 kHz. They are bit-equal to `decode_sound`.

    Raises:
        SpeechmillError: As `decode_sound`.
    """
    check_size(path, size_bytes, config)
    spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 (the sound closes it)
    position = 0
    try:
        with closing(_make_decoder(path, signal, config, decode)) as decoder, _verified(decoder, sha256):
            for block in resampled(_check_format(decoder, signal), signal["sample_rate"], RATE):
                held = block[:, max(0, start - position) : max(0, stop - position)]
                spool.write(np.ascontiguousarray(held.T, dtype=np.float32).data)
                position += block.shape[1]
                if position >= stop:
                    break
    except BaseException:  # the temporary file of a long recording must not outlive a failure
        spool.close()
        raise
    return DecodedSound(signal["recording_id"], spool, signal["channels"], num_samples_of(signal), signal, start)


def num_samples_of(signal: dict[str, Any]) -> int:
    """Return the samples at 16 kHz of the recording that a signal row describes."""
    return round(signal["num_samples"] * RATE / signal["sample_rate"])


def _make_decoder(path: str, signal: Mapping[str, Any], config: StorageConfig, decode: DecodeConfig) -> IsolatedDecoder:
    """Return the decoder of a recording that was annotated. Gaps are filled if they were filled then."""
    return IsolatedDecoder(path, config, dataclasses.replace(decode, fill_gaps=signal["filled_s"] is not None))


def _check_format(decoder: IsolatedDecoder, signal: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yield the blocks of a decoder. Raises UnreadableAudioError if rate or channels differ from the signal row."""
    for block in decoder:
        if (decoder.sample_rate, decoder.channels) != (signal["sample_rate"], signal["channels"]):
            what = f"{decoder.path!r}: changed since it was annotated"
            raise UnreadableAudioError(what, "ingest and annotate it again")
        yield block


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest

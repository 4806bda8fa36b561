"""One decode of a recording: measured at its own rate, kept at 16 kHz for the stages, in memory or spooled to disk."""

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


class DecodedSound:
    """The `Sound` of the stages. Ranges are read back, not mapped, so that resident memory stays flat."""

    sample_rate = RATE

    def __init__(
        self, recording_id: str, spool: Any, channels: int, num_samples: int, signal: dict[str, Any], first: int = 0
    ) -> None:
        """`spool` holds all channels from sample `first` on."""
        self.recording_id = recording_id
        self.num_samples = num_samples
        self.tracks: int = signal["tracks"]
        self.signal = signal
        self._spool = spool
        self._channels = channels
        self._first = first

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) at 16 kHz, float32 (tracks, samples), clipped to what exists."""
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
    """Channels as analysed and encoded, (channels, n) to (tracks, n), by the relation that the signal row records.

    Speakers stay apart; of equal channels one is taken, of one-sided ones the live one; a room, a stereo mix and
    surround are averaged, after channels of opposite phase in a room were inverted: they would cancel.
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
    """Decode once; `signal` of the result holds the columns of `manifests.schemas.SIGNAL`.

    Raises UnreadableAudioError where nothing decodes or the file is not as long as when it was ingested, and
    ChangedAudioError where `sha256` is given and its bytes have another one.
    """
    check_size(path, size_bytes, config)
    with closing(IsolatedDecoder(path, config, decode)) as decoder, _proven(decoder, sha256):
        return _decoded(decoder, recording_id)


@contextmanager
def _proven(decoder: IsolatedDecoder, sha256: str | None) -> Iterator[None]:
    """Prove the bytes after what is done with them, also where they do not decode: others may be the reason."""
    try:
        yield
    except (DecodeLimitError, DecoderDiedError):  # nothing is left that could be asked
        raise
    except UnreadableAudioError as error:
        if sha256 is not None and not isinstance(error, UnreachableAudioError):
            decoder.verify_sha256(sha256)
        raise
    if sha256 is not None:
        decoder.verify_sha256(sha256)


def _decoded(decoder: IsolatedDecoder, recording_id: str) -> DecodedSound:
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
        first = next(blocks)  # the decoder knows its rate only then
        for block in resampled(_chain(first, blocks), decoder.sample_rate, RATE):
            relations = relations or ChannelMeter(decoder.channels)
            relations.push(block)
            spool.write(np.ascontiguousarray(block.T, dtype=np.float32).data)
            num_samples += block.shape[1]
        assert meter is not None
        assert relations is not None
        signal = meter.finish() | relations.finish(decoder.channel_layout) | _events(decoder)
    except BaseException:  # a spool of a long recording must not outlive a failure; raised on
        spool.close()
        raise
    return DecodedSound(recording_id, spool, decoder.channels, num_samples, signal)


def _events(decoder: IsolatedDecoder) -> dict[str, Any]:
    """The columns that tell what happened while a recording was decoded.

    `filled_s` is null where gaps are not to be filled, `missing_s` where it is not known.
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
    """A recording decoded again, for an encoder. Iterate it once, prove it, and close it.

    Yields float32 (tracks, n) blocks at `sample_rate`, None for the recording's own, from its first sample on. `signal`
    is the signal row of the recording, which tells how its channels become tracks. Raises UnreadableAudioError where
    the sound does not decode or no longer has the rate and channels of the row.
    """

    def __init__(
        self,
        uri: str,
        sample_rate: int | None,
        signal: Mapping[str, Any],
        config: StorageConfig = DEFAULT,
        decode: DecodeConfig = DECODE,
    ) -> None:
        self._sample_rate, self._signal = sample_rate or signal["sample_rate"], dict(signal)
        self._decoder = _decoder_again(uri, signal, config, decode)

    def __iter__(self) -> Iterator[np.ndarray]:
        blocks = _as_annotated(self._decoder, self._signal)
        tracks = (tracks_of(block, self._signal) for block in blocks)
        yield from resampled(tracks, self._signal["sample_rate"], self._sample_rate)

    def verify_sha256(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this hex digest; ends the iteration.

        May be called after any block: what decoding has not read of the file is read then.
        """
        self._decoder.verify_sha256(sha256)

    def close(self) -> None:
        """End the decoding, at any time."""
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
    """Decode again up to sample `stop` at 16 kHz and hold [start, stop): the bits that `decode_sound` gives there.

    Raises as `decode_sound`.
    """
    check_size(path, size_bytes, config)
    spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 (the sound closes it)
    passed = 0
    try:
        with closing(_decoder_again(path, signal, config, decode)) as decoder, _proven(decoder, sha256):
            for block in resampled(_as_annotated(decoder, signal), signal["sample_rate"], RATE):
                held = block[:, max(0, start - passed) : max(0, stop - passed)]
                spool.write(np.ascontiguousarray(held.T, dtype=np.float32).data)
                passed += block.shape[1]
                if passed >= stop:
                    break
    except BaseException:  # a spool of a long recording must not outlive a failure; raised on
        spool.close()
        raise
    return DecodedSound(signal["recording_id"], spool, signal["channels"], num_samples_of(signal), signal, start)


def num_samples_of(signal: dict[str, Any]) -> int:
    """Samples at 16 kHz of the recording that a signal row describes."""
    return round(signal["num_samples"] * RATE / signal["sample_rate"])


def _decoder_again(
    path: str, signal: Mapping[str, Any], config: StorageConfig, decode: DecodeConfig
) -> IsolatedDecoder:
    """The decoder of a recording that was decoded before: gaps are filled if they were then."""
    return IsolatedDecoder(path, config, dataclasses.replace(decode, fill_gaps=signal["filled_s"] is not None))


def _as_annotated(decoder: IsolatedDecoder, signal: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The blocks of a decoder. Raises UnreadableAudioError where rate or channels are not those of the signal row."""
    for block in decoder:
        if (decoder.sample_rate, decoder.channels) != (signal["sample_rate"], signal["channels"]):
            what = f"{decoder.path!r}: changed since it was annotated"
            raise UnreadableAudioError(what, "ingest and annotate it again")
        yield block


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest

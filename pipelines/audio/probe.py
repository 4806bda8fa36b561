"""Probes files: reads what the header claims, without decoding the sound."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import av

from manifests.storage import StorageConfig
from pipelines.audio.claims import claimed_duration_s
from pipelines.audio.files import DEFAULT, open_file
from pipelines.audio.hashing import HashingFile
from pipelines.audio.headers import HeaderError, Readable, SoundData, corrected, find_sound
from pipelines.audio.parts import Channels, Part
from runtime.errors import UnreadableAudioError

MIN_RATE_HZ = 4000
"""Below this rate, the frequency band is too narrow for the loudness filters and the speech models."""
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64
OPTIONS = {"protocol_whitelist": "none"}
"""No protocol is allowed, so that a playlist cannot open other files."""
LONGER_ANALYSIS = {"analyzeduration": "600000000", "probesize": "100000000"}
"""Microseconds and bytes that FFmpeg may read to find all streams, if its defaults were not enough."""
WITHOUT_HEADER = ("mpegts", "mpeg", "flv")
"""Containers in which a stream is found only by its first packet."""


@dataclass(frozen=True)
class Opened:
    """An open container, with its file."""

    container: av.container.InputContainer
    file: HashingFile
    """The stored file. It is hashed while it is read."""
    view: Readable
    """The file as FFmpeg reads it."""
    size_bytes: int
    data: SoundData | None
    """Where the sound is, for formats whose headers are compared with the file."""

    def close(self) -> None:
        self.container.close()
        self.file.close()


def open_container(path: str, config: StorageConfig = DEFAULT) -> Opened:
    """Open any container that FFmpeg supports. A wrong size in its header is corrected.

    Raises:
        UnreadableAudioError: The file cannot be opened. The error names the file, the reason and a remedy.
    """
    file = HashingFile(open_file(path, config))
    try:
        head = file.read(8)
        if not head:
            raise UnreadableAudioError(f"{path!r}: the file is empty (0 bytes)", "fetch it again or leave it out")
        try:
            size_bytes = file.seek(0, io.SEEK_END)
            data = find_sound(file, size_bytes)
            view = corrected(file, data)
            return Opened(_open(view), file, view, size_bytes, data)
        except HeaderError as error:
            raise UnreadableAudioError(f"{path!r}: {error}") from error
        except (av.error.FFmpegError, ValueError) as error:
            what = f"FFmpeg finds no sound in it ({type(error).__name__}, first bytes {head!r})"
            raise UnreadableAudioError(f"{path!r}: {what}") from error
    except BaseException:
        file.close()
        raise


def _open(view: Readable) -> av.container.InputContainer:
    """Open a container by its bytes, because FFmpeg guesses formats from names. If streams are unknown, read more."""
    view.seek(0)
    container = av.open(view, mode="r", metadata_errors="replace", options=OPTIONS)
    contexts = [stream.codec_context for stream in container.streams.audio]
    unknown = any(context is not None and not (context.sample_rate and context.channels) for context in contexts)
    if unknown or (not contexts and container.format.name in WITHOUT_HEADER):
        container.close()
        view.seek(0)
        container = av.open(view, mode="r", metadata_errors="replace", options=OPTIONS | LONGER_ANALYSIS)
    return container


def audio_stream(container: av.container.InputContainer, path: str, number: int = 0) -> av.AudioStream:
    """Return the audio stream with this number, from 0. Raises UnreadableAudioError if its claims are impossible."""
    streams = container.streams.audio
    if not streams:
        raise UnreadableAudioError(f"{path!r}: it has no audio stream", "leave it out")
    if number >= len(streams):
        what = f"{path!r}: it has {len(streams)} audio streams, and stream {number} was asked for"
        raise UnreadableAudioError(what, "ingest it again")
    stream = streams[number]
    if stream.codec_context is None:
        raise UnreadableAudioError(f"{path!r}: FFmpeg has no decoder for the codec of its audio stream")
    if not stream.codec_context.sample_rate or not stream.codec_context.channels:
        what = f"{path!r}: FFmpeg does not find the sampling rate and the channels of its audio stream"
        raise UnreadableAudioError(what)
    if impossible := impossible_format(stream.codec_context.sample_rate, stream.codec_context.channels):
        raise UnreadableAudioError(f"{path!r}: its header claims {impossible}")
    return stream


def impossible_format(sample_rate: int, channels: int) -> str | None:
    """Return what is wrong with a rate or a number of channels that is not supported; None if both are supported."""
    if MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ and 0 < channels <= MAX_CHANNELS:
        return None
    limits = f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz and at most {MAX_CHANNELS} channels are read"
    return f"{sample_rate} Hz and {channels} channels; {limits}"


def probe(path: str, config: StorageConfig = DEFAULT) -> dict[str, Any]:
    """Return the claims of the header, as columns of RECORDINGS.

    For several files (see `parts.Channels`), they are the format of the first file, the number of all channels, and the
    longest duration.

    Raises:
        UnreadableAudioError: The file cannot be opened, or its claims are impossible.
    """
    channels = Channels.parse(path)
    claims = [_probe(file, config) for file in (channels.files if channels else [path])]
    if len(claims) > 1:
        check_rates(path, [one["sample_rate"] for one in claims])
        count, durations = sum(one["channels"] for one in claims), [one["claimed_duration_s"] for one in claims]
        check_channels(path, count)
        claims[0] |= {"channels": count, "channel_layout": f"{count} channels"}
        claims[0]["claimed_duration_s"] = None if None in durations else max(durations)
        claims[0]["audio_streams"] = max(one["audio_streams"] for one in claims)
    return claims[0]


def check_rates(path: str, rates: Sequence[int]) -> None:
    """Raise UnreadableAudioError if the files of one recording have different sampling rates."""
    if len(set(rates)) > 1:
        what = f"{path!r}: its files have sampling rates of {', '.join(f'{rate} Hz' for rate in rates)}"
        raise UnreadableAudioError(what, "resample them to one rate, or ingest each file by itself")


def check_channels(path: str, channels: int) -> None:
    """Raise UnreadableAudioError if the files of one recording have too many channels in total."""
    if channels > MAX_CHANNELS:
        raise UnreadableAudioError(f"{path!r}: its files have {channels} channels; at most {MAX_CHANNELS} are read")


def _probe(path: str, config: StorageConfig) -> dict[str, Any]:
    part = Part.parse(path) or Part(path)
    if part.end_s is not None and part.end_s <= part.start_s:
        what = f"{path!r}: the excerpt ends where it begins, or earlier"
        raise UnreadableAudioError(what, "correct its offset and duration, then ingest again")
    opened = open_container(path, config)
    container = opened.container
    with container, closing(opened.file):
        stream = audio_stream(container, path, part.stream)
        context = stream.codec_context
        depth = bit_depth(context)
        duration_s = claimed_duration_s(container, stream, opened.view, opened.size_bytes, opened.data, depth)
        if part.end_s is not None:
            duration_s = part.end_s - part.start_s
        return {
            "container": container.format.name,
            "codec": context.name,
            "sample_rate": context.sample_rate,
            "channels": context.channels,
            "channel_layout": context.layout.name,
            "bit_depth": depth,
            "audio_streams": len(container.streams.audio),
            "claimed_duration_s": duration_s,
        }


def bit_depth(context: av.AudioCodecContext) -> int | None:
    """Return the bits of a coded sample of PCM (8 for mu-law and A-law), FLAC or ALAC; None for other codecs.

    They are read from names and headers, because FFmpeg decodes to wider samples: 32 bits for 24, and 16 for mu-law.
    """
    header = context.extradata or b""
    if context.name in ("pcm_mulaw", "pcm_alaw"):
        return 8
    if context.name.startswith("pcm_"):
        digits = re.match(r"pcm_[suf](\d+)", context.name)
        return int(digits[1]) if digits else None
    if context.name == "flac" and len(header) == 34:  # STREAMINFO: 5 bits from the last one of byte 12 on
        return ((header[12] & 1) << 4 | header[13] >> 4) + 1
    if context.name == "alac" and len(header) == 36:  # the magic cookie, after its size, name and version
        return header[17]
    return None

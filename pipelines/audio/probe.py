"""Probing: what a file claims to be, read from its header without decoding it."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import av

from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT, open_file
from pipelines.audio.hashing import HashingFile
from pipelines.errors import UnreadableAudioError

MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64


def open_container(path: str, config: StorageConfig = DEFAULT) -> tuple[av.container.InputContainer, HashingFile]:
    """Open any container FFmpeg reads, and the file that it reads. Close both.

    Raises UnreadableAudioError naming the file, what is wrong and a remedy.
    """
    file = HashingFile(open_file(path, config))
    head = file.read(8)
    if not head:
        file.close()
        raise UnreadableAudioError(f"{path!r}: the file is empty (0 bytes)", "fetch it again or leave it out")
    file.seek(0)
    try:
        # By bytes alone: FFmpeg guesses raw formats from some names. No protocol, so that a playlist cannot open other
        # files.
        options = {"protocol_whitelist": "none"}
        return av.open(file, mode="r", metadata_errors="replace", options=options), file
    except (av.error.FFmpegError, ValueError) as error:
        file.close()
        what = f"FFmpeg finds no sound in it ({type(error).__name__}, first bytes {head!r})"
        raise UnreadableAudioError(f"{path!r}: {what}") from error


def audio_stream(container: av.container.InputContainer, path: str) -> av.AudioStream:
    """The first audio stream, checked for claims that cannot be true."""
    if not container.streams.audio:
        raise UnreadableAudioError(f"{path!r}: it has no audio stream", "leave it out")
    stream = container.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not 0 < rate <= MAX_RATE_HZ or not 0 < channels <= MAX_CHANNELS:
        what = f"its header claims {rate} Hz and {channels} channels"
        limit = f"at most {MAX_RATE_HZ} Hz and {MAX_CHANNELS} channels are read"
        raise UnreadableAudioError(f"{path!r}: {what}; {limit}")
    return stream


def probe(path: str, config: StorageConfig = DEFAULT) -> dict[str, Any]:
    """The claims of the header, as the columns of RECORDINGS; raises UnreadableAudioError."""
    container, file = open_container(path, config)
    with container, closing(file):
        stream = audio_stream(container, path)
        context = stream.codec_context
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / av.time_base
        else:
            duration_s = None
        return {
            "container": container.format.name,
            "codec": context.name,
            "sample_rate": context.sample_rate,
            "channels": context.channels,
            "channel_layout": context.layout.name,
            "bit_depth": bit_depth(context),
            "claimed_duration_s": duration_s,
        }


def bit_depth(context: av.AudioCodecContext) -> int | None:
    """Bits of a sample as coded: those of PCM (8 for mu-law and A-law), FLAC and ALAC; None where a codec has no such.

    Read from names and headers, since the sample format that FFmpeg decodes to is wider: 32 bits for 24, 16 for mu-law.
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

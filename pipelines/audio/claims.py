"""The duration that a header claims. Durations that FFmpeg only estimates, or that are impossible, do not count."""

from __future__ import annotations

import math
import re
import struct

import av

from pipelines.audio.headers import Readable, SoundData

WITH_LENGTH = {
    "aiff", "ape", "asf", "au", "avi", "caf", "dsf", "flac", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mp3",
    "mpc", "mpc8", "nistsphere", "ogg", "rm", "tak", "tta", "w64", "wav", "wv",
}  # fmt: skip
"""Containers, by their names in FFmpeg, that store the duration. For others (raw AAC, AC-3 and AMR, transport streams)
FFmpeg divides the size by a bit rate, or subtracts two times."""
MAX_CLAIM_S = 1e7
"""Longer claims than this, about 2,800 hours, are ignored."""
LEAST_BYTES_PER_S = 1.0
"""Bytes that a second takes at least with any codec. Two hours of digital silence take 363 kB in FLAC."""
MAX_ID3_TAGS = 16
FRAME_BYTES = 1 << 12
"""Bytes that are searched for the first frame of an MP3. JUNK_BYTES are searched if other data comes before it."""
JUNK_BYTES = 1 << 16
MP3_TOLERANCE_S = 0.3
OGG_PAGE_BYTES = 65_307
"""The size of the largest page. Most pages have 4 kB."""
MATROSKA_INFO, MATROSKA_DURATION = b"\x15\x49\xa9\x66", b"\x44\x89"
MATROSKA_BYTES = (1 << 12, 1 << 18)
"""Bytes that are searched for the segment's description; the second number if it is not in the first bytes."""


def claimed_duration_s(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    file: Readable,
    size_bytes: int,
    data: SoundData | None,
    bit_depth: int | None,
) -> float | None:
    """Return the seconds that the header claims; None if it claims nothing, or something impossible.

    For plain samples in a chunked format, they are computed from the bytes of sound. It moves the position in `file`.

    Args:
        container: The open container.
        stream: The audio stream.
        file: The file, as FFmpeg reads it.
        size_bytes: The size of the file.
        data: Where the sound is, for chunked formats.
        bit_depth: Bits of a sample of PCM.
    """
    context = stream.codec_context
    pcm_bytes_per_s = 0.0
    if context.name.startswith("pcm_") and bit_depth:
        block_bytes = context.channels * bit_depth / 8
        pcm_bytes_per_s = block_bytes * context.sample_rate
        if data is not None:
            return data.size // block_bytes / context.sample_rate
    if stream.duration is not None and stream.time_base is not None:
        claimed_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        claimed_s = container.duration / av.time_base
    else:
        return None
    least_bytes_per_s = 0.9 * pcm_bytes_per_s or LEAST_BYTES_PER_S
    if not 0 <= claimed_s <= min(MAX_CLAIM_S, 1 + size_bytes / least_bytes_per_s):
        return None
    return claimed_s if _is_claim(container.format.name, claimed_s, file, size_bytes) else None


def _is_claim(name: str, claimed_s: float, file: Readable, size_bytes: int) -> bool:
    """Return whether a duration is stored in the file, and not an estimate of FFmpeg."""
    if name == "mp3":
        counted_s = mp3_duration_s(file)
        return counted_s is not None and math.isclose(counted_s, claimed_s, abs_tol=MP3_TOLERANCE_S)
    if name == "ogg":
        return not is_chained(file, size_bytes)
    if name == "matroska,webm":
        for size in MATROSKA_BYTES:
            file.seek(0)
            _, found, info = file.read(size).partition(MATROSKA_INFO)
            if MATROSKA_DURATION in info[:1024]:
                return True
            if found and len(info) >= 1024:
                return False
        return False
    return name in WITH_LENGTH


def mp3_duration_s(file: Readable) -> float | None:
    """Return the seconds by the frame count in the first frame of an MP3 (Xing, Info or VBRI); None without a count."""
    start = 0
    for _ in range(MAX_ID3_TAGS):
        file.seek(start)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            break
        size = sum((byte & 127) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if tag[5] & 0x10 else 0)
    for size in (FRAME_BYTES, JUNK_BYTES):
        file.seek(start)
        head = file.read(size)
        if (match := re.search(rb"Xing|Info|VBRI", head)) or _mp3_frame(head[:8]):
            break
    frame = _mp3_frame(head[: match.start()]) if match else None
    if match is None or frame is None:
        return None
    samples, rate = frame
    at = match.start()
    if match[0] == b"VBRI":
        fields = head[at + 14 : at + 18]
    else:
        fields = head[at + 8 : at + 12] if len(head) > at + 7 and head[at + 7] & 1 else b""
    return struct.unpack(">I", fields)[0] * samples / rate if len(fields) == 4 else None


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Return samples per frame and sampling rate, by the last frame header in the last 64 bytes of `head`."""
    for at in range(len(head) - 4, max(-1, len(head) - 64), -1):
        if head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
            continue
        version, layer, rate = head[at + 1] >> 3 & 3, head[at + 1] >> 1 & 3, head[at + 2] >> 2 & 3
        if version == 1 or layer != 1 or rate == 3:
            continue
        hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
        return (1152 if version == 3 else 576), hertz
    return None


def is_chained(file: Readable, size_bytes: int) -> bool:
    """Return whether the last page of an Ogg file is of a later stream, whose time FFmpeg takes for the duration."""
    serials = set()
    offset = 0
    for _ in range(64):
        file.seek(offset)
        page = file.read(27 + 255)
        if len(page) < 27 or page[:4] != b"OggS" or not page[5] & 2:
            break
        serials.add(page[14:18])
        offset += 27 + page[26] + sum(page[27 : 27 + page[26]])
    for size in (OGG_PAGE_BYTES // 8, 2 * OGG_PAGE_BYTES):
        file.seek(max(0, size_bytes - size))
        tail = file.read(size)
        if 0 <= (at := tail.rfind(b"OggS")) <= len(tail) - 18:
            return tail[at + 14 : at + 18] not in serials
    return True

"""Small real sounds in many containers, made on the spot, and the places in them where a header makes a claim."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import cache

import av
import numpy as np
import soundfile

RATE = 16000
SECONDS = 0.4

BY_SOUNDFILE = {
    "wav": ("WAV", "PCM_16", 1),
    "wav_24_stereo": ("WAVEX", "PCM_24", 2),
    "wav_float": ("WAV", "FLOAT", 1),
    "wav_double": ("WAV", "DOUBLE", 2),
    "wav_ulaw": ("WAV", "ULAW", 1),
    "wav_ima": ("WAV", "IMA_ADPCM", 1),
    "wav_u8": ("WAV", "PCM_U8", 1),
    "rf64": ("RF64", "PCM_16", 1),
    "w64": ("W64", "PCM_16", 2),
    "aiff": ("AIFF", "PCM_16", 2),
    "aifc_float": ("AIFF", "FLOAT", 1),
    "caf": ("CAF", "PCM_16", 1),
    "caf_alac": ("CAF", "ALAC_16", 1),
    "au": ("AU", "PCM_16", 1),
    "au_alaw": ("AU", "ALAW", 1),
    "flac": ("FLAC", "PCM_16", 2),
    "flac_24": ("FLAC", "PCM_24", 1),
    "voc": ("VOC", "PCM_16", 1),
    "nist": ("NIST", "PCM_16", 1),
    "ircam": ("IRCAM", "PCM_16", 1),
    "mp3": ("MP3", "MPEG_LAYER_III", 1),
}
"""Format and subtype of libsndfile, channels."""
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
BY_FFMPEG: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "ogg_vorbis": ("ogg", "vorbis", 2, {}),
    "ogg_opus": ("ogg", "libopus", 1, {}),
    "mp3_stereo": ("mp3", "libmp3lame", 2, {"write_xing": "1"}),
    "mp2": ("mp2", "mp2", 1, {}),
    "mp4_aac": ("mp4", "aac", 1, {}),
    "mp4_fragments": ("mp4", "aac", 1, FRAGMENTED),
    "m4a_alac": ("ipod", "alac", 2, {}),
    "mov_pcm": ("mov", "pcm_s16le", 1, {}),
    "mkv_opus": ("matroska", "libopus", 1, {}),
    "mkv_pcm": ("matroska", "pcm_s16le", 2, {}),
    "webm_opus": ("webm", "libopus", 2, {}),
    "ts_aac": ("mpegts", "aac", 1, {}),
    "ts_mp2": ("mpegts", "mp2", 1, {}),
    "adts": ("adts", "aac", 1, {}),
    "wavpack": ("wv", "wavpack", 1, {}),
    "tta": ("tta", "tta", 1, {}),
    "wma": ("asf", "wmav2", 1, {}),
    "avi_mp3": ("avi", "libmp3lame", 1, {}),
    "avi_pcm": ("avi", "pcm_s16le", 1, {}),
    "flv_aac": ("flv", "aac", 1, {}),
    "nut_pcm": ("nut", "pcm_s16le", 1, {}),
}
"""Muxer and encoder of FFmpeg, channels, options of the muxer."""
NAMES = (*BY_SOUNDFILE, *BY_FFMPEG)


@cache
def sound(name: str) -> bytes:
    """The bytes of one of `NAMES`: 0.4 s of a wavering tone at 16 kHz."""
    if name in BY_SOUNDFILE:
        kind, subtype, channels = BY_SOUNDFILE[name]
        file = io.BytesIO()
        soundfile.write(file, samples(channels).T, RATE, format=kind, subtype=subtype)
        return file.getvalue()
    muxer, encoder, channels, options = BY_FFMPEG[name]
    return _muxed(muxer, encoder, channels, options)


def samples(channels: int) -> np.ndarray:
    """float32 (channels, n): unlike in each channel."""
    time_s = np.arange(int(SECONDS * RATE)) / RATE
    tones = [0.4 * np.sin(2 * np.pi * (200 + 90 * c) * time_s) * np.sin(3 * time_s + c) for c in range(channels)]
    return np.stack(tones).astype(np.float32)


def _muxed(muxer: str, encoder: str, channels: int, options: dict[str, str]) -> bytes:
    layout = "mono" if channels == 1 else "stereo"
    file = io.BytesIO()
    # Bit exact: no random ids and no dates, so that the same plan makes the same bytes.
    with av.open(file, "w", format=muxer, options=options | {"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=RATE, layout=layout)
        stream.bit_rate = 64000
        stream.codec_context.options = {"flags": "+bitexact", "strict": "experimental"}
        codec_format = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(codec_format, layout, RATE, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples(channels), "fltp", layout)
        frame.sample_rate = RATE
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    return file.getvalue()


Field = tuple[int, int, str]
"""Where a header claims a number: offset, width in bytes, byte order."""


@cache
def fields(name: str) -> tuple[Field, ...]:
    """The numbers that the containers of a sound claim: sizes, counts, rates. Never empty."""
    data = sound(name)
    found = list(_fields(data)) or [(offset, 4, "little") for offset in range(0, min(len(data), 256), 4)]
    return tuple(field for field in found if field[0] + field[1] <= len(data))


def _fields(data: bytes) -> Iterator[Field]:
    if data[:4] in (b"RIFF", b"RF64", b"FORM"):
        yield from _chunks(data, "big" if data[:4] == b"FORM" else "little")
    elif data[:4] == b"riff":
        yield from ((offset, 8, "little") for offset in _steps(data, 16, "little", header=24, align=8, inclusive=True))
        yield from ((at, 2, "little") for at in range(64, 84, 2))
    elif data[:4] == b"caff":
        yield from _caf(data)
    elif data[:4] == b".snd":
        yield from ((at, 4, "big") for at in range(4, 24, 4))
    elif data[:4] == b"fLaC":
        yield from [(5, 3, "big"), (8, 2, "big"), (10, 2, "big"), (12, 3, "big"), (15, 3, "big"), (18, 4, "big")]
        yield from [(22, 4, "big"), (4, 1, "big"), (42, 1, "big"), (43, 3, "big")]
    elif data[:4] == b"OggS":
        for at in _finds(data, b"OggS"):
            yield from [(at + 5, 1, "little"), (at + 6, 8, "little"), (at + 14, 4, "little"), (at + 18, 4, "little")]
            yield from [(at + 26, 1, "little"), (at + 27, 1, "little"), (at + 40, 4, "little")]
    elif data[4:8] in (b"ftyp", b"wide"):
        yield from _boxes(data, 0, len(data))
    elif data[:4] == b"\x1aE\xdf\xa3":
        yield from _elements(data, 0, len(data))
    elif data[:1] == b"G" and data[188:189] == b"G":
        yield from ((at + k, 1, "big") for at in range(0, len(data) - 12, 188) for k in (1, 2, 3, 4, 5, 8, 9, 11))


def _chunks(data: bytes, order: str) -> Iterator[Field]:
    """RIFF and AIFF: sizes of chunks, and the numbers at the head of each."""
    at, offset = 4, 12
    yield (at, 4, order)
    while offset + 8 <= len(data):
        yield (offset + 4, 4, order)
        if data[offset : offset + 4] not in (b"data", b"SSND", b"movi"):
            yield from ((offset + 8 + at, width, order) for at in range(0, 24, 2) for width in (2, 4))
        if data[offset : offset + 4] == b"LIST":
            offset += 12  # into the list
            continue
        (size,) = struct.unpack(">I" if order == "big" else "<I", data[offset + 4 : offset + 8])
        offset += 8 + size + size % 2


def _steps(data: bytes, at: int, order: str, header: int, align: int, inclusive: bool) -> Iterator[int]:
    """Offsets of the 64-bit sizes of Sony Wave64's chunks."""
    yield at
    offset = 40
    while offset + header <= len(data):
        yield offset + 16
        size = int.from_bytes(data[offset + 16 : offset + 24], order)  # type: ignore[arg-type]
        offset += max(header, size + -size % align)


def _caf(data: bytes) -> Iterator[Field]:
    offset = 8
    while offset + 12 <= len(data):
        yield (offset + 4, 8, "big")
        if data[offset : offset + 4] in (b"desc", b"pakt", b"kuki"):
            yield from ((offset + 12 + at, 4, "big") for at in range(0, 32, 4))
        offset += 12 + max(0, int.from_bytes(data[offset + 4 : offset + 12], "big", signed=True))


BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf")


def _boxes(data: bytes, offset: int, stop: int) -> Iterator[Field]:
    """MP4: sizes of boxes, and the numbers at the head of those that hold no others."""
    while offset + 8 <= stop:
        size = int.from_bytes(data[offset : offset + 4], "big")
        size = size if size >= 8 else stop - offset
        yield (offset, 4, "big")
        if data[offset + 4 : offset + 8] in BOXES:
            yield from _boxes(data, offset + 8, min(stop, offset + size))
        elif data[offset + 4 : offset + 8] != b"mdat":
            yield from ((at, 4, "big") for at in range(offset + 8, min(offset + size, offset + 72), 4))
        offset += size


EBML_MASTERS = (0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE1, 0x1F43B675, 0xA0, 0x1C53BB6B, 0xBB, 0x114D9B74)


def _elements(data: bytes, offset: int, stop: int) -> Iterator[Field]:
    """Matroska: sizes of elements, and the numbers that small ones hold."""
    while offset < stop:
        identity, width = _vint(data, offset, keep_mark=True)
        size, size_width = _vint(data, offset + width, keep_mark=False)
        body = offset + width + size_width
        if not width or not size_width:
            return
        yield (offset + width, size_width, "big")
        if identity in EBML_MASTERS:
            yield from _elements(data, body, min(stop, body + size))
        elif 0 < size <= 8:
            yield (body, size, "big")
        offset = body + size


def _vint(data: bytes, offset: int, keep_mark: bool) -> tuple[int, int]:
    if offset >= len(data) or not data[offset]:
        return 0, 0
    width = 9 - data[offset].bit_length()
    value = int.from_bytes(data[offset : offset + width], "big")
    return (value if keep_mark else value & ~(1 << 7 * width)), width


def _finds(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)

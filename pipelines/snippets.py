"""Excerpts for the report: a few seconds of a recording as Opus, as a mel picture and as an envelope, in one decode."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import av
import numpy as np

from encoders.logmel import LogMel, LogMelConfig, hz_to_mel
from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.sound import TrackStream, present
from runtime.errors import SpeechmillError, UnreadableAudioError

RATE = 24_000
EXCERPT_S = 20.0
BIT_RATE = 24_000
"""Of Opus, per track; speech is transparent enough to judge and an excerpt takes 60 kB."""
ENVELOPE_POINTS = 700
RANGE_LN = 9.0
"""Natural logarithms of magnitude from the darkest to the brightest of a picture: 78 dB."""
TICKS_HZ = (100, 500, 1000, 2000, 4000, 7000)

# Every third frame of the paper's features: as many columns as a screen has.
ENCODER = LogMel(LogMelConfig(hop_samples=900))


def snippet(row: Mapping[str, Any], start_s: float, config: StorageConfig = DEFAULT) -> dict[str, Any]:
    """What the report embeds of a recording (a row of the view `annotations`), from `start_s` on.

    Keys: `audio` (WebM with Opus, base64), `excerpt` (its place, picture and envelope), `mel` (ticks of the picture)
    and `sound`, a sentence. A recording that was never decoded adds nothing; one that cannot be read now says why.
    """
    if row.get("channel_relation") is None:
        return {}
    try:
        sound = _cut(present(row, config), row, start_s, config)
    except SpeechmillError as error:
        return {"sound": f"Its sound cannot be read now: {error}; remedy: {error.remedy}"}
    length_s = sound.shape[1] / RATE
    tracks = f", {len(sound)} tracks: left and right" if len(sound) == 2 else ""
    return {
        "audio": base64.b64encode(opus(sound)).decode(),
        "excerpt": {"start_s": start_s, "duration_s": length_s, **_picture(sound), **_envelope(sound)},
        "mel": mel_ticks(),
        "sound": f"Excerpt of {length_s:.1f} s from {start_s:.1f} s on{tracks}.",
    }


def _cut(uri: str, row: Mapping[str, Any], start_s: float, config: StorageConfig) -> np.ndarray:
    """float32 (tracks, samples) at RATE; more than two tracks are mixed."""
    first, last = round(start_s * RATE), round((start_s + EXCERPT_S) * RATE)
    held: list[np.ndarray] = []
    position = 0
    with closing(TrackStream(uri, RATE, row, config)) as stream:
        for block in stream:
            held.append(block[:, max(0, first - position) : max(0, last - position)])
            position += block.shape[1]
            if position >= last:
                break
    sound = np.concatenate(held, axis=1)
    if not sound.shape[1]:
        raise UnreadableAudioError(f"{uri!r}: ends before {start_s:.1f} s", "ingest and annotate it again")
    return sound if len(sound) <= 2 else sound.mean(axis=0, keepdims=True)


def opus(sound: np.ndarray) -> bytes:
    """float32 (1 or 2, samples) at RATE as a WebM file with Opus."""
    layout = "mono" if len(sound) == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=RATE, layout=layout, bit_rate=BIT_RATE * len(sound))
        interleaved = np.ascontiguousarray(np.clip(sound, -1, 1).T.reshape(1, -1), np.float32)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def _picture(sound: np.ndarray) -> dict[str, Any]:
    """The log-mel picture, one byte a value, bands from low to high; of two tracks the louder shows."""
    hop = ENCODER.hop_samples
    if sound.shape[1] < hop:
        sound = np.pad(sound, ((0, 0), (0, hop - sound.shape[1])))
    (features,) = ENCODER.encode([ENCODER.cut(sound, 0, sound.shape[1] // hop)])
    picture = features.max(axis=0).T
    levels = (picture - picture.max() + RANGE_LN) / RANGE_LN
    pixels = (np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return {"mel": base64.b64encode(pixels.tobytes()).decode(), "shape": pixels.shape, "dx_s": hop / RATE}


def _envelope(sound: np.ndarray) -> dict[str, Any]:
    """Lowest and highest sample of each of at most ENVELOPE_POINTS steps, -127 to 127 at the excerpt's own peak."""
    step = max(1, -(-sound.shape[1] // ENVELOPE_POINTS))
    scale = 127 / max(1e-9, float(np.abs(sound).max()))
    starts = np.arange(0, sound.shape[1], step)
    low, high = np.minimum.reduceat(sound, starts, axis=1), np.maximum.reduceat(sound, starts, axis=1)
    rounded = [
        {"low": np.rint(a * scale).astype(int).tolist(), "high": np.rint(b * scale).astype(int).tolist()}
        for a, b in zip(low, high, strict=True)
    ]
    return {"wave": rounded, "wave_dx_s": step / RATE}


def mel_ticks() -> dict[str, list[Any]]:
    """Where the bands of round frequencies lie in a picture, and their names."""
    config = ENCODER.config
    low, high = hz_to_mel(np.array([config.fmin_hz, config.fmax_hz]))
    bands = (hz_to_mel(np.array(TICKS_HZ)) - low) / (high - low) * (config.num_mels + 1) - 1
    names = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in TICKS_HZ]
    return {"vals": [round(float(band), 2) for band in bands], "texts": names}

"""Excerpts for the report: a few seconds of a recording as Opus, mel picture and envelope, from one decode."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import av
import numpy as np
import soxr

from encoders.base import Encoder, WindowSound
from encoders.logmel import LogMel
from encoders.mel import LogMelConfig, hz_to_mel
from encoders.roundtrip import round_trip
from encoders.vocoders import choose_vocoder
from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT
from pipelines.audio.reach import first_available_uri
from pipelines.audio.sound import TrackStream
from runtime.errors import SpeechmillError, UnreadableAudioError

RATE = 24_000
EXCERPT_S = 20.0
DECODED_S = 5.0
"""Seconds of an excerpt that are encoded and decoded. HiFi-GAN needs twice that time on one core."""
BIT_RATE = 24_000
"""Opus bits per second and track: enough to judge speech, at 60 kB for an excerpt."""
ENVELOPE_POINTS = 700
RANGE_LN = 9.0
"""Range of the picture from its darkest to its brightest colour, in nepers of magnitude: 78 dB."""
TICKS_HZ = (100, 500, 1000, 2000, 4000, 7000)

# The hop is three times that of the paper, which gives a picture as many columns as a screen has.
ENCODER = LogMel(LogMelConfig(hop_samples=900))


def snippet(row: Mapping[str, Any], start_s: float, config: StorageConfig = DEFAULT) -> dict[str, Any]:
    """The data that the report embeds for a recording (a row of the view `annotations`), from `start_s` on.

    Keys: `audio` (WebM with Opus, base64), `excerpt` (its place, picture and envelope), `mel` (ticks of the picture)
    and `sound`, a sentence. Empty for a recording that was never decoded. If a recording cannot be read now, only
    `sound` is returned, with the error.
    """
    if row.get("channel_relation") is None:
        return {}
    try:
        first, last = round(start_s * RATE), round((start_s + EXCERPT_S) * RATE)
        sound = _cut(first_available_uri(row, config), row, first, last, config)
    except SpeechmillError as error:
        return {"sound": f"Its sound cannot be read now: {error}; remedy: {error.remedy}"}
    length_s = sound.shape[1] / RATE
    tracks = f", with {len(sound)} tracks, left and right" if len(sound) == 2 else ""
    return {
        "audio": base64.b64encode(opus(sound)).decode(),
        "excerpt": {"start_s": start_s, "duration_s": length_s, **_picture(sound), **_envelope(sound)},
        "mel": mel_ticks(),
        "sound": f"Excerpt of {length_s:.1f} s from {start_s:.1f} s on{tracks}.",
    }


def _cut(
    uri: str, row: Mapping[str, Any], first: int, last: int, config: StorageConfig, rate: int = RATE
) -> np.ndarray:
    """Samples from `first` up to `last`, or to the end of the recording, as float32 (tracks, samples) at `rate`.

    More than two tracks are mixed into one.
    """
    held: list[np.ndarray] = []
    position = 0
    with closing(TrackStream(uri, rate, row, config)) as stream:
        for block in stream:
            held.append(block[:, max(0, first - position) : max(0, last - position)])
            position += block.shape[1]
            if position >= last:
                break
    sound = np.concatenate(held, axis=1)
    if not sound.shape[1]:
        raise UnreadableAudioError(f"{uri!r}: ends before {first / rate:.1f} s", "ingest and annotate it again")
    return sound if len(sound) <= 2 else sound.mean(axis=0, keepdims=True)


class RoundTrips:
    """Encodes and decodes the sound of the first recordings that it is called with."""

    def __init__(self, encoder: Encoder, most: int, config: StorageConfig = DEFAULT) -> None:
        """`most` is the largest number of recordings: a vocoder takes longer than the sound that it makes."""
        self.encoder, self.left, self.config = encoder, most, config

    def __call__(self, row: Mapping[str, Any], start_s: float) -> dict[str, Any]:
        """The data that the report embeds besides `snippet`; empty after `most` recordings.

        Keys: `decoded` (WebM with Opus, base64) and `decoded_label`, a sentence. The features equal those that a window
        from `start_s` on has in a shard.
        """
        if not self.left or row.get("channel_relation") is None:
            return {}
        encoder = self.encoder
        begin = round(start_s * encoder.frame_rate) * encoder.hop_samples
        before, most = min(begin, encoder.look_back_samples), int(DECODED_S * encoder.frame_rate)
        end = begin + most * encoder.hop_samples + encoder.look_ahead_samples
        try:
            sound = _cut(
                first_available_uri(row, self.config), row, begin - before, end, self.config, encoder.sample_rate
            )
            frames = min(most, encoder.frames(sound.shape[1] - before))
            sound = sound[:, : before + frames * encoder.hop_samples + encoder.look_ahead_samples]
            decoded = round_trip(encoder, WindowSound(sound, before, frames))
        except SpeechmillError as error:
            return {"decoded_label": f"No round trip can be made now: {error}; remedy: {error.remedy}"}
        self.left -= 1
        at_rate = soxr.resample(np.ascontiguousarray(decoded.T), encoder.sample_rate, RATE).T
        by = f" by {choose_vocoder(encoder.vocoder)}" if encoder.vocoder else ""
        length_s = decoded.shape[1] / encoder.sample_rate
        label = f"The first {length_s:.1f} s, decoded from {encoder.name} features{by}"
        return {"decoded": base64.b64encode(opus(at_rate)).decode(), "decoded_label": label}


def opus(sound: np.ndarray) -> bytes:
    """Encode float32 (1 or 2, samples) at RATE as a WebM file with Opus."""
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
    """The log-mel picture as one byte per value, bands from low to high; the louder of two tracks is shown."""
    hop = ENCODER.hop_samples
    if sound.shape[1] < hop:
        sound = np.pad(sound, ((0, 0), (0, hop - sound.shape[1])))
    (features,) = ENCODER.encode([ENCODER.cut(sound, 0, sound.shape[1] // hop)])
    picture = features.max(axis=0).T
    levels = (picture - picture.max() + RANGE_LN) / RANGE_LN
    pixels = (np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return {"mel": base64.b64encode(pixels.tobytes()).decode(), "shape": pixels.shape, "dx_s": hop / RATE}


def _envelope(sound: np.ndarray) -> dict[str, Any]:
    """Lowest and highest sample in each of at most ENVELOPE_POINTS steps, scaled to +-127 at the excerpt's peak."""
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
    """The positions of round frequencies in a picture, and their names."""
    config = ENCODER.config
    low, high = hz_to_mel(np.array([config.fmin_hz, config.fmax_hz]))
    bands = (hz_to_mel(np.array(TICKS_HZ)) - low) / (high - low) * (config.num_mels + 1) - 1
    names = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in TICKS_HZ]
    return {"vals": [round(float(band), 2) for band in bands], "texts": names}

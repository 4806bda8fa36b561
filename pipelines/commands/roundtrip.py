"""A round trip: encodes a file's sound and decodes it again, to show what an encoder preserves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.distances import PACKAGES, distances
from encoders.roundtrip import round_trip
from encoders.vocoders import choose_vocoder
from manifests.install import install
from pipelines.audio.files import DEFAULT
from pipelines.audio.resample import resampled
from pipelines.commands.inspect import picture, read_span, write

if TYPE_CHECKING:
    from encoders.base import Encoder


def roundtrip(
    file: str, start_s: float | None, end_s: float | None, encoder: Encoder, output: Path
) -> Mapping[str, Any]:
    """Encode and decode a stretch of a file.

    Writes the decoded sound to `output`, and a picture of both spectrograms beside it under the same name. The rest
    after the last whole frame is left out.

    Returns the JSON document that docs/hearing.md describes.
    """
    sound, rate = read_span({"uris": [file], "size_bytes": None}, start_s or 0.0, end_s, DEFAULT)
    encoder.setup()
    sound = np.concatenate(list(resampled([sound], rate, encoder.sample_rate)), axis=1)
    frames, rate = encoder.frames(sound.shape[1]), encoder.sample_rate
    decoded = round_trip(encoder, encoder.cut(sound, 0, frames))
    sound = sound[:, : decoded.shape[1]]
    write(output, decoded, rate)
    drawn = output.with_suffix(".png")
    tracks = range(len(sound))
    names = [f"{what} {track}" if len(tracks) > 1 else what for track in tracks for what in ("original", "decoded")]
    panels = np.stack([sound, decoded], axis=1).reshape(2 * len(tracks), -1)
    picture(drawn, panels, rate, start_s or 0.0, names)
    found = [distances(sound[track], decoded[track], rate) for track in tracks]
    return {
        "file": file,
        "start_s": start_s or 0.0,
        "duration_s": sound.shape[1] / rate,
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "vocoder": encoder.vocoder and choose_vocoder(encoder.vocoder),
        "sample_rate": rate,
        "frames": frames,
        "dim": encoder.dim,
        "tracks": found,
        "not_measured": _not_measured(),
        "sound": str(output),
        "picture": str(drawn),
    }


def _not_measured() -> dict[str, str]:
    """The distances whose package is not installed, each with the command that installs it."""
    from importlib.util import find_spec

    packages = {"pesq": "pesq", "stoi": "pystoi"}
    return {name: install([extra]) for name, extra in PACKAGES.items() if find_spec(packages[name]) is None}

"""Encode a window and decode it again, to hear what its stored features preserve."""

from __future__ import annotations

import numpy as np

from encoders.base import Encoder, WindowSound
from runtime.errors import SpeechmillError


def round_trip(encoder: Encoder, window: WindowSound) -> np.ndarray:
    """Encode a window, round its features to float16 as a shard stores them, and decode them.

    Returns:
        Sound, float32 (tracks, frames * hop_samples).

    Raises:
        SpeechmillError: The window is shorter than a frame, or the encoder has no decoder.
    """
    if not window.frames:
        hop_s = encoder.hop_samples / encoder.sample_rate
        what = f"{window.sound.shape[1] / encoder.sample_rate:.3f} s of sound are less than a frame of {encoder.name}"
        raise SpeechmillError(what, f"take at least {hop_s:.3f} s")
    (features,) = encoder.encode([window])
    try:
        return encoder.decode(features.astype(np.float16).astype(np.float32))
    except NotImplementedError as error:
        raise SpeechmillError(
            f"the encoder {encoder.name} has no decoder",
            "choose an encoder with one: `speechmill encoder list` shows which have",
        ) from error

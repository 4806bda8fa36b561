"""A round trip: what is heard of a window after it was stored as features."""

from __future__ import annotations

import numpy as np

from encoders.base import Encoder, WindowSound
from runtime.errors import SpeechmillError


def decoded_again(encoder: Encoder, window: WindowSound) -> np.ndarray:
    """Sound, float32 (tracks, frames * hop_samples), of the features of a window in float16, as a shard holds them.

    SpeechmillError where the window has no frame or the encoder no decoder.
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
            f"the encoder {encoder.name} has no decoder", "name one that has: `speechmill encoder list` tells which"
        ) from error

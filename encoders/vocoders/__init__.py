"""Vocoders turn log-mel features back into sound: HiFi-GAN if it is installed, otherwise Griffin-Lim."""

from __future__ import annotations

import numpy as np

from encoders.mel import LogMelConfig
from encoders.vocoders.bridge import convert_layout
from runtime.errors import MissingExtraError

VOCODERS = ("auto", "hifigan", "griffin-lim")


def choose_vocoder(vocoder: str) -> str:
    """Return 'hifigan' or 'griffin-lim'. 'auto' means 'hifigan' if its packages are installed.

    Raises:
        ValueError: `vocoder` is not one of VOCODERS.
    """
    from importlib.util import find_spec

    from encoders.vocoders.hifigan import MODEL
    from runtime.models import find

    if vocoder not in VOCODERS:
        raise ValueError(f"vocoder must be one of {', '.join(VOCODERS)}, not {vocoder!r}")
    if vocoder != "auto":
        return vocoder
    try:
        find(MODEL)
    except MissingExtraError:
        return "griffin-lim"
    return "hifigan" if find_spec("torch") else "griffin-lim"


def synthesise(features: np.ndarray, config: LogMelConfig, vocoder: str = "auto", device: str = "cpu") -> np.ndarray:
    """Turn log-mel features into sound.

    Args:
        features: float32 (frames, num_mels) in the layout `config`. For HiFi-GAN they are converted by `convert_layout`
            if that is not its own layout.
        config: Layout of the features.
        vocoder: One of VOCODERS.
        device: Device on which HiFi-GAN runs.

    Returns:
        float32 (frames * hop_samples,) at `config.sample_rate`.

    Raises:
        MissingExtraError: The vocoder is not installed.
    """
    name = choose_vocoder(vocoder)
    if not len(features):
        return np.zeros(0, np.float32)
    return _hifigan(features, config, device) if name == "hifigan" else _griffin_lim(features, config)


def _hifigan(features: np.ndarray, config: LogMelConfig, device: str) -> np.ndarray:
    import soxr

    from encoders.vocoders import hifigan

    layout, samples = hifigan.LAYOUT, len(features) * config.hop_samples
    vocoder = hifigan.load(device)
    if config == layout:
        # `LogMel` centres frame t on sample t * hop. The vocoder takes the frame to be centred half a hop later, so its
        # output is late by half a hop.
        delay = layout.hop_samples // 2
        sound = vocoder.synthesise(np.concatenate([features, features[-1:]]))[delay:]
    else:
        sound = soxr.resample(
            vocoder.synthesise(convert_layout(features, config, layout)), layout.sample_rate, config.sample_rate
        )
    return np.pad(sound[:samples], (0, max(0, samples - len(sound)))).astype(np.float32)


def _griffin_lim(features: np.ndarray, config: LogMelConfig) -> np.ndarray:
    try:
        from librosa import griffinlim
        from librosa.feature.inverse import mel_to_stft
    except ImportError as error:
        from encoders.vocoders.hifigan import MODEL
        from runtime.models import get

        raise MissingExtraError(f"turning log-mel features into sound needs {error.name}", get(MODEL).pip) from error

    # librosa expects one frame more than there are hops, centred on the end of the last hop.
    levels = np.exp(np.concatenate([features, features[-1:]]).T.astype(np.float64))
    band = {"fmin": config.fmin_hz, "fmax": config.fmax_hz}
    magnitudes = mel_to_stft(levels, sr=config.sample_rate, n_fft=config.n_fft, power=1.0, **band)
    sound: np.ndarray = griffinlim(
        magnitudes,
        hop_length=config.hop_samples,
        win_length=config.window_samples,
        n_fft=config.n_fft,
        length=len(features) * config.hop_samples,
        random_state=0,  # seed of the initial phases
    )
    return sound.astype(np.float32)

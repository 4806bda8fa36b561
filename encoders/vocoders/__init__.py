"""From log-mel features back to sound: by the vocoder HiFi-GAN where it is installed, else by Griffin-Lim."""

from __future__ import annotations

import numpy as np

from encoders.mel import LogMelConfig
from encoders.vocoders.bridge import bridged
from runtime.errors import MissingExtraError

VOCODERS = ("auto", "hifigan", "griffin-lim")


def chosen(vocoder: str) -> str:
    """'hifigan' or 'griffin-lim': 'auto' is 'hifigan' where its packages are installed. ValueError for another name."""
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
    """Sound, float32 (frames * hop_samples,) at `config.sample_rate`, of features float32 (frames, num_mels).

    HiFi-GAN is given the features as they are where `config` is its own layout, and otherwise through `bridged`.
    MissingExtraError where the named vocoder is not installed.
    """
    name = chosen(vocoder)
    if not len(features):
        return np.zeros(0, np.float32)
    return _hifigan(features, config, device) if name == "hifigan" else _griffin_lim(features, config)


def _hifigan(features: np.ndarray, config: LogMelConfig, device: str) -> np.ndarray:
    import soxr

    from encoders.vocoders import hifigan

    layout, samples = hifigan.LAYOUT, len(features) * config.hop_samples
    vocoder = hifigan.load(device)
    if config == layout:
        # The sound of frame t is what follows sample t * hop, but `LogMel` centres the frame on that sample and the
        # vocoder on the middle of what it makes: its sound comes half a hop late.
        late = layout.hop_samples // 2
        sound = vocoder.synthesise(np.concatenate([features, features[-1:]]))[late:]
    else:
        sound = soxr.resample(
            vocoder.synthesise(bridged(features, config, layout)), layout.sample_rate, config.sample_rate
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

    # librosa has a frame more than hops: the one centred on the end of the last.
    levels = np.exp(np.concatenate([features, features[-1:]]).T.astype(np.float64))
    band = {"fmin": config.fmin_hz, "fmax": config.fmax_hz}
    magnitudes = mel_to_stft(levels, sr=config.sample_rate, n_fft=config.n_fft, power=1.0, **band)
    sound: np.ndarray = griffinlim(
        magnitudes,
        hop_length=config.hop_samples,
        win_length=config.window_samples,
        n_fft=config.n_fft,
        length=len(features) * config.hop_samples,
        random_state=0,  # the phases that it begins with
    )
    return sound.astype(np.float32)

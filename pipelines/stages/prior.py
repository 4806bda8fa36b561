"""The prior of the stage `language`: how many people speak each language."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

# Populations by language over all territories, from Unicode CLDR in the package language_data 1.4.0.
MILLIONS: dict[str, float] = {
    "en": 1730, "zh": 1330, "hi": 582, "es": 507, "ar": 379, "fr": 333, "ur": 313, "bn": 280, "pt": 249, "pa": 220,
    "sw": 194, "ru": 194, "id": 181, "yue": 155, "de": 142, "ja": 118, "te": 101, "mr": 98.6, "jv": 96.1, "vi": 92.4,
    "ta": 90.6, "fa": 89.2, "tr": 82.4, "ko": 79.3, "tl": 73.2, "it": 70.5, "gu": 65.6, "ps": 58.1, "th": 55.9,
    "kn": 52.1, "ml": 45.9, "ha": 45.2, "sd": 43.5, "pl": 41.5, "ms": 40.2, "am": 39.2, "uz": 38.9, "my": 37.2,
    "az": 33.8, "su": 33.8, "nl": 32.9, "yo": 31.8, "mg": 26.5, "uk": 24.1, "ne": 21.7, "ro": 20, "so": 18.6,
    "as": 18.3, "km": 15.2, "si": 14.9, "sr": 14.9, "kk": 14.4, "sn": 13.9, "sv": 13.3, "cs": 13.2, "hu": 12.3,
    "el": 12.2, "tg": 11.2, "be": 10, "af": 9.97, "ht": 9.52, "he": 9.4, "ca": 8.22, "bg": 7.68, "bs": 7.52,
    "da": 7.25, "tk": 7.18, "sk": 6.81, "sq": 6.8, "hr": 6.79, "mn": 6.74, "fi": 5.79, "no": 5.51, "lo": 5.49,
    "hy": 5.41, "ka": 4.32, "ln": 3.99, "gl": 3.32, "bo": 3.06, "lt": 2.41, "oc": 2.06, "tt": 1.97, "sl": 1.97,
    "ba": 1.83, "mk": 1.61, "nn": 1.38, "lv": 1.1, "eu": 1.03, "cy": 0.921, "yi": 0.916, "et": 0.854, "br": 0.568,
    "mt": 0.47, "lb": 0.45, "is": 0.364, "mi": 0.145, "fo": 0.073, "haw": 0.03, "sa": 0.017, "la": 0.00082,
}  # fmt: skip
"""Millions of speakers, of first and further languages, by ISO 639-1 code, for all languages that Whisper detects."""


def log_prior(languages: Sequence[str], millions: Mapping[str, float], strength: float) -> np.ndarray:
    """Log prior of languages, float64 (languages,): the number of their speakers to the power of `strength`.

    The most common of `languages` has 0. A language that is not in `millions` has the value of the least common one.

    >>> np.exp(log_prior(["en", "cy"], {"en": 1600.0, "cy": 0.1}, 0.5)).round(4).tolist()
    [1.0, 0.0079]
    """
    least = min((millions[code] for code in languages if code in millions), default=1.0)
    powers = np.array([strength * math.log(millions.get(code, least)) for code in languages])
    prior: np.ndarray = powers - powers.max()
    return prior

"""Phonemes of the text that Whisper transcribes, by espeak-ng, for languages that espeak-ng converts to IPA.

It says what the words are made of, not how they sounded: a language model stands between the sound and the phonemes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipelines.stages.recognisers import Phone
from runtime import espeak_ng
from runtime.errors import SpeechmillError

STRESS = re.compile("[ˈˌ]")
OTHER_VOICE = re.compile(r"\([a-z-]+\)")
"""How espeak-ng marks words that it reads in another language."""
WITHOUT_LETTERS = {"ja", "zh", "yue", "th", "lo", "my", "km"}
"""Languages whose script espeak-ng spells sign by sign, or cannot read."""


class Espeak:
    """IPA phonemes of one language. Their times divide the sound evenly."""

    sample_rate = 16000

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """`path` is a Whisper model for CTranslate2, `language` an ISO 639-1 code.

        Raises SpeechmillError where the program espeak-ng is missing or does not read the language.
        """
        from faster_whisper import WhisperModel

        assert language is not None
        espeak_ng.program()
        if language in WITHOUT_LETTERS:
            what = f"espeak-ng does not read what is written in {language!r}"
            raise SpeechmillError(what, "use another recogniser, such as ctc or allosaurus, for this language")
        self._language = language
        self._read("a")
        if not (path / "model.bin").is_file():
            what = f"{path} is no Whisper model for CTranslate2: it has no model.bin"
            raise SpeechmillError(what, "name one, such as Systran/faster-whisper-large-v3, as annotate.phonemes.model")
        self._whisper = WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=1)

    def phones(self, samples: np.ndarray) -> list[Phone]:
        if not len(samples):
            return []
        # One temperature: at higher ones, to which Whisper would fall back, tokens are drawn, so that results would
        # vary.
        pieces, _ = self._whisper.transcribe(
            samples, language=self._language, beam_size=1, temperature=0.0, condition_on_previous_text=False,
            without_timestamps=True,
        )  # fmt: skip
        symbols = parse(self._read(" ".join(piece.text for piece in pieces)))
        step_s = len(samples) / self.sample_rate / max(1, len(symbols))
        return [Phone(symbol, at * step_s, (at + 1) * step_s) for at, symbol in enumerate(symbols)]

    def _read(self, text: str) -> str:
        """The output of espeak-ng for a text."""
        given = espeak_ng.one_line(text)
        remedy = "set annotate.phonemes.language to a voice of `espeak-ng --voices`"
        return espeak_ng.read(given, self._language, remedy) if given else ""


def parse(ipa: str) -> list[str]:
    """Phonemes from the output of `espeak-ng --ipa --sep=_`, without stress; length marks stay.

    >>> parse(" h_ə_l_ˈoʊ\\n w_ˈɜː_l_d (de)t_ˈaː_k(en)")
    ['h', 'ə', 'l', 'oʊ', 'w', 'ɜː', 'l', 'd', 't', 'aː', 'k']
    """
    plain = STRESS.sub("", OTHER_VOICE.sub(" ", ipa))
    return [symbol for symbol in re.split(r"[_\s]+", plain) if symbol.strip("-")]

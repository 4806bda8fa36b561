"""hama: a small CTC model of phones, for English and Korean; its weights ship inside its package (Apache-2.0)."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from pipelines.stages.recognisers import Phone


class Hama:
    """IPA phones in frames of 20 ms. The model runs on one thread."""

    sample_rate = 16000

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """`path` is a folder with asr_waveform.hama and g2p_vocab.json."""
        import hama

        self._model = hama.ASRModel(path / "asr_waveform.hama", path / "g2p_vocab.json")

    def phones(self, samples: np.ndarray) -> list[Phone]:
        result = self._model.transcribe_waveform(samples, self.sample_rate)
        spans = self._model.phoneme_spans(result)
        return joined([Phone(span.phoneme, span.start_ms / 1000, span.end_ms / 1000) for span in spans])


def joined(tokens: list[Phone]) -> list[Phone]:
    """Phones from the tokens of the model, in which the diacritics of a phone are separate tokens.

    A token of marks alone, such as a dental sign or a length mark, goes to the phone before it, whose end it moves.
    Tokens without a letter or a mark, such as '<unk>' or a comma, are no phones.

    >>> joined([Phone("d", 0.0, 0.1), Phone("\u032a", 0.1, 0.2), Phone(",", 0.2, 0.3)]) == [Phone("d\u032a", 0.0, 0.2)]
    True
    """
    phones: list[Phone] = []
    for token in tokens:
        kinds = {unicodedata.category(character) for character in token.symbol}
        if token.symbol.startswith("<"):
            continue
        if kinds & {"Ll", "Lu", "Lo"}:
            phones.append(token)
        elif kinds & {"Mn", "Lm", "Sk"} and phones:
            phones[-1] = Phone(phones[-1].symbol + token.symbol, phones[-1].start_s, token.end_s)
    return phones

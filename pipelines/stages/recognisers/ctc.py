"""CTC models of transformers whose vocabulary is phones, such as facebook/wav2vec2-lv-60-espeak-cv-ft.

The vocabulary is read from vocab.json: the tokenizers of such models want a phonemizer, which recognising does not.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.stages.recognisers import Phone
from runtime.errors import SpeechmillError

VOCABULARY_BYTES = 10_000_000
SHORTEST_S = 0.05
"""Shorter sound has no frame."""
NO_PHONES = frozenset(["|", " ", "", "<s>", "</s>", "<unk>", "[UNK]"])
"""Tokens that mark the boundaries of words and of text."""


class Ctc:
    """Phones from the vocabulary of the model, by the most probable token of each frame."""

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """`path` is a folder as transformers saves it, with vocab.json. SpeechmillError for any other folder."""
        from transformers import AutoFeatureExtractor, AutoModelForCTC

        remedy = "name a model for CTC with a vocabulary of phones, such as facebook/wav2vec2-lv-60-espeak-cv-ft"
        vocabulary = path / "vocab.json"
        if not vocabulary.is_file() or vocabulary.stat().st_size > VOCABULARY_BYTES:
            what = f"{path} has no vocab.json of at most {VOCABULARY_BYTES:,} bytes"
            raise SpeechmillError(what, remedy)
        try:
            tokens = json.loads(vocabulary.read_text(encoding="utf-8"))
            self._symbols = {int(number): str(symbol) for symbol, number in tokens.items()}
            self._extractor = AutoFeatureExtractor.from_pretrained(path)
            model: Any = AutoModelForCTC.from_pretrained(path)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise SpeechmillError(f"{path} is no model for CTC that transformers loads: {error}", remedy) from error
        self.sample_rate = int(self._extractor.sampling_rate)
        self._model, self._device = model.to(device).eval(), device
        self._blank = int(model.config.pad_token_id)
        missing = set(range(int(model.config.vocab_size))) - self._symbols.keys()
        if missing:
            what = f"{vocabulary} lacks {len(missing)} of the {model.config.vocab_size} tokens of its model"
            raise SpeechmillError(what, remedy)

    def phones(self, samples: np.ndarray) -> list[Phone]:
        import torch

        from runtime.batches import reproducible

        if len(samples) < SHORTEST_S * self.sample_rate:
            return []
        given = self._extractor(samples, sampling_rate=self.sample_rate, return_tensors="pt")
        name = self._extractor.model_input_names[0]
        with torch.inference_mode(), reproducible(threads=1, device=self._device):
            logits = self._model(**{name: given[name].to(self._device)}).logits[0]
        tokens = logits.argmax(-1).cpu().tolist()
        frame_s = len(samples) / self.sample_rate / len(tokens)
        phones, frame = [], 0
        for token, run in itertools.groupby(tokens):
            start, frame = frame, frame + sum(1 for _ in run)
            if token != self._blank and self._symbols[token] not in NO_PHONES:
                phones.append(Phone(self._symbols[token], start * frame_s, frame * frame_s))
        return phones

"""Language detection by Whisper, run by CTranslate2 or by transformers, depending on the format of the model.

CTranslate2 is faster on a CPU. On a GPU it requires CUDA 12, which the torch of a fresh installation does not install;
transformers runs on any GPU that torch can use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from manifests.install import install
from runtime.errors import MissingExtraError, SpeechmillError

FRAMES_PER_S = 100
MOST_FRAMES = 3000
"""The length of input on which Whisper was trained. Its encoder accepts shorter input, and then takes less time."""


def frames(most_s: float) -> int:
    """The number of frames for windows of at most `most_s` seconds, with a second of silence after them as in training.

    >>> frames(10.0), frames(30.0)
    (1100, 3000)
    """
    return min(MOST_FRAMES, 2 * math.ceil((most_s + 1) * FRAMES_PER_S / 2))


class Whisper(Protocol):
    """A loaded model."""

    languages: list[str]
    """Codes of the languages that the model detects."""

    def features(self, window: np.ndarray, count: int = MOST_FRAMES) -> np.ndarray:
        """Log-mel features, float32 (mels, count), of at most 30 s at 16 kHz, float32 (samples,).

        `count` is even.
        """
        ...

    def detect(self, features: np.ndarray) -> list[dict[str, float]]:
        """Probability of each language by its code, for each row of features, float32 (rows, mels, count)."""
        ...


def load(path: Path, name: str, device: str, compute_type: str, cpu_threads: int) -> Whisper:
    """Load the model in a folder. `compute_type` is 'auto' or a number format of CTranslate2 or torch.

    Raises SpeechmillError for a folder that holds no Whisper model, MissingExtraError where a package is missing.
    """
    if (path / "model.bin").is_file():
        return CTranslate2Whisper(path, device, compute_type, cpu_threads)
    if (path / "config.json").is_file() and list(path.glob("*.safetensors")):
        return TransformersWhisper(path, device, compute_type, cpu_threads)
    raise SpeechmillError(
        f"model {name!r}: {path} holds neither model.bin nor config.json with weights in safetensors",
        "name a Whisper model for transformers, such as openai/whisper-large-v3, or one converted for CTranslate2, "
        "such as Systran/faster-whisper-large-v3",
    )


class CTranslate2Whisper:
    """A model converted for CTranslate2."""

    def __init__(self, path: Path, device: str, compute_type: str, cpu_threads: int) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise MissingExtraError(f"language needs faster-whisper: {error}", install(["language"])) from error
        if compute_type == "auto":
            compute_type = "float16" if device == "cuda" else "int8"
        self._model = WhisperModel(str(path), device=device, compute_type=compute_type, cpu_threads=cpu_threads)
        # The library lists the languages of all Whisper models. Some, such as Cantonese, only large-v3 detects.
        token = self._model.hf_tokenizer.token_to_id
        self.languages = [code for code in self._model.supported_languages if token(f"<|{code}|>") is not None]

    def features(self, window: np.ndarray, count: int = MOST_FRAMES) -> np.ndarray:
        from faster_whisper.audio import pad_or_trim

        padded: np.ndarray = pad_or_trim(self._model.feature_extractor(window), count)
        return padded

    def detect(self, features: np.ndarray) -> list[dict[str, float]]:
        try:
            detected = self._model.model.detect_language(self._model.encode(features))
        except RuntimeError as error:
            if "libcu" not in str(error):
                raise
            what = f"CTranslate2 finds no library of CUDA 12: {error}"
            remedy = 'set annotate.language.model = "openai/whisper-large-v3", which transformers runs on the GPU'
            raise MissingExtraError(what, f"{remedy}; or install CUDA 12 with cuBLAS and cuDNN") from error
        return [{_code(token): float(probability) for token, probability in row} for row in detected]


class TransformersWhisper:
    """A model of transformers, on the device that torch sees."""

    def __init__(self, path: Path, device: str, compute_type: str, cpu_threads: int) -> None:
        try:
            import torch
            from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
        except ImportError as error:
            raise MissingExtraError(f"language needs transformers: {error}", install(["language-gpu"])) from error
        if compute_type == "auto":
            compute_type = "float16" if device == "cuda" else "float32"
        if compute_type not in ("float32", "float16", "bfloat16"):
            raise SpeechmillError(
                f"annotate.language.compute_type: {compute_type!r} is not known to transformers",
                "choose from: auto, float32, float16, bfloat16; or name a model converted for CTranslate2",
            )
        self._device, self._dtype, self._threads = device, getattr(torch, compute_type), cpu_threads
        self._extractor = WhisperFeatureExtractor.from_pretrained(path)
        model: Any = WhisperForConditionalGeneration.from_pretrained(path, dtype=self._dtype)
        self._model = model.to(device).eval()
        self._positions = self._model.get_encoder().embed_positions.weight
        try:
            tokens: dict[str, int] = json.loads((path / "generation_config.json").read_text())["lang_to_id"]
        except (OSError, ValueError, KeyError) as error:
            raise SpeechmillError(
                f"{path}: no generation_config.json with lang_to_id, so the model detects no languages",
                "name a multilingual Whisper model with its generation_config.json",
            ) from error
        self.languages = [_code(token) for token in tokens]
        self._tokens = list(tokens.values())

    def features(self, window: np.ndarray, count: int = MOST_FRAMES) -> np.ndarray:
        features: np.ndarray = self._extractor(window, sampling_rate=16000, return_tensors="np").input_features[0]
        return features[:, :count]

    def detect(self, features: np.ndarray) -> list[dict[str, float]]:
        import torch

        from runtime.batches import reproducible

        start = torch.full((len(features), 1), self._model.config.decoder_start_token_id, device=self._device)
        with torch.inference_mode(), reproducible(self._threads):
            self._set_length(features.shape[-1])
            batch = torch.from_numpy(features).to(self._device, self._dtype)
            logits = self._model(input_features=batch, decoder_input_ids=start).logits[:, -1, self._tokens]
            probabilities: Sequence[Sequence[float]] = logits.float().softmax(-1).cpu().numpy().tolist()
        return [dict(zip(self.languages, row, strict=True)) for row in probabilities]

    def _set_length(self, count: int) -> None:
        """Set the number of frames that the encoder accepts: transformers requires as many as there are positions."""
        import torch

        encoder, positions = self._model.get_encoder(), count // 2
        if encoder.embed_positions.num_embeddings != positions:
            encoder.embed_positions = torch.nn.Embedding.from_pretrained(self._positions[:positions])
            encoder.config.max_source_positions = positions


def _code(token: str) -> str:
    """The code of a language from its token, such as '<|en|>'."""
    return token[2:-2] if token.startswith("<|") else token

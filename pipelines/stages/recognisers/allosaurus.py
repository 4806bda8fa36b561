"""Allosaurus: phones of many languages (Li et al., 2020, "Universal phone recognition with a multilingual allophone
system"). Its package is GPL-3.0 and holds no weights: `model` names a folder into which its models were unpacked.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np

from pipelines.stages.recognisers import Phone
from runtime.errors import SpeechmillError

FILES = ("am_config.json", "pm_config.json", "lm_config.json", "model.pt", "phone.txt", "inventory/index.json")
SHORTEST_S = 0.05


class Allosaurus:
    """IPA phones in frames of 30 ms, of all languages or of one language's inventory."""

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """`language` is an ISO 639-3 code that the model knows. Raises SpeechmillError for a folder of another kind."""
        import torch
        from allosaurus.am.allosaurus_torch import AllosaurusTorchModel
        from allosaurus.lm.factory import read_lm
        from allosaurus.pm.factory import read_pm

        if missing := [name for name in FILES if not (path / name).is_file()]:
            raise SpeechmillError(
                f"{path} is no model of Allosaurus: it lacks {', '.join(missing)}",
                "name the folder of a model, as `python -m allosaurus.bin.download_model` unpacks it",
            )
        # The loader of the package would download a missing model and unpickle weights. Neither is done here.
        settings = Namespace(model=path.name, device_id=-1, lang=language or "ipa", approximate=False, prior=None)
        self._features, self._decoder = read_pm(path, settings), read_lm(path, settings)
        self._model = AllosaurusTorchModel(Namespace(**json.loads((path / "am_config.json").read_text())))
        weights = torch.load(path / "model.pt", map_location="cpu", weights_only=True)
        own = {name.removeprefix("module."): value for name, value in weights.items()}
        self._model.load_state_dict({name: own[name] for name in own if not name.startswith("allophone_layer_dict")})
        self._model.eval()
        self._language, self._shift_s = language or "ipa", float(settings.window_shift)
        self.sample_rate = int(self._features.config.sample_rate)
        if language is not None and not self._decoder.inventory.is_available(language):
            raise SpeechmillError(
                f"the model of Allosaurus at {path} has no inventory of the language {language!r}",
                "name an ISO 639-3 code as annotate.phonemes.language, such as 'eng', or leave it out for all phones",
            )

    def phones(self, samples: np.ndarray) -> list[Phone]:
        import torch
        from allosaurus.audio import Audio

        from runtime.batches import reproducible

        if len(samples) < SHORTEST_S * self.sample_rate:
            return []
        pcm = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
        with np.errstate(all="ignore"):  # constant sound, such as digital silence, has no features
            computed = self._features.compute(Audio(pcm, self.sample_rate))
        if not np.isfinite(computed).all():
            return []
        features = torch.from_numpy(computed)[None]
        with torch.inference_mode(), reproducible(threads=1):
            logits = self._model(features, torch.tensor([features.shape[1]])).numpy()[0]
        text = self._decoder.compute(logits, self._language, timestamp=True)
        starts = [line.split() for line in text.splitlines()]  # start, length of a window, symbol
        end_s = len(samples) / self.sample_rate
        ends = [*(float(start) for start, _, _ in starts[1:]), end_s][: len(starts)]
        return [
            Phone(symbol, float(start), min(end, float(start) + self._shift_s))
            for (start, _, symbol), end in zip(starts, ends, strict=True)
        ]

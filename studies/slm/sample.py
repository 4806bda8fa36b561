"""Continuations of held-out contexts by a trained model, as features; who calls this turns them into sound."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from runtime.batches import reproducible, resolve_device
from runtime.errors import SpeechmillError
from studies.slm import ar, data
from studies.slm.diffusion import Diffusion
from studies.slm.train import SETTINGS, WEIGHTS, Settings

AT_ONCE = 32


@dataclass(frozen=True)
class Continuations:
    """Features, float32 (clips, frames, dim), of windows of one dataset."""

    context: np.ndarray
    real: np.ndarray
    """What followed."""
    generated: np.ndarray
    """What the model gave."""


def opened(folder: Path, lake: str) -> tuple[data.Sound, Settings]:
    """The data and the settings of a run. SpeechmillError where it is not done, or the lake has other data."""
    try:
        told = json.loads((folder / SETTINGS).read_text())
        settings = Settings(**{field.name: told[field.name] for field in fields(Settings)})
        found = told["dataset"], told["version"], told["encoder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpeechmillError(f"{folder} holds no run: {error}", "name a folder of `speechmill study train`") from error
    if not (folder / WEIGHTS).is_file():
        raise SpeechmillError(f"the run in {folder} is not done", "give the command that began it once more")
    sound = data.Sound.opened(lake, found[0], settings.patch)
    if sound.encoder != found[2]:
        raise SpeechmillError(f"{folder} was trained on {found[2]}, and {lake} holds {sound.encoder}", "name its lake")
    return sound, settings


def continued(
    folder: Path, lake: str, split: str, clips: int, *, steps: int, guidance: float, seed: int, device: str
) -> Continuations:
    """Continue the contexts of the first windows of a split."""
    sound, settings = opened(folder, lake)
    device = resolve_device(device)
    held = data.Held.of(sound, split, clips, device)
    weights = load_file(folder / WEIGHTS, device=device)
    model: Diffusion | ar.Discrete
    if settings.model == "ar":
        model = ar.Discrete(settings.shape, weights["centres"])
    else:
        model = Diffusion(settings.shape, sound.token, settings.predict)
    model.load_state_dict(weights)
    model.to(device)
    random = torch.Generator().manual_seed(seed)
    with reproducible(1, device):
        made = [
            model.sample(context, held.continuation.shape[1], random, steps, guidance)
            for context in held.context.split(AT_ONCE)
        ]
    return Continuations(*(sound.features(one) for one in (held.context, held.continuation, torch.cat(made))))

"""The base of encoders whose model is a torch module with weights: device, precision, loading, and one call of it.

A new encoder says in `_grid` what its configuration means, in `_load` how its weights are loaded, and in `_forward` how
it is called; see encoders/mimi.py.
"""

from __future__ import annotations

import functools
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from encoders.pieces import PieceEncoder
from encoders.reach import Reach
from runtime import models, typed
from runtime.batches import DEVICES, Batches, Inputs, reproducible, resolve_device
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16")
GPU_ROWS = 16
"""Rows of a batch on a GPU where the settings name none."""


@dataclass(frozen=True)
class NeuralConfig:
    """Settings that neural encoders share."""

    model: str = ""
    """Weights: a hub id 'org/name' or 'org/name@revision', a local folder, or a name of the registry."""
    device: str = "auto"
    """'auto' takes a GPU where there is one; 'cpu'; 'cuda'."""
    precision: str = "float32"
    """Numbers that the model calculates with: 'float32' or 'bfloat16'. Features are float32 either way."""
    batch: int = 0
    """Rows of each call; 0 takes 1 on a CPU and 16 on a GPU."""
    compile: bool = False
    """Whether torch.compile makes kernels for the model, which takes a minute at the first call of each shape."""
    max_chunk_s: float = 60.0
    """Longer windows are cut into pieces of this many seconds."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(
                'the setting model names the weights: model = "org/name" of a hub, a local folder, or a registered name'
            )
        one_of = {"precision": PRECISIONS, "device": DEVICES}
        typed.check_fields(self, at_least={"batch": 0}, above={"max_chunk_s": 0}, one_of=one_of)


class NeuralEncoder(PieceEncoder):
    """Base of encoders that are torch modules.

    Nothing but the model's config.json is read until `setup`. Features are the mean of what the model gives, never a
    sample. On a GPU, deterministic kernels are asked for, and float32 is float32: no TF32.
    """

    config_class: ClassVar[type] = NeuralConfig
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    model_type: ClassVar[str | tuple[str, ...]]
    """What the model's config.json must say: `model_type`, or `_class_name` with diffusers."""
    channels = 1
    """Channels that the model takes; a track is given to each."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__(config)
        self.device = resolve_device(config.device)
        self.batch = config.batch or (1 if self.device == "cpu" else GPU_ROWS)
        self.gpus = float(self.device == "cuda")
        self.precision = config.precision
        self.folder = found(config.model)[0]
        self.licence = licence_of(self.folder)
        self._check_type()
        sample_rate, dim, reach = self._grid()
        self._set_grid(sample_rate, dim, reach, config.max_chunk_s)
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._forward
        self._decoder: Any = None

    @abstractmethod
    def _grid(self) -> tuple[int, int, Reach]:
        """Sampling rate, values per frame, and reach, from the configuration of the model."""

    @abstractmethod
    def _load(self) -> torch.nn.Module:
        """The module that `_forward` calls, from the weights in `folder`; on the CPU, in float32."""

    @abstractmethod
    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        """Features (rows, frames, dim) of what `_prepare` made, in the precision and on the device of `self.module`."""

    def _prepare(self, sounds: np.ndarray) -> np.ndarray:
        """What goes to the device, of sounds float32 (rows, samples): here (rows, channels, samples)."""
        return np.repeat(sounds[:, None], self.channels, axis=1)

    def _load_decoder(self) -> torch.nn.Module:
        """The module that `_inverse` calls, as `_load` has it; NotImplementedError where the folder holds none."""
        raise NotImplementedError

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        """Sound (rows, channels, samples) of features (rows, frames, dim), by `self._decoder`. Models without a decoder
        leave it as it is."""
        raise NotImplementedError

    @property
    def has_decoder(self) -> bool:
        """Whether the model can have a decoder; one that was saved without it says so in `decode`."""
        return type(self)._inverse is not NeuralEncoder._inverse

    def decode(self, features: np.ndarray) -> np.ndarray:
        """As `Encoder.decode`, by the decoder of the model's library, which is loaded at the first call.

        It is given what its quantiser would be given. A window is decoded at once, each track alone; of a model with
        several channels their mean is the track. Where the decoder gives fewer samples than the frames stand for,
        zeros follow. OutOfMemoryError for a window that is too long.
        """
        if not self.has_decoder:
            return super().decode(features)
        if self._decoder is None:
            self._decoder = self._placed(self._load_decoder())
        called = Batches(f"{self.name}, decoder", 1, self._decode_rows, self._free)
        samples = features.shape[1] * self.hop_samples
        sounds = [sound[:samples] for sound in called([(track,) for track in features])]
        return np.stack([np.pad(sound, (0, samples - len(sound))) for sound in sounds])

    def _decode_rows(self, rows: Sequence[Inputs]) -> list[np.ndarray]:
        import torch

        given = torch.from_numpy(np.stack([row[0] for row in rows])).to(self.device, getattr(torch, self.precision))
        with torch.inference_mode(), reproducible(1, self.device), _plain_float32(self.device):
            return list(self._inverse(given).float().mean(dim=1).cpu().numpy())

    def model_hashes(self) -> dict[str, str]:
        """sha256 of the weights, or their commit on a hub."""
        return {"model": found(self.config.model)[1]}

    def setup(self) -> None:
        """Load the weights. Called once a process, before the first `encode`."""
        import torch

        if self.device == "cuda":  # without it, cuBLAS refuses to be deterministic
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.module: Any = self._placed(self._load())
        if self.config.compile:
            self._run = torch.compile(self._forward)
        super().setup()

    def _placed(self, module: torch.nn.Module) -> torch.nn.Module:
        import torch

        return module.eval().requires_grad_(False).to(self.device, getattr(torch, self.precision))

    def _features(self, sounds: np.ndarray) -> np.ndarray:
        import torch

        given = torch.from_numpy(self._prepare(sounds))
        with torch.inference_mode(), reproducible(1, self.device), _plain_float32(self.device):
            if self.device == "cuda":
                given = given.pin_memory().to(self.device, non_blocking=True)
            features = self._run(given.to(getattr(torch, self.precision))).float()
            copied = torch.empty(features.shape, pin_memory=self.device == "cuda")
            return copied.copy_(features).numpy()  # which waits for the GPU

    def _free(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def _check_type(self) -> None:
        path = self.folder / "config.json"
        try:
            told = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            remedy = "name the folder that holds config.json and the weights, as save_pretrained writes them"
            raise SpeechmillError(f"{self.name}: cannot read {path}: {error}", remedy) from error
        wanted = (self.model_type,) if isinstance(self.model_type, str) else self.model_type
        kind = told.get("model_type") or told.get("_class_name")
        if kind not in wanted:
            raise ValueError(f"{self.name} takes a model of type {' or '.join(wanted)}; {path} says {kind!r}")
        self.told: dict[str, Any] = told


def found(model: str) -> tuple[Path, str]:
    """Folder of the weights, and their sha256 or commit. Looked up once a process: a fingerprint is asked for often."""
    path = Path(model).expanduser()
    return _found(str(path.resolve()) if path.exists() else model)


@functools.cache
def _found(model: str) -> tuple[Path, str]:
    return models.resolve(model)


def licence_of(folder: Path) -> str | None:
    """The licence that the model's own card (README.md) states in its header, if there is a card that does."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    licence = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return str(licence) if licence else None


def _plain_float32(device: str) -> AbstractContextManager[Any]:
    """On a GPU convolutions in float32 proper, by kernels that give equal results again."""
    import contextlib

    import torch

    if device == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

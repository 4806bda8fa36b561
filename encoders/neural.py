"""`NeuralEncoder`, the base of encoders whose model is a torch module: device, precision, loading and calling it.

A new encoder implements `_grid` (read the model's configuration), `_load` (load the weights) and `_forward` (call the
module). See encoders/mimi.py for an example.
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
from encoders.receptive_field import ReceptiveField
from runtime import models, typed
from runtime.batches import DEVICES, Batches, Inputs, reproducible, resolve_device
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16")
GPU_ROWS = 16
"""Rows of a batch on a GPU if the settings give no `batch`."""


@dataclass(frozen=True)
class NeuralConfig:
    """Settings that all neural encoders share."""

    model: str = ""
    """Weights: a hub id 'org/name' or 'org/name@revision', a local folder, or a registered model name."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto' for a GPU if there is one."""
    precision: str = "float32"
    """Floating-point type in which the model computes: 'float32' or 'bfloat16'. Features are always float32."""
    batch: int = 0
    """Rows of each call; 0 means 1 on a CPU and 16 on a GPU."""
    compile: bool = False
    """Whether to compile the model with torch.compile, which takes a minute at the first call of each shape."""
    max_chunk_s: float = 60.0
    """Longer windows are cut into pieces of this many seconds."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(
                'set model to the weights: model = "org/name" on a hub, a local folder, or a registered model name'
            )
        one_of = {"precision": PRECISIONS, "device": DEVICES}
        typed.check_fields(self, at_least={"batch": 0}, above={"max_chunk_s": 0}, one_of=one_of)


class NeuralEncoder(PieceEncoder):
    """Base class of encoders that are torch modules.

    Only the model's config.json is read before `setup`. Where the model outputs a distribution, the features are its
    mean, never a sample. On a GPU the kernels are deterministic, and float32 is computed without TF32.
    """

    config_class: ClassVar[type] = NeuralConfig
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    model_type: ClassVar[str | tuple[str, ...]]
    """Required value of `model_type` in the model's config.json, or of `_class_name` for diffusers."""
    channels = 1
    """Channels of the model's input. The track is copied to each of them."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__(config)
        self.device = resolve_device(config.device)
        self.batch = config.batch or (1 if self.device == "cpu" else GPU_ROWS)
        self.gpus = float(self.device == "cuda")
        self.precision = config.precision
        self.folder = locate_weights(config.model)[0]
        self.licence = licence_of(self.folder)
        self.model_config = self._read_model_config()
        """The content of the model's config.json."""
        sample_rate, dim, field = self._grid()
        self._set_grid(sample_rate, dim, field, config.max_chunk_s)
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._forward
        self._decoder: Any = None

    @abstractmethod
    def _grid(self) -> tuple[int, int, ReceptiveField]:
        """Return the sampling rate, the values per frame and the receptive field, from the model's configuration."""

    @abstractmethod
    def _load(self) -> torch.nn.Module:
        """Load the module that `_forward` calls from the weights in `folder`, on the CPU and in float32."""

    @abstractmethod
    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        """Compute features (rows, frames, dim) from the output of `_prepare`, which has the device and precision of
        `self.module`."""

    def _prepare(self, sounds: np.ndarray) -> np.ndarray:
        """Turn sounds, float32 (rows, samples), into the input of the model: (rows, channels, samples) by default."""
        return np.repeat(sounds[:, None], self.channels, axis=1)

    def _load_decoder(self) -> torch.nn.Module:
        """Load the module that `_inverse` calls, as `_load` does. NotImplementedError if the folder has no decoder."""
        raise NotImplementedError

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        """Turn features (rows, frames, dim) into sound (rows, channels, samples) with `self._decoder`. Encoders without
        a decoder do not override it."""
        raise NotImplementedError

    @property
    def has_decoder(self) -> bool:
        """Whether the architecture has a decoder. If the weights were saved without it, `decode` raises an error."""
        return type(self)._inverse is not NeuralEncoder._inverse

    def decode(self, features: np.ndarray) -> np.ndarray:
        """See `Encoder.decode`. Uses the decoder of the model's library, which is loaded at the first call.

        The quantiser is skipped. Each track is decoded alone, the whole window in one call. The channels of a model
        with several are averaged into the track. If the decoder gives fewer samples than frames * hop_samples, zeros
        are appended. OutOfMemoryError if the window is too long.
        """
        if not self.has_decoder:
            return super().decode(features)
        if self._decoder is None:
            self._decoder = self._to_device(self._load_decoder())
        run_decoder = Batches(f"{self.name}, decoder", 1, self._decode_rows, self._free)
        samples = features.shape[1] * self.hop_samples
        sounds = [sound[:samples] for sound in run_decoder([(track,) for track in features])]
        return np.stack([np.pad(sound, (0, samples - len(sound))) for sound in sounds])

    def _decode_rows(self, rows: Sequence[Inputs]) -> list[np.ndarray]:
        import torch

        inputs = torch.from_numpy(np.stack([row[0] for row in rows])).to(self.device, getattr(torch, self.precision))
        with torch.inference_mode(), reproducible(1, self.device), _without_tf32(self.device):
            return list(self._inverse(inputs).float().mean(dim=1).cpu().numpy())

    def model_hashes(self) -> dict[str, str]:
        """Return the sha256 of the weights, or their commit on a hub."""
        return {"model": locate_weights(self.config.model)[1]}

    def setup(self) -> None:
        """Load the weights. Each process calls it once, before the first `encode`."""
        import torch

        if self.device == "cuda":  # cuBLAS needs it to be deterministic
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.module: Any = self._to_device(self._load())
        if self.config.compile:
            self._run = torch.compile(self._forward)
        super().setup()

    def _to_device(self, module: torch.nn.Module) -> torch.nn.Module:
        import torch

        return module.eval().requires_grad_(False).to(self.device, getattr(torch, self.precision))

    def _features(self, sounds: np.ndarray) -> np.ndarray:
        import torch

        inputs = torch.from_numpy(self._prepare(sounds))
        with torch.inference_mode(), reproducible(1, self.device), _without_tf32(self.device):
            if self.device == "cuda":
                inputs = inputs.pin_memory().to(self.device, non_blocking=True)
            features = self._run(inputs.to(getattr(torch, self.precision))).float()
            on_host = torch.empty(features.shape, pin_memory=self.device == "cuda")
            return on_host.copy_(features).numpy()  # this copy waits for the GPU

    def _free(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def _read_model_config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            model_config: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            remedy = "name a folder with config.json and the weights, as save_pretrained writes it"
            raise SpeechmillError(f"{self.name}: cannot read {path}: {error}", remedy) from error
        accepted = (self.model_type,) if isinstance(self.model_type, str) else self.model_type
        model_type = model_config.get("model_type") or model_config.get("_class_name")
        if model_type not in accepted:
            raise ValueError(f"{self.name} takes a model of type {' or '.join(accepted)}; {path} says {model_type!r}")
        return model_config


def locate_weights(model: str) -> tuple[Path, str]:
    """Return the folder of the weights, and their sha256 or commit on a hub.

    Results are cached for the life of the process, because fingerprints ask for them often.
    """
    path = Path(model).expanduser()
    return _resolve_cached(str(path.resolve()) if path.exists() else model)


@functools.cache
def _resolve_cached(model: str) -> tuple[Path, str]:
    return models.resolve(model)


def licence_of(folder: Path) -> str | None:
    """Return the licence in the header of the model card (README.md), or None if there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    licence = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return str(licence) if licence else None


def _without_tf32(device: str) -> AbstractContextManager[Any]:
    """Make cuDNN convolutions deterministic and compute them in full float32."""
    import contextlib

    import torch

    if device == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

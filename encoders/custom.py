"""Bring your own encoder: a model in a file (ONNX, torch.export or TensorFlow Lite) and a sidecar that describes it.

The sidecar is a TOML file; its fields are those of `Sidecar`, and docs/encoders.md has an example.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from encoders.pieces import PieceEncoder
from encoders.reach import Reach
from runtime import typed
from runtime.batches import reproducible
from runtime.errors import RecipeError
from runtime.extras import require
from runtime.models import sha256_of

KINDS = {".onnx": "onnxruntime", ".pt2": "torch", ".tflite": "ai_edge_litert"}
"""What runs a file, by its suffix: 'x.onnx' an ONNX graph, 'x.pt2' what torch.export.save wrote, 'x.tflite'."""
PIP = {"ai_edge_litert": "ai-edge-litert"}
INPUTS = ("rows samples", "rows channels samples")
OUTPUTS = ("rows frames values", "rows values frames")
Model = Callable[[np.ndarray], np.ndarray]
"""Called with float32 in the layout of the input; gives float32 in that of the output."""


@dataclass(frozen=True)
class Sidecar:
    """The fields of a sidecar; those without a default must be there."""

    file: str
    """The model, beside the sidecar; its suffix says what it is (`KINDS`)."""
    sample_rate: int
    """Sampling rate that the model takes, Hz."""
    hop: int
    """Samples from one frame to the next: frame t begins at sample t * hop."""
    dim: int
    """Values of a frame."""
    look_back: int
    """Samples before a frame's hop that reach it."""
    look_ahead: int
    """Samples past the end of a frame's hop that reach it; 0 for a causal model."""
    input: str
    """Axes of the input, float32: 'rows samples' or 'rows channels samples'."""
    output: str
    """Axes of the output, float32: 'rows frames values' or 'rows values frames'."""
    name: str = ""
    """For messages; the name of the file where it is left out."""
    version: int = 1
    """Raised by hand when a change that is not in the files makes other features."""
    channels: int = 1
    """Channels of the input; a track is given to each."""
    state: bool = False
    """Whether the model keeps a state from one call to the next. It is then loaded anew for each piece of sound and fed
    in order, `call_samples` at a time, from the beginning of the look-back."""
    call_samples: int = 0
    """Samples that every call has, whole hops; 0 where a call may have any number. A model without state is not given
    less than a whole piece, so that it must be 0 there."""
    rows: int = 1
    """Rows of every call; 0 where a call may have any number, so that the setting `batch` says it."""
    tolerance: float = 1e-4
    """Largest difference, in standard deviations, between features made in pieces of other lengths or batches."""
    licence: str = ""
    """Licence of the weights."""

    def __post_init__(self) -> None:
        least = dict.fromkeys(("sample_rate", "hop", "dim", "channels", "version"), 1)
        least |= dict.fromkeys(("look_back", "look_ahead", "call_samples", "rows", "tolerance"), 0)
        typed.check_fields(self, at_least=least, one_of={"input": INPUTS, "output": OUTPUTS})
        if self.input == INPUTS[0] and self.channels != 1:
            raise ValueError(f"channels is {self.channels}, but the input {self.input!r} has none")
        if self.state and (self.call_samples < 1 or self.call_samples % self.hop):
            raise ValueError(f"call_samples must be whole hops of {self.hop} samples where there is state")
        if self.state and (self.look_ahead or self.rows != 1):
            raise ValueError("a model with state is causal (look_ahead = 0) and takes one row a call (rows = 1)")
        if not self.state and self.call_samples:
            raise ValueError("call_samples is for models with state: without it, a call has the whole piece")
        if Path(self.file).suffix not in KINDS:
            raise ValueError(f"file must end in {', '.join(KINDS)}, not {self.file!r}")


@dataclass(frozen=True)
class CustomConfig:
    """Settings of `Custom`."""

    model: str = ""
    """Path of the sidecar."""
    batch: int = 1
    """Rows of each call, where the sidecar says that a call may have any number (`rows = 0`)."""
    max_chunk_s: float = 60.0
    """Longer windows are cut into pieces of this many seconds."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError('the setting model names the sidecar of your model: model = "folder/encoder.toml"')
        typed.check_fields(self, at_least={"batch": 1}, above={"max_chunk_s": 0})


class Custom(PieceEncoder):
    """A model from a file, as its sidecar describes it; on the CPU, in one thread."""

    name: ClassVar[str] = "custom"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = CustomConfig

    def __init__(self, config: CustomConfig) -> None:
        super().__init__(config)
        self.path = Path(config.model).expanduser().resolve()
        self.sidecar = read_sidecar(self.path)
        self.file = self.path.parent / self.sidecar.file
        if not self.file.is_file():
            raise ValueError(f"custom: {self.path} names the file {self.sidecar.file!r}, which is not beside it")
        package = KINDS[self.file.suffix]
        require(f"encoder custom for {self.file.name}", [package], None, [PIP.get(package, package)])
        self.batch = self.sidecar.rows or config.batch
        self.tolerance, self.licence = self.sidecar.tolerance, self.sidecar.licence or None
        reach = Reach(self.sidecar.hop, self.sidecar.look_back, self.sidecar.look_ahead)
        self._set_grid(self.sidecar.sample_rate, self.sidecar.dim, reach, config.max_chunk_s)
        self._model: Model | None = None

    def model_hashes(self) -> dict[str, str]:
        """sha256 of the file, and one over what the sidecar says of features."""
        said = dataclasses.asdict(self.sidecar) | {"file": self.file.suffix}
        for name in ("name", "licence", "tolerance"):  # nothing of a feature follows from them
            del said[name]
        return {"model": _sha256(self.file), "sidecar": hashlib.sha256(repr(said).encode()).hexdigest()}

    def setup(self) -> None:
        """Load the model and call it once: RecipeError where it does not do what its sidecar says."""
        self._model = load_model(self.file)
        super().setup()
        hop, reach = self.hop_samples, self.look_back_samples + self.look_ahead_samples
        samples = self._length(200 * hop + reach, 0)
        noise = np.random.default_rng(0).normal(scale=0.01, size=(self.batch, samples)).astype(np.float32)
        try:
            frames = self._features(noise).shape[1]
        except RecipeError:
            raise
        except Exception as error:  # each of the libraries has its own
            what = (
                f"custom: {self.file.name} cannot be called with {self.sidecar.input!r} of {samples} samples: {error}"
            )
            raise RecipeError(what, f"correct {self.path}") from error
        if abs(frames * hop - samples) > reach + hop:
            what = f"custom: {self.file.name} gives {frames} frames of {samples} samples, which is no hop of {hop}"
            raise RecipeError(what, f"correct {self.path}")

    def _features(self, sounds: np.ndarray) -> np.ndarray:
        if not self.sidecar.state:
            assert self._model is not None
            return self._framed(self._model(self._laid_out(sounds)))
        step = self.sidecar.call_samples
        model = load_model(self.file)  # nothing else puts every kind of state back to its beginning
        parts = [sounds[:, first : first + step] for first in range(0, sounds.shape[1], step)]
        return np.concatenate([self._framed(model(self._laid_out(part))) for part in parts], axis=1)

    def _length(self, samples: int, frames: int) -> int:
        step = self.sidecar.call_samples or 1
        return -(-super()._length(samples, frames) // step) * step

    def _laid_out(self, sounds: np.ndarray) -> np.ndarray:
        if self.sidecar.input == INPUTS[0]:
            return np.ascontiguousarray(sounds)
        return np.repeat(sounds[:, None], self.sidecar.channels, axis=1)

    def _framed(self, output: np.ndarray) -> np.ndarray:
        """Output in the layout that its sidecar says, as (rows, frames, dim)."""
        found = output.swapaxes(1, 2) if output.ndim == 3 and self.sidecar.output == OUTPUTS[1] else output
        if found.ndim != 3 or found.shape[2] != self.dim or found.dtype != np.float32:
            raise RecipeError(
                f"custom: {self.file.name} gives {output.dtype} with shape {output.shape}, where {self.path.name} says "
                f"float32 {self.sidecar.output!r} with frames of {self.dim} values",
                f"correct {self.path}",
            )
        return found


def read_sidecar(path: Path) -> Sidecar:
    """What a sidecar says; ValueError names the file and the field that is wrong."""
    try:
        told = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"custom: cannot read the sidecar {path}: {error}") from error
    fields = {field.name: field for field in dataclasses.fields(Sidecar)}
    if unknown := sorted(set(told) - set(fields)):
        raise ValueError(f"custom: {path} has no field {', '.join(unknown)} to give; choose from: {', '.join(fields)}")
    lacking = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in told]
    if lacking:
        raise ValueError(f"custom: {path} lacks {', '.join(lacking)}")
    try:
        return Sidecar(**told)
    except ValueError as error:
        raise ValueError(f"custom: {path}: {error}") from error


def load_model(file: Path) -> Model:
    """The model in a file, ready to be called, in one thread."""
    return {".onnx": _onnx, ".pt2": _torch, ".tflite": _tflite}[file.suffix](file)


def _onnx(file: Path) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,), made = session.get_inputs(), session.get_outputs()[0]

    def run(sounds: np.ndarray) -> np.ndarray:
        features: np.ndarray = session.run([made.name], {given.name: sounds})[0]
        return features

    return run


def _torch(file: Path) -> Model:
    import torch

    module = torch.export.load(file).module()

    def run(sounds: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), reproducible(1):
            features: np.ndarray = module(torch.from_numpy(sounds)).numpy()
        return features

    return run


def _tflite(file: Path) -> Model:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    (given,), made = interpreter.get_input_details(), interpreter.get_output_details()[0]
    interpreter.allocate_tensors()
    shape = tuple(given["shape"])

    def run(sounds: np.ndarray) -> np.ndarray:
        nonlocal shape
        if sounds.shape != shape:
            interpreter.resize_tensor_input(given["index"], sounds.shape)
            interpreter.allocate_tensors()
            shape = sounds.shape
        interpreter.set_tensor(given["index"], sounds)
        interpreter.invoke()
        features: np.ndarray = interpreter.get_tensor(made["index"])
        return features

    return run


@functools.cache
def _sha256(file: Path) -> str:
    """Read once a process: a fingerprint is asked for often."""
    return sha256_of(file)

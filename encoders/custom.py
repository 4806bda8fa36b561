"""An encoder of your own: a model in a file (ONNX, torch.export or TensorFlow Lite) and a sidecar that describes it.

The sidecar is a TOML file with the fields of `Sidecar`. docs/encoders.md has an example.
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
from encoders.receptive_field import ReceptiveField
from runtime import typed
from runtime.batches import reproducible
from runtime.errors import RecipeError
from runtime.extras import require
from runtime.models import sha256_of

KINDS = {".onnx": "onnxruntime", ".pt2": "torch", ".tflite": "ai_edge_litert"}
"""Package that runs a model file, by suffix: an ONNX graph, the output of torch.export.save, or TensorFlow Lite."""
PIP = {"ai_edge_litert": "ai-edge-litert"}
"""Names to install packages by, where they differ from the names to import them by."""
INPUTS = ("rows samples", "rows channels samples")
OUTPUTS = ("rows frames values", "rows values frames")
Model = Callable[[np.ndarray], np.ndarray]
"""Maps float32 in the layout of the input to float32 in the layout of the output."""


@dataclass(frozen=True)
class Sidecar:
    """The fields of a sidecar. Those without a default are required."""

    file: str
    """Name of the model file, which is in the same folder as the sidecar. Its suffix tells its format (`KINDS`)."""
    sample_rate: int
    """Sampling rate of the model's input, Hz."""
    hop: int
    """Samples from one frame to the next: frame t begins at sample t * hop."""
    dim: int
    """Values of a frame."""
    look_back: int
    """Samples before a frame's hop on which it depends."""
    look_ahead: int
    """Samples after the end of a frame's hop on which it depends; 0 for a causal model."""
    input: str
    """Axes of the input, float32: 'rows samples' or 'rows channels samples'."""
    output: str
    """Axes of the output, float32: 'rows frames values' or 'rows values frames'."""
    name: str = ""
    """Name in messages; the file name by default."""
    version: int = 1
    """Increase it by hand when the features change although neither file does."""
    channels: int = 1
    """Channels of the input. The track is copied to each of them."""
    state: bool = False
    """Whether the model keeps a state from one call to the next. It is then loaded anew for each piece of sound and fed
    in order, `call_samples` at a time, from the beginning of the look-back."""
    call_samples: int = 0
    """Samples of every call of a model with state, a multiple of the hop. It must be 0 for a model without state, which
    is given a whole piece in one call."""
    rows: int = 1
    """Rows of every call; 0 if a call may have any number, so that the setting `batch` decides."""
    tolerance: float = 1e-4
    """Largest difference, in standard deviations, between features from pieces or batches of different sizes."""
    licence: str = ""
    """Licence of the weights."""

    def __post_init__(self) -> None:
        least = dict.fromkeys(("sample_rate", "hop", "dim", "channels", "version"), 1)
        least |= dict.fromkeys(("look_back", "look_ahead", "call_samples", "rows", "tolerance"), 0)
        typed.check_fields(self, at_least=least, one_of={"input": INPUTS, "output": OUTPUTS})
        if self.input == INPUTS[0] and self.channels != 1:
            raise ValueError(f"channels is {self.channels}, but the input {self.input!r} has none")
        if self.state and (self.call_samples < 1 or self.call_samples % self.hop):
            raise ValueError(f"call_samples of a model with state must be a multiple of the hop ({self.hop} samples)")
        if self.state and (self.look_ahead or self.rows != 1):
            raise ValueError("a model with state must be causal (look_ahead = 0) and take one row a call (rows = 1)")
        if not self.state and self.call_samples:
            raise ValueError("call_samples is only for models with state; others are given a whole piece in one call")
        if Path(self.file).suffix not in KINDS:
            raise ValueError(f"file must end in {', '.join(KINDS)}, not {self.file!r}")


@dataclass(frozen=True)
class CustomConfig:
    """Settings of `Custom`."""

    model: str = ""
    """Path of the sidecar."""
    batch: int = 1
    """Rows of each call, if the sidecar says that a call may have any number of rows (`rows = 0`)."""
    max_chunk_s: float = 60.0
    """Longer windows are cut into pieces of this many seconds."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError('set model to the sidecar of your model: model = "folder/encoder.toml"')
        typed.check_fields(self, at_least={"batch": 1}, above={"max_chunk_s": 0})


class Custom(PieceEncoder):
    """Runs a model from a file as its sidecar describes it, on the CPU and in one thread."""

    name: ClassVar[str] = "custom"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = CustomConfig

    def __init__(self, config: CustomConfig) -> None:
        super().__init__(config)
        self.path = Path(config.model).expanduser().resolve()
        self.sidecar = read_sidecar(self.path)
        self.file = self.path.parent / self.sidecar.file
        if not self.file.is_file():
            raise ValueError(f"custom: {self.path} names the file {self.sidecar.file!r}, which is not in its folder")
        package = KINDS[self.file.suffix]
        require(f"encoder custom for {self.file.name}", [package], None, [PIP.get(package, package)])
        self.batch = self.sidecar.rows or config.batch
        self.tolerance, self.licence = self.sidecar.tolerance, self.sidecar.licence or None
        field = ReceptiveField(self.sidecar.hop, self.sidecar.look_back, self.sidecar.look_ahead)
        self._set_grid(self.sidecar.sample_rate, self.sidecar.dim, field, config.max_chunk_s)
        self._model: Model | None = None

    def model_hashes(self) -> dict[str, str]:
        """Return the sha256 of the model file, and one over the fields of the sidecar that can change features."""
        identity = dataclasses.asdict(self.sidecar) | {"file": self.file.suffix}
        for name in ("name", "licence", "tolerance"):  # they cannot change a feature
            del identity[name]
        return {"model": _sha256(self.file), "sidecar": hashlib.sha256(repr(identity).encode()).hexdigest()}

    def setup(self) -> None:
        """Load the model and call it once. RecipeError if it does not do what its sidecar says."""
        self._model = load_model(self.file)
        super().setup()
        hop, context = self.hop_samples, self.look_back_samples + self.look_ahead_samples
        samples = self._length(200 * hop + context, 0)
        noise = np.random.default_rng(0).normal(scale=0.01, size=(self.batch, samples)).astype(np.float32)
        try:
            frames = self._features(noise).shape[1]
        except RecipeError:
            raise
        except Exception as error:  # each library has its own exceptions
            what = (
                f"custom: {self.file.name} cannot be called with {self.sidecar.input!r} of {samples} samples: {error}"
            )
            raise RecipeError(what, f"correct {self.path}") from error
        if abs(frames * hop - samples) > context + hop:
            what = f"custom: {self.file.name} gives {frames} frames for {samples} samples, which is not a hop of {hop}"
            raise RecipeError(what, f"correct {self.path}")

    def _features(self, sounds: np.ndarray) -> np.ndarray:
        if not self.sidecar.state:
            assert self._model is not None
            return self._from_output(self._model(self._to_input(sounds)))
        step = self.sidecar.call_samples
        model = load_model(self.file)  # loading is the only way to reset the state of every kind of model
        parts = [sounds[:, first : first + step] for first in range(0, sounds.shape[1], step)]
        return np.concatenate([self._from_output(model(self._to_input(part))) for part in parts], axis=1)

    def _length(self, samples: int, frames: int) -> int:
        step = self.sidecar.call_samples or 1
        return -(-super()._length(samples, frames) // step) * step

    def _to_input(self, sounds: np.ndarray) -> np.ndarray:
        """Bring sounds, (rows, samples), into the input layout of the sidecar."""
        if self.sidecar.input == INPUTS[0]:
            return np.ascontiguousarray(sounds)
        return np.repeat(sounds[:, None], self.sidecar.channels, axis=1)

    def _from_output(self, output: np.ndarray) -> np.ndarray:
        """Bring an output from the layout of the sidecar into (rows, frames, dim)."""
        features = output.swapaxes(1, 2) if output.ndim == 3 and self.sidecar.output == OUTPUTS[1] else output
        if features.ndim != 3 or features.shape[2] != self.dim or features.dtype != np.float32:
            raise RecipeError(
                f"custom: {self.file.name} gives {output.dtype} with shape {output.shape}, but {self.path.name} says "
                f"float32 {self.sidecar.output!r} with frames of {self.dim} values",
                f"correct {self.path}",
            )
        return features


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar. ValueError names the file and the wrong field."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"custom: cannot read the sidecar {path}: {error}") from error
    fields = {field.name: field for field in dataclasses.fields(Sidecar)}
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"custom: {path}: unknown field {', '.join(unknown)}; choose from: {', '.join(fields)}")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if missing:
        raise ValueError(f"custom: {path} lacks {', '.join(missing)}")
    try:
        return Sidecar(**values)
    except ValueError as error:
        raise ValueError(f"custom: {path}: {error}") from error


def load_model(file: Path) -> Model:
    """Load the model in a file, to be run in one thread."""
    return {".onnx": _onnx, ".pt2": _torch, ".tflite": _tflite}[file.suffix](file)


def _onnx(file: Path) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (model_input,), output = session.get_inputs(), session.get_outputs()[0]

    def run(sounds: np.ndarray) -> np.ndarray:
        features: np.ndarray = session.run([output.name], {model_input.name: sounds})[0]
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
    (model_input,), output = interpreter.get_input_details(), interpreter.get_output_details()[0]
    interpreter.allocate_tensors()
    shape = tuple(model_input["shape"])

    def run(sounds: np.ndarray) -> np.ndarray:
        nonlocal shape
        if sounds.shape != shape:
            interpreter.resize_tensor_input(model_input["index"], sounds.shape)
            interpreter.allocate_tensors()
            shape = sounds.shape
        interpreter.set_tensor(model_input["index"], sounds)
        interpreter.invoke()
        features: np.ndarray = interpreter.get_tensor(output["index"])
        return features

    return run


@functools.cache
def _sha256(file: Path) -> str:
    """Cached for the life of the process, because fingerprints ask for it often."""
    return sha256_of(file)

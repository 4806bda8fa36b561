"""Encoders are found by name, by the entry points of installed packages, and by the path of a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import encoders
from runtime.errors import MissingExtraError
from runtime.extras import require

LEVELS = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encoders.base import Encoder, WindowSound


@dataclass(frozen=True)
class LevelsConfig:
    floor: float = 1e-6


class Levels(Encoder):
    """Levels of frames of 10 ms, in nepers."""

    name: ClassVar[str] = "levels"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = LevelsConfig
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    sample_rate, hop_samples, dim, look_back_samples, look_ahead_samples = 8000, 80, 1, 0, 0

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        frames = window.sound.reshape(len(window.sound), window.frames, 80)
        return np.log(np.maximum(self.config.floor, np.abs(frames).mean(axis=2, keepdims=True)))


class Lacking(Levels):
    packages = ("numpy", "a_package_that_is_not_there")


class NoEncoder:
    pass
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "levels.py"
    path.write_text(LEVELS)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package beside ours, found by its dist-info as pip would leave it; the name of its module."""
    site, module = tmp_path / "site", f"levels_of_others_{tmp_path.name.replace('-', '_')}"
    info = site / "levels_of_others-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(LEVELS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: levels-of-others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{encoders.GROUP}]\nlevels = {module}:Levels\nlacking = {module}:Lacking\nnone = {module}:NoEncoder\n"
        f"logmel = {module}:Levels\n"
    )
    monkeypatch.syspath_prepend(site)
    return module


def test_every_name_of_ours_leads_to_an_encoder_of_that_name() -> None:
    assert encoders.choices() == sorted(encoders.ENCODERS)
    for name in encoders.ENCODERS:
        assert encoders.find(name).name == name


def test_another_package_brings_encoders_by_entry_points(package: str) -> None:
    assert {"levels", "lacking", "none"} < set(encoders.choices())
    encoder = encoders.load("levels", {"floor": 1.0})
    assert encoder.encode([encoder.cut(np.zeros((2, 800), np.float32), 0, 10)])[0].tolist() == [[[0.0]] * 10] * 2
    assert encoder.fingerprint != encoders.load("levels", {}).fingerprint
    assert encoders.load("logmel", {}).dim == 80  # our own names stay ours
    with pytest.raises(MissingExtraError, match="encoder 'lacking' needs a_package_that_is_not_there") as caught:
        encoders.load("lacking", {})
    assert "pip install" in caught.value.remedy
    with pytest.raises(ValueError, match=r"encoder 'none': .*NoEncoder.* is not a subclass of encoders.base.Encoder"):
        encoders.load("none", {})
    with pytest.raises(ValueError, match=r"unknown encoder 'level'; choose from: .*levels, .*logmel.*; or name a file"):
        encoders.load("level", {})


def test_a_file_brings_an_encoder_by_its_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoders.load(f"{file}:Levels", {"floor": 0.5})
    assert (encoder.name, encoder.frame_rate, encoder.config.floor) == ("levels", 100.0, 0.5)
    monkeypatch.chdir(file.parent)
    assert encoders.find("levels.py:Levels") is type(encoder)
    with pytest.raises(ValueError, match=r"has no setting 'roof'; choose from: floor"):
        encoders.load(f"{file}:Levels", {"roof": 1})
    with pytest.raises(ValueError, match=r"levels.py has no Nothing"):
        encoders.load(f"{file}:Nothing", {})
    with pytest.raises(ValueError, match=r"is not a subclass"):
        encoders.load(f"{file}:NoEncoder", {})
    with pytest.raises(ValueError, match=r"there is no file .*nowhere.py"):
        encoders.load(str(file.parent / "nowhere.py:Levels"), {})
    file.with_name("torn.py").write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            encoders.load(str(file.with_name("torn.py:Levels")), {})


def test_a_missing_package_is_told_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require("encoder 'x'", ["numpy"], "latents")
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as python does for what cannot be imported
    with pytest.raises(MissingExtraError, match="encoder 'oobleck' needs diffusers, not installed here") as caught:
        encoders.load("oobleck", {"model": "somewhere"})
    assert "latents" in caught.value.remedy

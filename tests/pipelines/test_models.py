"""Weights are found in installed packages and are the pinned ones."""

import pytest

from pipelines import models
from pipelines.errors import MissingExtraError, SpeechmillError


@pytest.mark.parametrize("name", models.MODELS)
def test_installed_weights_are_the_pinned_ones(name: str) -> None:
    assert models.verified(name).stat().st_size > 10_000


def test_a_missing_package_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.Model("x", "no_such_package", "w.onnx", "0", "MIT", "nothing", "pip install it")
    monkeypatch.setitem(models.MODELS, "x", model)
    with pytest.raises(MissingExtraError) as caught:
        models.find("x")
    assert caught.value.remedy == "pip install it"


def test_other_weights_than_the_pinned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.get("silero-vad-16k-sequence")
    monkeypatch.setitem(models.MODELS, "x", models.Model("x", model.package, model.file, "0" * 64, "", "", ""))
    with pytest.raises(SpeechmillError, match="not the pinned 0000"):
        models.verified("x")


def test_an_unknown_model_is_told_with_the_known() -> None:
    with pytest.raises(SpeechmillError) as caught:
        models.find("silero")
    assert "silero-vad-16k-sequence" in caught.value.remedy

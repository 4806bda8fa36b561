"""The report plays what an encoder keeps beside what was recorded: in a real browser, of shards of real sound."""

from pathlib import Path
from typing import Any

import pytest
from forked import speechmill
from small_runs import make_input, run_command
from test_report import Page, browser  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of which windows are kept."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 2)
    done = speechmill(*run_command(folder, folder / "lake")[3:])
    assert done.returncode == 0, done.stderr
    return folder / "lake"


@pytest.fixture(scope="module")
def report(lake: Path) -> Path:
    path = lake.with_name("report.html")
    done = speechmill("report", str(lake), "-o", str(path), "--roundtrips", "1")
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_the_encoder_keeps_is_played_beside_what_was_recorded(browser: Any, report: Path, scheme: str) -> None:  # noqa: F811
    opened = Page(browser, report, color_scheme=scheme)
    page = opened.page
    labels = {}
    for item in page.locator("#list li").all():
        item.click()
        if page.locator("#trip").is_visible():
            labels[opened.text("#name")] = opened.text("#decoded-label")
    ((name, label),) = labels.items()
    assert label == "The first 5.0 s, decoded from logmel features by hifigan"
    page.locator("#list b", has_text=name).click()
    left, right = (page.locator(player).bounding_box() for player in ("#audio", "#decoded"))
    assert (left["y"], left["height"]) == (right["y"], right["height"])
    assert left["x"] + left["width"] <= right["x"]
    page.keyboard.press("p")
    opened.until("audio.currentTime > 0.2")
    page.keyboard.press("d")
    opened.until("decoded.currentTime > 0.4")
    assert page.evaluate("audio.paused")
    assert page.evaluate("decoded.duration") == pytest.approx(5, abs=0.1)
    page.keyboard.press("d")
    opened.until("decoded.paused && !audio.paused")
    assert opened.problems == []
    opened.close()

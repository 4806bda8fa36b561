"""A month in the life of a lake: sound comes every day, recipes change, a recording is withdrawn, runs are killed.

The datasets equal those that are made at once of the same recordings, and the work that was done is what
docs/growing.md says: it is counted, not timed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_growth import RECIPE, Sound, changed, encoded_s, held, ledger_of, mill, sound, statistics_of

from manifests.exchange.validate import validate
from manifests.lake import Lake
from manifests.verify import verify
from pipelines.annotate import Annotator
from pipelines.commands.cli import cli

__all__ = ["encoded_s", "sound"]

DAYS = 30
STRICTER = changed(select={"windows": {"speech": "speech_share > 0.6"}})
"""From the tenth day on."""
DIVIDED = changed(select={"windows": {"speech": "speech_share > 0.6"}, "context_s": 3.0, "continuation_s": 5.0})
"""From the eighteenth day on: the same windows, divided into context and continuation otherwise."""
COARSER = changed(
    select={"windows": {"speech": "speech_share > 0.6"}, "context_s": 3.0, "continuation_s": 5.0},
    encode={"settings": {"num_mels": 40}},
)
"""From the twenty-fourth day on."""


@dataclass
class Month:
    """The lake, what is done to it, and the work that this took."""

    root: Path
    sound: Sound
    encoded: list[float]
    measured: list[str]
    recipe: dict[str, Any] = field(default_factory=lambda: RECIPE)
    dataset: str = "cheap"

    def day(self, more: int = 1) -> tuple[int, int]:
        """New sound and the same command. Returns how many recordings were measured and how many windows encoded."""
        self.encoded.clear()
        self.measured.clear()
        if more:
            self.sound.add(more)
        made = mill(self.root, self.sound.folder, self.recipe)
        assert made.dataset == self.dataset
        return len(self.measured), len(self.encoded)

    def killed_day(self, after_s: float) -> None:
        """New sound, and a run that is killed with all its workers some time after its start."""
        self.sound.add(1)
        recipe = self.root.with_name("recipe.json.toml")
        recipe.write_text(_toml(self.recipe))
        given = ["run", str(recipe), "--in", str(self.sound.folder), "--lake", str(self.root), "--quiet"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.commands", *given],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def command(self, *words: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [words[0], str(self.root), *words[1:], "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def check(self, scratch: Path) -> None:
        """The newest dataset equals one that is made at once of the same recordings, and nothing is wrong with it."""
        once = scratch / "once"
        for part in ("recordings", "annotations"):
            shutil.copytree(self.root / part, once / part)
        encoded, measured = list(self.encoded), list(self.measured)
        assert mill(once, None, self.recipe).dataset == "cheap"
        self.encoded[:], self.measured[:] = encoded, measured
        assert held(self.root, self.dataset) == held(once)
        assert ledger_of(self.root, self.dataset) == ledger_of(once)
        assert statistics_of(self.root, self.dataset) == statistics_of(once)
        assert verify(Lake.at(str(self.root)), self.dataset) == []
        shutil.rmtree(once)


def _toml(tables: dict[str, Any], prefix: str = "") -> str:
    """TOML of nested tables of strings and numbers."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for key, value in tables.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", _toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


@pytest.fixture
def month(tmp_path: Path, sound: Sound, encoded_s: list[float], monkeypatch: pytest.MonkeyPatch) -> Month:
    measured: list[str] = []
    annotate_some = Annotator._annotate_together

    def counted(self: Annotator, some: Any, *rest: Any) -> Any:
        measured.extend(recording["recording_id"] for recording, _ in some)
        return annotate_some(self, some, *rest)

    monkeypatch.setattr(Annotator, "_annotate_together", counted)
    return Month(tmp_path / "lake", sound, encoded_s, measured)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a machine that is busy otherwise
def test_a_month(month: Month, tmp_path: Path) -> None:
    chance = random.Random(20261127)
    kept_per_recording = 3
    for day in range(1, DAYS + 1):
        if day in (5, 15, 27):
            month.killed_day(chance.uniform(1, 12))
            month.day(more=0)
        elif day == 10:
            month.recipe, month.dataset = STRICTER, "cheap-2"
            measured, encoded = month.day()
            assert measured == 1  # the new one
            assert encoded <= kept_per_recording  # its windows; all others are taken over
        elif day == 18:
            month.recipe, month.dataset = DIVIDED, "cheap-3"
            measured, encoded = month.day()
            assert (measured, encoded <= kept_per_recording) == (1, True)
        elif day == 24:
            month.recipe, month.dataset = COARSER, "cheap-4"
            measured, encoded = month.day()
            assert measured == 1
            assert encoded == _windows(month)  # every window, and nothing is measured again
        else:
            measured, encoded = month.day()
            assert (measured, encoded <= kept_per_recording) == (1, True)
            if month.dataset == "cheap":
                assert encoded == kept_per_recording
        if day == 12:
            _withdraw(month)
        if day == 21:
            _correct_a_licence(month)
        if day % 6 == 0 or day in (5, 10, 12, 15, 21, 27):
            month.check(tmp_path)
    assert month.day(more=0) == (0, 0)
    assert [problem for problem in validate(Lake.at(str(month.root)), deep=True) if not problem.note] == []
    # What was made day by day, with other batches, holds what a new lake of the same sound holds.
    withdrawn = 1
    fresh = tmp_path / "fresh"
    mill(fresh, month.sound.folder, month.recipe)
    ours, theirs = held(month.root, month.dataset), held(fresh)
    assert len({name.partition("-")[0] for name in theirs} - {name.partition("-")[0] for name in ours}) <= withdrawn
    assert all(theirs[name] == data for name, data in ours.items())


def _windows(month: Month) -> int:
    rows = ledger_of(month.root, month.dataset)
    return sum(row["windows"] for row in rows if row["patch"] == 1)


def _first(month: Month) -> str:
    lake = Lake.at(str(month.root))
    ids = (row for _, table in lake.recordings(["recording_id"]) for row in table["recording_id"].to_pylist())
    return str(next(ids))


def _withdraw(month: Month) -> None:
    gone = _first(month)
    found = month.command("remove", gone, "--yes")
    assert found["recordings"] == 1
    assert {"cheap", "cheap-2"} >= set(found["datasets"]) >= {"cheap"}
    for dataset in ("cheap", "cheap-2"):
        assert not [name for name in held(month.root, dataset) if name.startswith(gone)]
    assert month.day(more=0) == (0, 0)  # its file is still there, and does not come back
    assert _first(month) != gone


def _correct_a_licence(month: Month) -> None:
    changed_one = _first(month)
    before = {path: path.read_bytes() for path in (month.root / "datasets" / month.dataset).glob("*/latents.*.tar")}
    assert month.command("label", "licence=CC0", "--id", changed_one)
    assert month.day(more=0) == (0, 0)
    assert {path: path.read_bytes() for path in before} == before  # features are as they were
    rows = [
        row
        for path in (month.root / "datasets" / month.dataset / "windows").iterdir()
        for row in Lake.at(str(month.root)).read(str(path.relative_to(month.root))).to_pylist()
    ]
    assert {row["recording_id"] for row in rows if row["licence"] == "CC0"} <= {changed_one}

"""What a run leaves under runs/<time>/, and what a person sees of it."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rich.progress
from forked import speechmill
from test_cli import ROOT

from manifests.storage.local import LocalStorage
from pipelines.progress import watch
from pipelines.progress.watch import Heartbeat, UnitResult, Watch
from runtime.failures import Failure

VAD_ONLY = ["--set", "annotate={vad={}}", "--set", "select.recordings={}", "--set", "select.windows={}"]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def summary_of(lake: Path) -> dict:
    (path,) = lake.glob("runs/*/summary.json")
    return json.loads(path.read_text())


def test_a_run_leaves_its_log_recipe_and_summary(tmp_path: Path, conversation: Path) -> None:
    (tmp_path / "text.mp3").write_text("not sound")
    words = ["--in", str(tmp_path / "text.mp3"), "--in", str(conversation), "--lake", str(tmp_path / "lake")]
    done = speechmill("run", "demo", *words, *VAD_ONLY, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["select"]["recordings"]["in"]["count"] == 2
    assert told["encode"][0]["frames"] == 3 * 640
    folder = tmp_path / "lake" / told["run"]
    summary = summary_of(tmp_path / "lake")
    assert summary["outcome"] == "done"
    assert summary["steps"]["ingest"]["reasons"] == {"ingest: UnreadableAudioError": 1}
    assert summary["steps"]["encode"]["hours"] == pytest.approx(24 / 3600)
    assert sum(step["wall_s"] for step in summary["steps"].values()) <= summary["wall_s"]
    assert json.loads((folder / "recipe.json").read_text())["annotate"] == {"vad": {}}
    log = (folder / "log.txt").read_text()
    assert re.search(r"Z WARNING \w+: ingest: UnreadableAudioError: .*text\.mp3", log)
    assert "annotate batch-000000: 1 recordings, 0.008 h, 0 failed" in log
    assert "failed: " in done.stderr


def test_quiet_says_nothing_and_a_stop_is_recorded(tmp_path: Path, conversation: Path) -> None:
    lake = tmp_path / "lake"
    quiet = speechmill("ingest", "demo", "--in", str(conversation), "--lake", str(lake), "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    (lake / "runs").rename(tmp_path / "runs")
    stopped = speechmill("encode", "demo", "--lake", str(lake), "--quiet")
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert "run `speechmill select` first" in stopped.stderr
    assert summary_of(lake)["outcome"] == "stopped"


def test_a_terminal_shows_a_bar_that_goes_away(tmp_path: Path, conversation: Path) -> None:
    main, side = pty.openpty()
    words = ["run", "demo", "--in", str(conversation), "--lake", str(tmp_path / "lake"), *VAD_ONLY]
    command = [sys.executable, "-c", "from pipelines.commands.cli import main; main()", *words]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=side, env=environment)
    os.close(side)
    seen = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0
    assert b"annotate" in seen
    assert b"GiB" in seen


def test_steps_count_units_failures_and_what_is_in_flight(storage: LocalStorage, capfd: pytest.CaptureFixture) -> None:
    with Watch(storage, "test", {}) as watched, watched.step("annotate", 7200.0) as step:
        beat = Heartbeat(storage, f"{step.heartbeat_prefix}/b.json")
        beat.last -= watch.HEARTBEAT_S
        beat("r1", 600.0, False)
        beat("r2", 600.0, False)  # too soon after the first
        step._read_heartbeats()
        assert step.position_s() == 600.0
        failures = [Failure(f"r{n}", "vad", "ValueError", "odd", "mend it") for n in range(8)]
        step.add_result(UnitResult("b", 10, 3600.0, [*failures, Failure("r0", "quality", "ValueError", "odd")]))
        # At once: what was last seen in flight of this unit is not counted a second time.
        assert (step.position_s(), step.recordings, step.failed) == (3600.0, 10, 8)
        assert re.fullmatch(r"1\.00/2\.00 h, [\d,]+ h/h, 0:00:\d\d left, 8 failed, \d\.\d GiB", step.text())
    shown = capfd.readouterr().err.splitlines()
    assert shown[0] == "failed: r0: vad: ValueError: odd; remedy: mend it"
    assert len(shown) == watch.SHOWN_FAILURES + 1
    summary = summary_of(Path(storage.root))
    assert summary["steps"]["annotate"]["reasons"] == {"vad: ValueError": 8, "quality: ValueError": 1}
    assert not list(storage.list(f"{watched.prefix}/working"))


def test_an_interrupted_run_and_a_bug_are_told_apart(storage: LocalStorage) -> None:
    for error, outcome, trace in ((KeyboardInterrupt(), "interrupted", False), (KeyError("x"), "stopped", True)):
        with pytest.raises(type(error)), Watch(storage, "test", {}) as watched:
            raise error
        path = Path(storage.root) / watched.prefix
        assert json.loads((path / "summary.json").read_text())["outcome"] == outcome
        assert ("Traceback" in (path / "log.txt").read_text()) == trace


def test_what_was_in_flight_is_not_counted_again_at_the_end(storage: LocalStorage) -> None:
    with Watch(storage, "test", {}) as watched:
        with watched.step("annotate", 1800.0) as step:
            step.running_s = {"gone": 900.0}  # as of a unit that an engine has summed up under another name
            step.add_result(UnitResult("all", 3, 1800.0))
        assert step.text().startswith("0.50/0.50 h")
    assert "annotate ended: 0.50/0.50 h" in (Path(storage.root) / watched.prefix / "log.txt").read_text()


def test_the_bar_takes_over_a_total_that_comes_late(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    seen = []

    class Shown(rich.progress.Progress):
        def update(self, task, **fields):
            super().update(task, **fields)
            seen.append(self.tasks[0].percentage)

    monkeypatch.setattr(rich.progress, "Progress", Shown)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Watch(storage, "test", {}) as watched, watched.step("encode", 0.0) as step:
        step.total_s = 3600.0
        step.add_result(UnitResult("one", 1, 900.0))
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
    assert seen[-1] == 25.0

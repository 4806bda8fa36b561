"""Hearing and seeing stretches of a lake's recordings: what comes out is the sound that lies there."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from manifests.lake import Lake
from pipelines.commands.cli import cli
from pipelines.commands.inspect import mel_edges, mel_levels
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from runtime.errors import SpeechmillError


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> str:
    made = Lake.at(str(tmp_path_factory.mktemp("lakes") / "lake"))
    ingest(made, [str(conversation)], IngestConfig())
    return str(made.storage.root)


def run(*words: str) -> Result:
    done = CliRunner().invoke(cli, ["manifest", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_clip_holds_the_samples_of_its_stretch(lake: str, tmp_path: Path, conversation: Path, suffix: str) -> None:
    out = tmp_path / f"clip.{suffix}"
    found = json.loads(run("clip", lake, "sample", "0:02", "3.5", "-o", str(out), "--json").output)
    clipped, rate = soundfile.read(out)
    whole, _ = soundfile.read(conversation)
    assert (found["duration_s"], found["channels"], rate) == (1.5, 1, 16000)
    assert np.array_equal(clipped, whole[2 * rate : int(3.5 * rate)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clip", "LAKE", "sample", "40", "50", "-o", "OUT.wav"], "ends at 30"),
        (["clip", "LAKE", "sample", "5", "4", "-o", "OUT.wav"], "nothing lies between"),
        (["clip", "LAKE", "sample", "1", "2", "-o", "OUT.xyz"], "no sound format"),
        (["clip", "LAKE", "sample", "1", "2000", "-o", "OUT.wav"], "too much at once"),
        (["play", "LAKE", "sample", "1", "2"], "no player"),
    ],
)
def test_mistakes_have_remedies(
    lake: str, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [word.replace("LAKE", lake).replace("OUT", str(tmp_path / "out")) for word in words]
    with pytest.raises(SpeechmillError, match=message) as caught:
        run(*words)
    assert caught.value.remedy


def test_play_hands_the_stretch_to_a_player(lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = tmp_path / "aplay"
    player.write_text(f'#!/bin/sh\nfor last; do :; done\n/bin/cp "$last" {tmp_path}/played.wav\n')
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    run("play", lake, "sample", "1", "2")
    assert soundfile.info(tmp_path / "played.wav").duration == 1.0


def test_a_tone_lights_the_row_of_its_frequency() -> None:
    rate, rows = 16000, 20
    tone = np.sin(2 * np.pi * 1500 * np.arange(rate) / rate)
    tone[rate // 2 :] = 0
    levels = mel_levels(tone, rate, rows, 10)
    row = int(np.searchsorted(mel_edges(rate / 2, rows), 1500)) - 1
    assert levels[:, 1].argmax() == row
    assert levels[row, 1] > -1
    assert levels[:, 8].max() == -70


def test_a_spectrogram_fits_the_terminal_or_becomes_a_picture(lake: str, tmp_path: Path) -> None:
    lines = run("spectrogram", lake, "sample", "5", "10").output.splitlines()
    assert len(lines) == 21
    assert max(map(len, lines)) <= 80
    assert any("█" in line for line in lines)
    pytest.importorskip("matplotlib")
    run("spectrogram", lake, "sample", "5", "10", "-o", str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A player that does not play, and no other."""
    player = tmp_path / name
    player.write_text(f"#!/bin/sh\n{script}\n")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("echo 'no such device' >&2; exit 3", "ended with code 3, saying: no such device"),
        ("echo 'audio open failed' >&2; exit 0", "ended before the sound did, saying: audio open failed"),
    ],
)
def test_a_player_that_fails_ends_the_command_with_its_reason(
    lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, how: str
) -> None:
    failing(tmp_path, monkeypatch, "ffplay", script)
    with pytest.raises(SpeechmillError, match=how):
        run("play", lake, "sample", "1", "20")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.commands", "manifest", "play", lake, "sample", "1", "20"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert how in done.stderr


def test_a_stretch_that_reaches_beyond_the_end_says_what_there_is(lake: str, tmp_path: Path) -> None:
    out = tmp_path / "clip.wav"
    done = run("clip", lake, "sample", "5", "900", "-o", str(out))
    assert done.stderr == "asked for 5 to 900 s, the recording has 30 s, wrote 25 s\n"
    assert done.stdout == f"{out}: 25.000 s, 16,000 Hz, 1 channel\n"
    assert run("clip", lake, "sample", "5", "30", "-o", str(out)).stderr == ""
    assert "showing 1 s" in run("spectrogram", lake, "sample", "29", "31").stderr

"""Hearing and seeing a stretch of a recording: `manifest clip`, `play` and `spectrogram`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.install import install
from manifests.look.cli import looking, manifest, opened
from pipelines.errors import MissingExtraError, SpeechmillError

if TYPE_CHECKING:
    import numpy as np

    from manifests.storage import StorageConfig

LONGEST_S = 900.0
PLAYERS = {
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error"],
    "mpv": ["--no-video", "--really-quiet"],
    "play": ["-q"],
    "pw-play": [],
    "paplay": [],
    "aplay": ["-q"],
    "afplay": [],
}
SHADES = " ░▒▓█"
COLUMNS, ROWS = 68, 20
FLOOR_DB = -70.0


class Time(click.ParamType):
    """Seconds, or hours, minutes and seconds between colons."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        seconds = 0.0
        try:
            for part in str(value).split(":"):
                seconds = 60 * seconds + float(part)
        except ValueError:
            self.fail(f"{value!r} is no time: write seconds, or 1:02:03.5", parameter, context)
        return seconds


def hearing(function: Callable[..., None]) -> Callable[..., None]:
    """A stretch of a recording: an id and times, or the id of a window."""
    function = click.argument("end_s", metavar="[END]", type=Time(), required=False)(function)
    function = click.argument("start_s", metavar="[START]", type=Time(), required=False)(function)
    function = click.argument("recording", metavar="ID")(function)
    return looking(function)


def stretch(recording: str, start_s: float | None, end_s: float | None, named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Float32 (channels, samples), their rate and the name of what ID, START and END mean."""
    from manifests.look.show import known

    target = opened(**named)
    recording_id, dash, start_ms = recording.rpartition("-")
    windowed = bool(dash) and len(start_ms) == 9 and start_ms.isdigit()
    found = known(target, recording_id if windowed else recording)
    if windowed:
        window = next((row for row in found["windows"] if row["window_id"].endswith(f"-{start_ms}")), None)
        if window is None:
            raise SpeechmillError(
                f"no window {recording} in the selection", "`manifest show` lists a recording's windows"
            )
        start_s, end_s = window["start_s"], window["start_s"] + window["duration_s"]
    assert target.lake is not None  # or nothing was known
    filled = (found.get("signal") or {}).get("filled_s") is not None
    samples, sample_rate = read_span(found["recording"], start_s or 0.0, end_s, target.lake.config, filled)
    return samples, sample_rate, found["recording"]["recording_id"], start_s or 0.0


def read_span(
    recording: Mapping[str, Any], start_s: float, end_s: float | None, config: StorageConfig, filled: bool = False
) -> tuple[np.ndarray, int]:
    """Float32 (channels, samples) of a stretch at the recording's own rate, and that rate.

    `filled` tells that gaps were filled with silence when it was annotated, which moves what comes after them.

    Raises SpeechmillError for a stretch that is empty, past the end or longer than 15 minutes.
    """
    import numpy as np

    from pipelines.audio.config import DecodeConfig
    from pipelines.audio.isolated import IsolatedDecoder
    from pipelines.audio.sound import present

    if end_s is not None and end_s <= start_s:
        raise SpeechmillError(f"nothing lies between {start_s:g} s and {end_s:g} s", "END must come after START")
    if end_s is not None and end_s - start_s > LONGEST_S:
        raise SpeechmillError(f"{end_s - start_s:g} s are too much at once", f"take {LONGEST_S:g} s at most")
    blocks, position = [], 0
    decode = DecodeConfig(fill_gaps=filled)
    with closing(IsolatedDecoder(present(recording, config), config, decode)) as decoder:
        for block in decoder:
            rate = decoder.sample_rate
            first, last = round(start_s * rate), round((start_s + LONGEST_S if end_s is None else end_s) * rate)
            blocks.append(block[:, max(0, first - position) : max(0, last - position)])
            position += block.shape[1]
            if position >= last:
                break
    samples = np.concatenate(blocks, axis=1)
    if not samples.shape[1]:
        raise SpeechmillError(f"it ends at {position / rate:.2f} s, before {start_s:g} s", "take an earlier START")
    return samples, rate


@manifest.command()
@hearing
@click.option("-o", "--output", required=True, metavar="FILE", help="Sound file to write: .wav, .flac, .ogg or .mp3.")
def clip(recording: str, start_s: float | None, end_s: float | None, output: str, as_json: bool, **named: Any) -> None:
    """Write a stretch of a recording, all its channels at its own rate. ID may be a window's."""
    from manifests.look import terminal

    samples, sample_rate, recording_id, start_s = stretch(recording, start_s, end_s, named)
    write(Path(output), samples, sample_rate)
    found = {
        "file": output, "recording_id": recording_id, "start_s": start_s, "duration_s": samples.shape[1] / sample_rate,
        "sample_rate": sample_rate, "channels": samples.shape[0],
    }  # fmt: skip
    if as_json:
        terminal.as_json(found)
    else:
        terminal.echo(f"{output}: {found['duration_s']:.3f} s, {sample_rate:,} Hz, {samples.shape[0]} channels")


def write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Float32 (channels, samples) as the sound file that the suffix names; 16 bit where it is PCM."""
    import soundfile

    try:
        soundfile.write(path, samples.T, sample_rate)
    except (TypeError, ValueError) as error:
        known = ", ".join(f".{kind.lower()}" for kind in ("WAV", "FLAC", "OGG", "MP3"))
        raise SpeechmillError(f"{path}: no sound format of that name", f"name a file {known}") from error
    except soundfile.LibsndfileError as error:
        raise SpeechmillError(f"{path}: {error}", "check the folder, or write .wav: it takes any rate") from error


@manifest.command()
@hearing
def play(recording: str, start_s: float | None, end_s: float | None, as_json: bool, **named: Any) -> None:
    """Play a stretch of a recording with the first player that is installed. ID may be a window's."""
    player = next((name for name in PLAYERS if shutil.which(name)), None)
    if player is None:
        listed = ", ".join(PLAYERS)
        raise SpeechmillError(f"no player is installed ({listed})", "install one, or write a file: `manifest clip`")
    samples, sample_rate, recording_id, start_s = stretch(recording, start_s, end_s, named)
    with tempfile.TemporaryDirectory(prefix="speechmill-play-") as folder:
        path = Path(folder) / "clip.wav"
        write(path, samples, sample_rate)
        done = subprocess.run([player, *PLAYERS[player], str(path)])
    if done.returncode:
        raise SpeechmillError(f"{player} ended with code {done.returncode}", "see what it says above")
    if as_json:
        from manifests.look import terminal

        duration_s = samples.shape[1] / sample_rate
        terminal.as_json({"player": player, "recording_id": recording_id, "start_s": start_s, "duration_s": duration_s})


@manifest.command()
@hearing
@click.option("-o", "--output", metavar="FILE", help="Picture to write (.png, .svg, .pdf) instead of the terminal.")
def spectrogram(
    recording: str, start_s: float | None, end_s: float | None, output: str | None, as_json: bool, **named: Any
) -> None:
    """Show a stretch of a recording over time and frequency (mel). ID may be a window's."""
    from manifests.look import terminal

    samples, sample_rate, recording_id, start_s = stretch(recording, start_s, end_s, named)
    end_s = start_s + samples.shape[1] / sample_rate
    if output:
        picture(Path(output), samples, sample_rate, start_s)
        terminal.as_json({"file": output}) if as_json else terminal.echo(f"{output}: {end_s - start_s:.3f} s")
        return
    levels = mel_levels(samples.mean(axis=0), sample_rate, ROWS, COLUMNS)
    if as_json:
        terminal.as_json(
            {"recording_id": recording_id, "start_s": start_s, "end_s": end_s, "top_hz": sample_rate / 2,
             "decibels": levels.round(1).tolist()}
        )  # fmt: skip
        return
    edges = mel_edges(sample_rate / 2, ROWS)
    for row in range(ROWS - 1, -1, -1):
        name = f"{edges[row]:>6.0f} Hz " if row % 4 == 0 or row == ROWS - 1 else " " * 10
        shades = (-(levels[row] / FLOOR_DB) + 1).clip(0, 1) * (len(SHADES) - 1)
        terminal.echo(name + "".join(SHADES[round(value)] for value in shades))
    ends = terminal.clock(start_s), terminal.clock(end_s)
    terminal.echo(" " * 10 + ends[0] + ends[1].rjust(COLUMNS - len(ends[0])))


def mel_edges(top_hz: float, rows: int) -> np.ndarray:
    """rows + 1 frequencies in Hz, equally far apart on the mel scale (HTK), from 0 to `top_hz`."""
    import numpy as np

    top = 2595 * np.log10(1 + top_hz / 700)
    edges: np.ndarray = 700 * (10 ** (np.linspace(0, top, rows + 1) / 2595) - 1)
    return edges


def mel_levels(samples: np.ndarray, sample_rate: int, rows: int, columns: int) -> np.ndarray:
    """Mean power in dB below the loudest cell, (rows, columns), low frequencies first; never below -70."""
    import numpy as np
    import scipy.signal

    window = max(64, round(0.032 * sample_rate))
    samples = np.pad(samples, (0, max(0, window - len(samples))))
    frequencies, times, power = scipy.signal.spectrogram(
        samples, sample_rate, nperseg=window, noverlap=window // 2, nfft=max(1024, window), mode="psd"
    )
    band = np.searchsorted(mel_edges(sample_rate / 2, rows), frequencies, side="right").clip(1, rows) - 1
    column = (np.arange(columns) * len(times) // columns, (np.arange(columns) + 1) * len(times) // columns)
    cells = np.zeros((rows, len(times)))
    np.add.at(cells, band, power)
    cells /= np.maximum(1, np.bincount(band, minlength=rows))[:, None]
    grid = np.stack([cells[:, a : max(b, a + 1)].mean(axis=1) for a, b in zip(*column, strict=True)], axis=1)
    levels: np.ndarray = np.maximum(FLOOR_DB, 10 * np.log10(np.maximum(grid, 1e-20) / max(grid.max(), 1e-20)))
    return levels


def picture(path: Path, samples: np.ndarray, sample_rate: int, start_s: float) -> None:
    """A panel a channel, drawn by matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib", install(["report"])) from error
    figure = Figure(figsize=(12, 3 * len(samples)), layout="constrained")
    panels = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    duration_s = samples.shape[1] / sample_rate
    rows = 128
    edges = mel_edges(sample_rate / 2, rows)
    for number, (panel, channel) in enumerate(zip(panels, samples, strict=True)):
        levels = mel_levels(channel, sample_rate, rows, 1200)
        extent = (start_s, start_s + duration_s, 0, rows)
        image = panel.imshow(levels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0)
        marks = range(0, rows + 1, rows // 8)
        panel.set_yticks(marks, [f"{edges[mark]:.0f}" for mark in marks])
        panel.set_ylabel(f"channel {number}, Hz")
        figure.colorbar(image, ax=panel, label="dB")
    panels[-1].set_xlabel("s")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise SpeechmillError(f"{path}: {error}", "name a .png, .svg or .pdf file") from error

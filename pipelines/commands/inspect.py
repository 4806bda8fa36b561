"""`manifest clip`, `play` and `spectrogram`: the sound of a segment of a recording."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import open_target, target_options
from manifests.install import install
from manifests.output import counted, say
from manifests.whole import whole
from runtime.errors import MissingExtraError, SpeechmillError

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
    """A time in seconds, or as hours, minutes and seconds between colons."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        seconds = 0.0
        try:
            for part in str(value).split(":"):
                seconds = 60 * seconds + float(part)
        except ValueError:
            self.fail(f"{value!r} is no time: write seconds, or 1:02:03.5", parameter, context)
        return seconds


def segment_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that name a stretch of a recording: an id with START and END, or the id of a window."""
    function = click.argument("end_s", metavar="[END]", type=Time(), required=False)(function)
    function = click.argument("start_s", metavar="[START]", type=Time(), required=False)(function)
    function = click.argument("recording", metavar="ID")(function)
    return target_options(function)


@dataclass(frozen=True)
class Stretch:
    """The sound of a recording from `start_s` on."""

    choice: dict[str, Any] | None
    """The choice of the lake, as JSON shows it."""
    recording_id: str
    start_s: float
    samples: np.ndarray
    """float32 (channels, samples)."""
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return self.samples.shape[1] / self.sample_rate

    def described(self) -> dict[str, Any]:
        """The stretch as JSON shows it, without its sound."""
        return {
            "choice": self.choice, "recording_id": self.recording_id, "start_s": self.start_s,
            "duration_s": self.duration_s,
        }  # fmt: skip


def stretch(recording: str, start_s: float | None, end_s: float | None, done: str, named: Mapping[str, Any]) -> Stretch:
    """Read the sound that ID, START and END name.

    Where the recording ends before END, a line on standard error says so; `done` is the verb of the command in it
    ("wrote").
    """
    from manifests.commands.show import recording_rows

    target = open_target(**named)
    recording_id, dash, start_ms = recording.rpartition("-")
    windowed = bool(dash) and len(start_ms) == 9 and start_ms.isdigit()
    found = recording_rows(target, recording_id if windowed else recording)
    if windowed:
        window = next((row for row in found["windows"] if row["window_id"].endswith(f"-{start_ms}")), None)
        if window is None:
            raise SpeechmillError(
                f"no window {recording} in the selection {target.choice.selection}",
                f"`speechmill manifest show {named['target']} {recording_id}` lists the windows of that recording",
            )
        start_s, end_s = window["start_s"], window["start_s"] + window["duration_s"]
    assert target.lake is not None  # recording_rows raises where there is no lake
    filled = (found.get("signal") or {}).get("filled_s") is not None
    samples, sample_rate = read_span(found["recording"], start_s or 0.0, end_s, target.lake.config, filled)
    made = Stretch(target.described, found["recording"]["recording_id"], start_s or 0.0, samples, sample_rate)
    last_s = made.start_s + made.duration_s
    if end_s is not None and last_s < end_s - 1 / sample_rate:
        asked = f"asked for {made.start_s:g} to {end_s:g} s, the recording has {last_s:.5g} s"
        say(f"{asked}, {done} {made.duration_s:.5g} s", error=True)
    return made


def read_span(
    recording: Mapping[str, Any], start_s: float, end_s: float | None, config: StorageConfig, filled: bool = False
) -> tuple[np.ndarray, int]:
    """Float32 (channels, samples) of a stretch at the recording's own rate, and that rate.

    `filled` says that gaps were filled with silence when it was annotated, which moves the sound after them.

    Raises SpeechmillError for a stretch that is empty, past the end or longer than 15 minutes.
    """
    import numpy as np

    from pipelines.audio.config import DecodeConfig
    from pipelines.audio.isolated import IsolatedDecoder
    from pipelines.audio.reach import first_available_uri

    if end_s is not None and end_s <= start_s:
        raise SpeechmillError(f"nothing lies between {start_s:g} s and {end_s:g} s", "END must come after START")
    if end_s is not None and end_s - start_s > LONGEST_S:
        raise SpeechmillError(f"{end_s - start_s:g} s are too much at once", f"take {LONGEST_S:g} s at most")
    blocks, position = [], 0
    decode = DecodeConfig(fill_gaps=filled)
    with closing(IsolatedDecoder(first_available_uri(recording, config), config, decode)) as decoder:
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


@click.command()
@segment_options
@click.option("-o", "--output", required=True, metavar="FILE", help="Sound file to write: .wav, .flac, .ogg or .mp3.")
def clip(recording: str, start_s: float | None, end_s: float | None, output: str, as_json: bool, **named: Any) -> None:
    """Write a segment of a recording to a sound file.

    The file has all channels and the sampling rate of the recording. START and END are in seconds or like 1:02:03.5.
    ID can also be the id of a window, without START and END.
    """
    from manifests.commands import terminal

    found = stretch(recording, start_s, end_s, "wrote", named)
    write(Path(output), found.samples, found.sample_rate)
    channels = len(found.samples)
    if as_json:
        terminal.as_json({**found.described(), "file": output, "sample_rate": found.sample_rate, "channels": channels})
    else:
        line = f"{found.duration_s:.3f} s, {found.sample_rate:,} Hz, {counted(channels, 'channel')}"
        terminal.echo(f"{output}: {line}")


def write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write float32 (channels, samples) in the format that the suffix names; PCM has 16 bits."""
    import soundfile

    try:
        with whole(path) as unfinished:
            soundfile.write(unfinished, samples.T, sample_rate)
    except (TypeError, ValueError) as error:
        known = ", ".join(f".{kind.lower()}" for kind in ("WAV", "FLAC", "OGG", "MP3"))
        raise SpeechmillError(f"{path}: no sound format of that name", f"name a file {known}") from error
    except soundfile.LibsndfileError as error:
        raise SpeechmillError(f"{path}: {error}", "check the folder, or write .wav: it takes any rate") from error


@click.command()
@segment_options
def play(recording: str, start_s: float | None, end_s: float | None, as_json: bool, **named: Any) -> None:
    """Play a segment of a recording with the first player that is installed.

    START and END are in seconds or like 1:02:03.5. ID can also be the id of a window, without START and END.
    """
    player = next((name for name in PLAYERS if shutil.which(name)), None)
    if player is None:
        listed = ", ".join(PLAYERS)
        raise SpeechmillError(f"no player is installed ({listed})", "install one, or write a file: `manifest clip`")
    found = stretch(recording, start_s, end_s, "playing", named)
    with tempfile.TemporaryDirectory(prefix="speechmill-play-") as folder:
        path = Path(folder) / "clip.wav"
        write(path, found.samples, found.sample_rate)
        _play_with(player, path, found.duration_s)
    if as_json:
        from manifests.commands import terminal

        terminal.as_json({**found.described(), "player": player})


def _play_with(player: str, path: Path, duration_s: float) -> None:
    """Play a file with a player and wait for its end. Raises SpeechmillError with its output where it fails.

    Some players (ffplay without a sound device) print an error, end long before the sound does, and report success.
    """
    begun = time.monotonic()
    done = subprocess.run([player, *PLAYERS[player], str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode or (output and time.monotonic() - begun < duration_s / 2):
        how = f"ended with code {done.returncode}" if done.returncode else "ended before the sound did"
        raise SpeechmillError(
            f"{player} {how}, saying: {output or 'nothing'}",
            "check that there is a sound device; or write a file and play it elsewhere: `speechmill manifest clip`",
        )
    if output:
        say(output, error=True)


@click.command()
@segment_options
@click.option(
    "-o", "--output", metavar="FILE", help="Write a picture (.png, .svg, .pdf) instead of drawing in the terminal."
)
def spectrogram(
    recording: str, start_s: float | None, end_s: float | None, output: str | None, as_json: bool, **named: Any
) -> None:
    """Draw the spectrogram of a segment of a recording, on a mel scale.

    START and END are in seconds or like 1:02:03.5. ID can also be the id of a window, without START and END.
    """
    from manifests.commands import terminal

    found = stretch(recording, start_s, end_s, "showing", named)
    top_hz = found.sample_rate / 2
    if output:
        picture(Path(output), found.samples, found.sample_rate, found.start_s)
        line = f"{output}: {found.duration_s:.3f} s"
        terminal.as_json({**found.described(), "file": output}) if as_json else terminal.echo(line)
        return
    levels = mel_levels(found.samples.mean(axis=0), found.sample_rate, ROWS, COLUMNS)
    if as_json:
        terminal.as_json({**found.described(), "top_hz": top_hz, "decibels": levels.round(1).tolist()})
        return
    edges = mel_edges(top_hz, ROWS)
    for row in range(ROWS - 1, -1, -1):
        name = f"{edges[row]:>6.0f} Hz " if row % 4 == 0 or row == ROWS - 1 else " " * 10
        shades = (-(levels[row] / FLOOR_DB) + 1).clip(0, 1) * (len(SHADES) - 1)
        terminal.echo(name + "".join(SHADES[round(value)] for value in shades))
    ends = terminal.clock(found.start_s), terminal.clock(found.start_s + found.duration_s)
    terminal.echo(" " * 10 + ends[0] + ends[1].rjust(COLUMNS - len(ends[0])))


def mel_edges(top_hz: float, rows: int) -> np.ndarray:
    """`rows` + 1 frequencies in Hz from 0 to `top_hz`, equally spaced on the mel scale of HTK."""
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


def picture(
    path: Path, samples: np.ndarray, sample_rate: int, start_s: float, names: Sequence[str] | None = None
) -> None:
    """Write a picture with a spectrogram for each channel; `names` are their labels, "channel N" if not given."""
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
        ticks = range(0, rows + 1, rows // 8)
        panel.set_yticks(ticks, [f"{edges[row]:.0f}" for row in ticks])
        panel.set_ylabel(f"{names[number] if names else f'channel {number}'}, Hz")
        figure.colorbar(image, ax=panel, label="dB")
    panels[-1].set_xlabel("s")
    try:
        with whole(path) as unfinished:
            figure.savefig(unfinished)
    except ValueError as error:
        raise SpeechmillError(f"{path}: {error}", "name a .png, .svg or .pdf file") from error

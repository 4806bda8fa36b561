"""Diarization of recordings with references: errors by condition, number of speakers, confidences, settings.

Each FOLDER holds an index.tsv with a column `reference`, as the test recordings do, or is what `speechmill simulate`
wrote. With --cache, the output of the models is kept in a folder, so that the same command takes seconds the next time,
whatever was changed in clustering. With --save, the results are kept in a file, and --against FILE prints a table
of the results in that file and the new ones.
"""

import dataclasses
import itertools
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
from analysed import Analysed, analysed, annotation, diarized
from compared import Measured, compare, load, save
from judged import Judged, is_judged, judged
from pyannote.core import Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from sounds import recordings_or_packaged

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.vad import Vad, VadConfig

PARTS = ("missed detection", "false alarm", "confusion")
COLLARS = (0.0, 0.5)
"""In pyannote's terms, which count both sides of an edge: none, and 0.25 s on each side."""
SWEEPS: dict[str, tuple[float, ...]] = {
    "one_speaker_prior": (-4, -2, -1, 0, 1, 2, 3, 4, 6, 8),
    "min_speaker_s": (0, 0.5, 1, 1.5, 2, 3, 5, 8),
    "min_speaker_share": (0, 0.005, 0.01, 0.02, 0.04, 0.08),
    "window_step_s": (1, 2, 2.5, 5, 7.5, 10),
}


@dataclasses.dataclass
class Result:
    """The diarization of one recording."""

    recording: Judged
    duration_s: float
    cpu_s: float
    row: dict[str, Any]
    found: int
    errors: np.ndarray
    """Seconds (collars, 4): missed, false alarm, confusion, and all speech of the reference; NaN without one."""


def result(recording: Judged, output: Analysed, row: dict[str, Any]) -> Result:
    """The errors of a row of the stage."""
    duration_s = output.num_samples / 16000
    errors = np.full((len(COLLARS), len(PARTS) + 1), np.nan)
    hypothesis = annotation(row)
    if recording.reference is not None:
        scored = Timeline([Segment(0, duration_s)])
        for number, collar in enumerate(COLLARS):
            parts = DiarizationErrorRate(collar=collar)(recording.reference, hypothesis, uem=scored, detailed=True)
            errors[number] = [parts[name] for name in (*PARTS, "total")]
    return Result(recording, duration_s, output.cpu_s, row, len(hypothesis.labels()), errors)


def measured(one: Result) -> Measured:
    """What --save keeps of a result."""
    recording = one.recording
    name = "/".join(recording.path.parts[-3:])
    return Measured(name, one.duration_s, recording.speakers, one.found, one.errors, recording.conditions)


def summary(results: Sequence[Result]) -> str:
    """Number of speakers and error of some recordings in one line."""
    right = sum(one.found == one.recording.speakers for one in results)
    text = f"{len(results):>5}{sum(one.duration_s for one in results) / 3600:>7.2f}{right:>7}"
    text += f"{np.mean([one.found - one.recording.speakers for one in results]):>+7.2f}"
    errors = np.nansum([one.errors for one in results], axis=0)
    for missed, false, confusion, total in errors:
        if total:
            parts = [100 * value / total for value in (missed + false + confusion, missed, false, confusion)]
            text += "  |" + "".join(f"{value:>7.1f}" for value in parts)
    return text


def table(results: Sequence[Result]) -> None:
    """Print a line for all recordings, and one for each value of each condition."""
    width = 40
    error = "".join(f"{name:>7}" for name in ("error", "missed", "false", "conf."))
    print(f"\n{'':<{width}}{'files':>5}{'hours':>7}{'right':>7}{'bias':>7}  |{error}  |{error}")
    print(f"{'':<{width}}{'':>26}  | no collar, %{'':>16}|  +-0.25 s, %")
    print(f"{'all':<{width}}{summary(results)}")
    for condition in dict.fromkeys(name for one in results for name in one.recording.conditions):
        by_value: defaultdict[str, list[Result]] = defaultdict(list)
        for one in results:
            if condition in one.recording.conditions:
                by_value[one.recording.conditions[condition]].append(one)
        for value, chosen in sorted(by_value.items()):
            print(f"{f'{condition}: {value}'[: width - 1]:<{width}}{summary(chosen)}")


def confusion_matrix(results: Sequence[Result]) -> None:
    """Print how many recordings with a number of speakers were found to have which."""
    counts = Counter((one.recording.speakers, one.found) for one in results)
    columns = sorted({found for _, found in counts})
    print("\nrecordings by their number of speakers (rows) and the number found (columns):")
    print(" " * 6 + "".join(f"{found:>5}" for found in columns))
    for speakers in sorted({speakers for speakers, _ in counts}):
        print(f"{speakers:>6}" + "".join(f"{counts[speakers, found] or '.':>5}" for found in columns))


def tenths(pairs: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """(predicted, observed, weight) of up to ten parts of equal size, in order of the prediction."""
    ordered = np.array(sorted(pairs)).reshape(-1, 3)
    parts = []
    for part in np.array_split(ordered, min(10, max(1, len(ordered) // 5))):
        predicted, observed = (float(np.average(part[:, n], weights=np.maximum(part[:, 2], 1e-9))) for n in (0, 1))
        parts.append((predicted, observed, float(part[:, 2].sum())))
    return parts


def calibration(curves: dict[str, list[tuple[float, float, float]]], plot: Path | None) -> None:
    """Print the calibration of (predicted, observed, weight) under each name, and draw it."""
    points = {name: tenths(pairs) for name, pairs in curves.items() if pairs}
    for name, parts in points.items():
        print(f"\n{name}: predicted, observed, weight")
        for predicted, observed, weight in parts:
            print(f"  {predicted:.3f}  {observed:.3f}  {weight:.0f}")
    if plot is None:
        return
    plt = pyplot()
    figure, axes = plt.subplots(1, len(points), figsize=(4 * len(points), 4), layout="constrained", squeeze=False)
    for axis, (name, parts) in zip(axes[0], points.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axis.plot([part[0] for part in parts], [part[1] for part in parts], "o-")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="observed", title=name, aspect="equal")
    figure.savefig(plot, metadata={"Date": None})


def pyplot() -> Any:
    """matplotlib, set to write the same SVG for the same numbers."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "speechmill"
    import matplotlib.pyplot as plt

    return plt


def judged_turns(one: Result) -> Iterator[tuple[float, float, float]]:
    """Confidence of each turn, the share of it in which its speaker speaks, and its length in seconds."""
    reference = one.recording.reference
    if reference is None:
        return
    mapping = DiarizationErrorRate().optimal_mapping(reference, annotation(one.row))
    timelines = {label: reference.label_timeline(label).support() for label in reference.labels()}
    for turn in one.row["turns"]:
        if turn["confidence"] is not None:
            span = Segment(turn["start_s"], turn["end_s"])
            spoken = timelines.get(mapping.get(turn["speaker"]), Timeline())
            yield turn["confidence"], spoken.crop(span).duration() / span.duration, span.duration


def sweep(recordings: Sequence[Judged], config: DiarizeConfig, cache: Path | None, plot: Path | None) -> None:
    """Error and number of speakers over a range of each setting, the others at their defaults."""
    vad = loaded_vad()
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for name, values in SWEEPS.items():
        for value in values:
            setting: dict[str, Any] = {name: value}
            stage = Diarize(dataclasses.replace(config, **setting))
            stage.setup()
            results = []
            for recording in recordings:
                output = analysed(stage, vad, recording.path, cache)
                results.append(result(recording, output, diarized(stage, output)))
            missed, false, confusion, total = np.nansum([one.errors[0] for one in results], axis=0)
            right = sum(one.found == one.recording.speakers for one in results) / len(results)
            curves.setdefault(name, []).append((value, 100 * (missed + false + confusion) / total, 100 * right))
            print(f"{name:<20}{value:>8}  {summary(results)}", flush=True)
    if plot is None:
        return
    plt = pyplot()
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        axis.plot([p[0] for p in points], [p[1] for p in points], "o-", label="diarization error rate, %")
        axis.plot([p[0] for p in points], [p[2] for p in points], "s--", label="number of speakers right, %")
        axis.axvline(getattr(config, name), color="grey", linewidth=0.8)
        axis.set_xlabel(name)
    axes[0].legend(fontsize="small")
    figure.savefig(plot, metadata={"Date": None})


def loaded_vad() -> Vad:
    vad = Vad(VadConfig())
    vad.setup()
    return vad


def diarize_all(recordings: Iterable[Judged], config: DiarizeConfig, cache: Path | None) -> Iterator[Result]:
    """Diarize recordings, and print a line for each."""
    stage, vad = Diarize(config), loaded_vad()
    stage.setup()
    print(f"{'recording':<44}{'speakers':>9}{'found':>7}{'error %':>9}{'+-0.25 s':>10}{'CPU s per s':>13}")
    for recording in recordings:
        output = analysed(stage, vad, recording.path, cache)
        one = result(recording, output, diarized(stage, output))
        rates = 100 * one.errors[:, :-1].sum(axis=1) / np.maximum(one.errors[:, -1], 1e-9)
        line = f"{recording.path.name[-42:]:<44}{recording.speakers:>9}{one.found:>7}"
        print(f"{line}{rates[0]:>9.1f}{rates[1]:>10.1f}{one.cpu_s / one.duration_s:>13.3f}", flush=True)
        yield one


@click.command()
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1)
@click.option("--cache", type=click.Path(path_type=Path), help="folder that keeps the output of the models")
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", help="a number in DiarizeConfig")
@click.option("--only", default="", help="part of the names to run")
@click.option("--most", type=int, help="most recordings of each folder")
@click.option("--sweep", "sweeping", is_flag=True, help="error over a range of each setting instead")
@click.option("--plot", type=click.Path(path_type=Path), help="file for the curves of calibration, or of --sweep")
@click.option("--save", "saved", type=click.Path(path_type=Path), help="file that keeps the results")
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="file with the results of an earlier run")
def main(
    folders: tuple[Path, ...], cache: Path | None, settings: tuple[str, ...], only: str, most: int | None,
    sweeping: bool, plot: Path | None, saved: Path | None, against: Path | None,
) -> None:  # fmt: skip
    """Diarize the recordings of FOLDERS whose number of speakers is known; by default the test recordings."""
    recordings: list[Judged] = []
    for folder in folders or (recordings_or_packaged(),):
        if not is_judged(folder):
            print(f"diarization: no recordings with references at {folder}: set SPEECHMILL_TEST_AUDIO")
            return
        recordings += [one for one in judged(folder) if only in str(one.path)][:most]
    changed: dict[str, Any] = {
        name: type(getattr(DiarizeConfig(), name))(float(value))
        for name, _, value in (setting.partition("=") for setting in settings)
    }
    config = DiarizeConfig(**changed)
    if sweeping:
        sweep([one for one in recordings if one.reference is not None], config, cache, plot)
        return
    results = list(diarize_all(recordings, config, cache))
    table(results)
    kept = [measured(one) for one in results]
    if saved is not None:
        save(saved, kept)
    if against is not None:
        print(f"\nbefore ({against.name}) and now, errors without collar in %:\n\n{compare(load(against), kept)}")
    confusion_matrix(results)
    counts = [
        (one.row["speakers_confidence"], float(one.found == one.recording.speakers), 1.0)
        for one in results
        if one.row["speakers_confidence"] is not None
    ]
    turns = list(itertools.chain.from_iterable(map(judged_turns, results)))
    calibration({"confidence of turns": turns, "confidence of the number of speakers": counts}, plot)
    length_s, cpu_s = (sum(values) for values in zip(*((one.duration_s, one.cpu_s) for one in results), strict=True))
    print(f"\n{length_s / 3600:.2f} h; the models ran at {length_s / max(cpu_s, 1e-9):.1f} times real time on one core")


if __name__ == "__main__":
    main()

"""Accuracy of diarization: error rate and its parts, number of speakers, calibration of confidences, and speed.

FOLDER is the output of `speechmill simulate`, or has an index.tsv with a column `reference` like the test recordings.
"""

import dataclasses
import itertools
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
import pyarrow.csv
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.util import load_rttm
from pyannote.metrics.diarization import DiarizationErrorRate
from sounds import ArraySound, recordings_or_packaged

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.diarizers import BuiltIn
from pipelines.stages.vad import Vad, VadConfig

PARTS = ("missed detection", "false alarm", "confusion")
SWEEPS: dict[str, tuple[float, ...]] = {
    "one_speaker_prior": (-4, -2, -1, 0, 1, 2, 3, 4, 6, 8),
    "min_speaker_s": (0, 0.5, 1, 1.5, 2, 3, 5, 8),
    "min_speaker_share": (0, 0.005, 0.01, 0.02, 0.04, 0.08),
    "window_step_s": (1, 2, 2.5, 5, 7.5, 10),
}


@dataclasses.dataclass
class Recording:
    """A recording with its reference."""

    name: str
    group: str
    sound: ArraySound
    speakers: int
    reference: Annotation | None
    vad: dict[str, Any]


class Tally:
    """Sums the errors of several recordings, and counts those whose number of speakers is right."""

    def __init__(self) -> None:
        self.metrics = [DiarizationErrorRate(collar=collar) for collar in (0.0, 0.5)]
        self.counts: Counter[tuple[int, int]] = Counter()

    def add(self, recording: Recording, found: Annotation) -> list[float]:
        """Add a recording. Returns its own error rates without a collar and with one of 0.25 s; NaN without
        reference."""
        self.counts[recording.speakers, len(found.labels())] += 1
        if recording.reference is None:
            return [np.nan, np.nan]
        scored = Timeline([Segment(0, recording.sound.num_samples / 16000)])
        return [float(metric(recording.reference, found, uem=scored)) for metric in self.metrics]

    def __str__(self) -> str:
        right = sum(count for (true, found), count in self.counts.items() if true == found)
        text = f"speakers right {right:>3} of {self.counts.total():<3}"
        if any(self.metrics[0].accumulated_.values()):
            strict = self.metrics[0]
            shares = [100 * strict.accumulated_[part] / max(strict.accumulated_["total"], 1e-9) for part in PARTS]
            text += f"  error {100 * abs(strict):5.1f} (missed {shares[0]:.1f}, false {shares[1]:.1f}, "
            text += f"confusion {shares[2]:.1f})  +-0.25 s {100 * abs(self.metrics[1]):5.1f}"
        return text


def recordings(folder: Path, only: str, most: int | None) -> Iterator[Recording]:
    """Yield the mono recordings of a folder whose number of speakers is known."""
    vad = Vad(VadConfig())
    vad.setup()
    listed: list[tuple[Path, str, int, Annotation | None]] = []
    if (folder / "truth.rttm").is_file():
        references = load_rttm(folder / "truth.rttm")
        for path in sorted((folder / "conversations").glob("*.flac")):
            reference = references.get(path.stem, Annotation())
            listed.append((path, f"{len(reference.labels())} speakers", len(reference.labels()), reference))
    else:
        index = pyarrow.csv.read_csv(folder / "index.tsv", parse_options=pyarrow.csv.ParseOptions(delimiter="\t"))
        for row in index.to_pylist():
            if str(row["channels"]) != "1" or not str(row["n_speakers"]).isdecimal():
                continue
            named = (row["reference"] or "").split(" ")[0]
            reference = next(iter(load_rttm(folder / named).values())) if named.endswith(".rttm") else None
            listed.append((folder / row["path"], Path(row["path"]).parent.name, int(row["n_speakers"]), reference))
    for path, group, speakers, reference in [entry for entry in listed if only in str(entry[0])][:most]:
        sound = ArraySound.from_file(path)
        yield Recording(path.name, group, sound, speakers, reference, {"vad": vad.annotate(sound, {})})


def annotation(row: dict[str, Any]) -> Annotation:
    """Convert the turns of a row to the type that pyannote's metrics take."""
    turns = Annotation()
    for number, turn in enumerate(row["turns"]):
        turns[Segment(turn["start_s"], turn["end_s"]), number] = turn["speaker"]
    return turns


def calibration(pairs: list[tuple[float, float, float]], what: str) -> None:
    """Print a calibration table. `pairs` are (confidence, truth, weight); each line is a tenth of them by
    confidence."""
    print(f"\n{what}: confidence, truth, weight")
    ordered = np.array(sorted(pairs)).reshape(-1, 3)
    for part in np.array_split(ordered, min(10, max(1, len(ordered) // 5))) if len(ordered) else ():
        said, true = (np.average(part[:, column], weights=np.maximum(part[:, 2], 1e-9)) for column in (0, 1))
        print(f"  {said:.3f}  {true:.3f}  {part[:, 2].sum():.0f}")


def judged_turns(recording: Recording, row: dict[str, Any], found: Annotation) -> Iterator[tuple[float, float, float]]:
    """Yield the confidence of each turn, the share of the turn in which its speaker speaks, and its length in
    seconds."""
    assert recording.reference is not None
    mapping = DiarizationErrorRate().optimal_mapping(recording.reference, found)
    for turn in row["turns"]:
        if turn["confidence"] is not None:
            span = Segment(turn["start_s"], turn["end_s"])
            true = mapping.get(turn["speaker"])
            spoken = recording.reference.label_timeline(true).support() if true is not None else Timeline()
            yield turn["confidence"], spoken.crop(span).duration() / span.duration, span.duration


def sweep(heard: list[Recording], config: DiarizeConfig, plot: Path | None) -> None:
    """Print the accuracy for several values of each setting, with the other settings at their defaults."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    analysed: dict[float, list[Any]] = {}
    for name, values in SWEEPS.items():
        for value in values:
            setting: dict[str, Any] = {name: value}
            changed = dataclasses.replace(config, **setting)
            stage = Diarize(changed)
            stage.setup()
            step, diarizer = changed.window_step_s, stage.diarizer
            assert isinstance(diarizer, BuiltIn)
            if step not in analysed:  # the other settings only affect decisions after the models have run
                analysed[step] = [diarizer.analyse(recording.sound.samples[0]) for recording in heard]
            tally = Tally()
            for recording, (windows, stretches, vectors) in zip(heard, analysed[step], strict=True):
                decided = diarizer.decide(windows, stretches, vectors, recording.sound.num_samples)
                chunk = dataclasses.asdict(decided)
                row = stage.join(recording.sound, recording.vad, [chunk] if recording.vad["vad"]["segments"] else [])
                tally.add(recording, annotation(row))
            right = sum(count for (true, found), count in tally.counts.items() if true == found)
            curves.setdefault(name, []).append((value, 100 * abs(tally.metrics[0]), 100 * right / len(heard)))
            print(f"{name:<20}{value:>8}  {tally}", flush=True)
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), sharey=True, layout="constrained")
        for axis, (name, points) in zip(axes, curves.items(), strict=True):
            axis.plot([p[0] for p in points], [p[1] for p in points], "o-", label="diarization error rate, %")
            axis.plot([p[0] for p in points], [p[2] for p in points], "s--", label="number of speakers right, %")
            axis.axvline(getattr(config, name), color="grey", linewidth=0.8)
            axis.set_xlabel(name)
        axes[0].legend(fontsize="small")
        figure.savefig(plot)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", help="A numeric field of DiarizeConfig.")
@click.option("--only", default="", help="Only recordings whose path contains this text.")
@click.option("--most", type=int, help="The largest number of recordings.")
@click.option("--sweep", "sweeping", is_flag=True, help="Vary each setting instead.")
@click.option("--plot", type=click.Path(path_type=Path), help="File for the curves of --sweep.")
def main(
    folder: Path | None, settings: tuple[str, ...], only: str, most: int | None, sweeping: bool, plot: Path | None
) -> None:
    """Diarize the mono recordings of FOLDER, by default the test recordings, whose number of speakers is known."""
    folder = folder or recordings_or_packaged()
    if not any((folder / name).is_file() for name in ("index.tsv", "truth.rttm")):
        raise click.UsageError(f"{folder} has neither index.tsv nor truth.rttm")
    changed: dict[str, Any] = {
        name: type(getattr(DiarizeConfig(), name))(float(value))
        for name, _, value in (setting.partition("=") for setting in settings)
    }
    config = DiarizeConfig(**changed)
    if sweeping:
        sweep([r for r in recordings(folder, only, most) if r.reference is not None], config, plot)
        return
    stage = Diarize(config)
    stage.setup()
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    turns: list[tuple[float, float, float]] = []
    counts: list[tuple[float, float, float]] = []
    heard_s = cpu_s = 0.0
    print(f"{'recording':<44}{'speakers':>9}{'found':>7}{'error %':>9}{'+-0.25 s':>10}{'CPU s per s':>13}")
    for recording in recordings(folder, only, most):
        begun = time.process_time()
        row = stage.annotate(recording.sound, recording.vad)
        spent_s, length_s = time.process_time() - begun, recording.sound.num_samples / 16000
        heard_s, cpu_s = heard_s + length_s, cpu_s + spent_s
        found = annotation(row)
        strict, loose = tallies[recording.group].add(recording, found)
        tallies["all"].add(recording, found)
        if recording.reference is not None:
            turns += judged_turns(recording, row, found)
        if row["speakers_confidence"] is not None:
            counts.append((row["speakers_confidence"], float(len(found.labels()) == recording.speakers), 1.0))
        line = f"{recording.name[-42:]:<44}{recording.speakers:>9}{len(found.labels()):>7}"
        print(f"{line}{100 * strict:>9.1f}{100 * loose:>10.1f}{spent_s / length_s:>13.3f}", flush=True)
    print()
    for group, tally in sorted(tallies.items()):
        print(f"{group:<20}{tally}")
    print("\nspeakers found, by how many there are:")
    for true, entries in itertools.groupby(sorted(tallies["all"].counts.items()), key=lambda entry: entry[0][0]):
        print(f"  {true}: " + ", ".join(f"{count} x {found}" for (_, found), count in entries))
    calibration(turns, "turns, and the share of each in which its speaker speaks")
    calibration(counts, "number of speakers, and whether it is right")
    print(f"\n{heard_s / 3600:.2f} h, {heard_s / max(cpu_s, 1e-9):.1f} times real time on one core")


if __name__ == "__main__":
    main()

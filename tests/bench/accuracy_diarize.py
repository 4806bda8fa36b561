"""Diarization error rate of the stage on real recordings with references, overlap scored, and its cost."""

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import pyarrow.csv
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.util import load_rttm
from pyannote.metrics.diarization import DiarizationErrorRate
from sounds import RECORDINGS, ArraySound

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.vad import Vad, VadConfig


def diarized(stage: Diarize, vad: Vad, sound: ArraySound) -> Annotation:
    """The stage's turns as pyannote's metrics want them."""
    row = stage.annotate(sound, {"vad": vad.annotate(sound, {})})
    annotation = Annotation()
    for number, turn in enumerate(row["turns"]):
        annotation[Segment(turn["start_s"], turn["end_s"]), number] = turn["speaker"]
    return annotation


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=RECORDINGS)
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", help="a number in DiarizeConfig")
@click.option("--only", default="", help="part of the names to run")
def main(folder: Path, settings: tuple[str, ...], only: str) -> None:
    """Diarize what FOLDER/index.tsv gives an RTTM reference for, mono files only."""
    if not (folder / "index.tsv").is_file():
        print(f"diarization: no test recordings at {folder}: set SPEECHMILL_TEST_AUDIO")
        return
    changed: dict[str, Any] = {
        name: float(value) for name, _, value in (setting.partition("=") for setting in settings)
    }
    if "min_cluster_size" in changed:
        changed["min_cluster_size"] = int(changed["min_cluster_size"])
    stage, vad = Diarize(DiarizeConfig(**changed)), Vad(VadConfig())
    stage.setup()
    vad.setup()
    index = pyarrow.csv.read_csv(folder / "index.tsv", parse_options=pyarrow.csv.ParseOptions(delimiter="\t"))
    metrics: dict[str, list[DiarizationErrorRate]] = {}
    print(f"{'recording':<40}{'speakers':>9}{'found':>7}{'DER %':>8}{'+-0.25 s':>10}{'CPU s per s':>13}")
    for row in index.to_pylist():
        reference_file = (row["reference"] or "").split(" ")[0]
        if not reference_file.endswith(".rttm") or str(row["channels"]) != "1" or only not in row["path"]:
            continue
        (reference,) = load_rttm(folder / reference_file).values()
        sound = ArraySound.from_file(folder / row["path"])
        duration_s = sound.num_samples / 16000
        begun = time.process_time()
        found = diarized(stage, vad, sound)
        cpu = (time.process_time() - begun) / duration_s
        scored = Timeline([Segment(0, duration_s)])
        group = metrics.setdefault(Path(row["path"]).parent.name, [DiarizationErrorRate(collar=c) for c in (0.0, 0.5)])
        strict, loose = [100 * metric(reference, found, uem=scored) for metric in group]
        print(
            f"{row['path']:<40}{len(reference.labels()):>9}{len(found.labels()):>7}{strict:>8.1f}{loose:>10.1f}{cpu:>13.3f}",
            flush=True,
        )
    for name, (strict, loose) in metrics.items():
        print(f"all of {name:<49}{100 * abs(strict):>8.1f}{100 * abs(loose):>10.1f}")


if __name__ == "__main__":
    main()

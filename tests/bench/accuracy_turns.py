"""Turn-taking measures of diarized conversations next to the true ones, on the output of `speechmill simulate`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
from scipy.stats import spearmanr
from sounds import ArraySound, packaged_recordings

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.turns import summary
from pipelines.stages.vad import Vad, VadConfig

COLUMNS = (
    *("num_speakers", "overlap_share", "second_speaker_share", "floor_transfers_per_min", "gaps_per_min"),
    *("overlaps_per_min", "backchannels_per_min", "interruptions_per_min", "overlapped_transfers"),
    *("offset_median_s", "offset_sd_s", "offset_iqr_s"),
)


def of_truth(truth: dict[str, Any]) -> dict[str, Any]:
    """Return the measures of the true turns."""
    turns = [
        {"speaker": said["speaker"], "start_s": start_s, "end_s": end_s}
        for said in truth["utterances"]
        for start_s, end_s in said["speech"]
    ]
    return summary(turns, truth["num_samples"] / truth["sample_rate"])


def simulate(folder: Path) -> Path:
    """Make a few short conversations of the speakers in the packaged recording."""
    voices = [str(path) for path in packaged_recordings().glob("speaker*.flac")]
    words = [f"--voices={path}" for path in voices]
    words += ["--count=2", "--minutes=0.5..0.6", "--speakers=2", "--side=test", "--test-share=1", "--quiet"]
    command = [sys.executable, "-m", "pipelines.commands", "simulate", str(folder), *words]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return folder


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--minutes", default=15.0, show_default=True, help="Diarize at most this much sound.")
@click.option("--speakers", default=0, help="Only conversations with this number of speakers; all if 0.")
def main(folder: Path | None, minutes: float, speakers: int) -> None:
    """Diarize the conversations of FOLDER and compare the columns with the truth.

    Without FOLDER, two short conversations are simulated from the packaged recording.
    """
    with tempfile.TemporaryDirectory() as made:
        measure(folder or simulate(Path(made) / "simulated"), minutes, speakers)


def measure(folder: Path, minutes: float, speakers: int) -> None:
    """Diarize the conversations of a folder, in the order of their names, and print the comparison."""
    stage, vad = Diarize(DiarizeConfig()), Vad(VadConfig())
    stage.setup()
    vad.setup()
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    heard_s = 0.0
    for path in sorted((folder / "conversations").glob("*.json")):
        truth = json.loads(path.read_text())
        expected = of_truth(truth)
        duration_s = truth["num_samples"] / truth["sample_rate"]
        if truth["channels"] > 1 or expected["num_speakers"] < 2 or (heard_s + duration_s) / 60 > minutes:
            continue
        if speakers and expected["num_speakers"] != speakers:
            continue
        sound = ArraySound.from_file(path.with_suffix(".flac"))
        found = stage.annotate(sound, {"vad": vad.annotate(sound, {})})
        heard_s += duration_s
        pairs.append((expected, found))
    print(f"{len(pairs)} conversations of {folder.name}, {heard_s / 60:.1f} minutes")
    both = sum(found["num_speakers"] > 1 for _, found in pairs)
    print(f"two or more speakers found in {both} of {len(pairs)}; the others have no turn-taking columns")
    if not pairs:
        return
    print(f"{'column':<26}{'pairs':>6}{'truth':>10}{'found':>10}{'difference':>12}{'absolute':>10}{'rank corr.':>12}")
    for name in COLUMNS:
        known = [(a[name], b[name]) for a, b in pairs if a[name] is not None and b[name] is not None]
        if len(known) > 2:
            a, b = np.array(known, float).T
            rank = f"{spearmanr(a, b).statistic:.2f}" if np.ptp(a) and np.ptp(b) else "-"
            medians = f"{np.median(a):>10.3f}{np.median(b):>10.3f}{np.mean(b - a):>12.3f}{np.median(abs(b - a)):>10.3f}"
            print(f"{name:<26}{len(known):>6}{medians}{rank:>12}")
    pooled = [np.concatenate([row["offsets_s"] or [] for row in side]) for side in zip(*pairs, strict=True)]
    for name, offsets in zip(("truth", "found"), pooled, strict=True):
        if not len(offsets):
            print(f"no changes of speaker, {name}")
            continue
        low, median, high = np.quantile(offsets, (0.25, 0.5, 0.75))
        summary_text = (
            f"median {median:.3f} s, quartiles {low:.3f} and {high:.3f} s, standard deviation {np.std(offsets):.3f} s"
        )
        print(f"all {len(offsets)} changes of speaker, {name}: {summary_text}, {np.mean(offsets < 0):.1%} overlap")


if __name__ == "__main__":
    main()

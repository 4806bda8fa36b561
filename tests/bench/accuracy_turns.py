"""Turn-taking of diarized conversations beside that of their truth, on a folder that `speechmill simulate` made."""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
from scipy.stats import spearmanr
from sounds import ArraySound

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.turns import summary
from pipelines.stages.vad import Vad, VadConfig

COLUMNS = (
    *("num_speakers", "overlap_share", "second_speaker_share", "floor_transfers_per_min", "gaps_per_min"),
    *("overlaps_per_min", "backchannels_per_min", "interruptions_per_min", "overlapped_transfers"),
    *("offset_median_s", "offset_sd_s", "offset_iqr_s"),
)


def of_truth(truth: dict[str, Any]) -> dict[str, Any]:
    """What the stage would measure if it found every stretch of speech."""
    turns = [
        {"speaker": said["speaker"], "start_s": start_s, "end_s": end_s}
        for said in truth["utterances"]
        for start_s, end_s in said["speech"]
    ]
    return summary(turns, truth["num_samples"] / truth["sample_rate"])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", default=15.0, help="sound to diarize at most")
@click.option("--speakers", default=0, help="only conversations with so many speakers; all if 0")
def main(folder: Path, minutes: float, speakers: int) -> None:
    """Diarize conversations of FOLDER, in order of their names, and compare columns with those of the truth."""
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
    print(f"two or more speakers found in {both} of {len(pairs)}; the others have no columns about the floor")
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
        low, median, high = np.quantile(offsets, (0.25, 0.5, 0.75))
        told = (
            f"median {median:.3f} s, quartiles {low:.3f} and {high:.3f} s, standard deviation {np.std(offsets):.3f} s"
        )
        print(f"all {len(offsets)} changes of the floor, {name}: {told}, {np.mean(offsets < 0):.1%} overlap")


if __name__ == "__main__":
    main()

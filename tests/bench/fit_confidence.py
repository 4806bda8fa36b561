"""Fit the weights of `speakers_confidence` to conversations whose number of speakers is known.

FOLDERS are what `speechmill simulate` wrote, of the tuning voices. Prints WEIGHTS and SIDE_WEIGHTS of
`pipelines.stages.confidence`, each of which needs conversations of its kind.
"""

import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
from analysed import analysed, diarized
from judged import judged
from scipy.optimize import minimize
from sounds import recordings_or_packaged

from pipelines.stages.confidence import predictors
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.vad import Vad, VadConfig

PENALTY = 0.5
"""Of the squares of all weights but the constant, against weights that rest on few recordings."""


@click.command()
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1)
@click.option("--cache", type=click.Path(path_type=Path), help="folder that keeps the output of the models")
@click.option("--most", type=int, help="most recordings of each folder")
def main(folders: tuple[Path, ...], cache: Path | None, most: int | None) -> None:
    """Fit a logistic regression to the recordings of FOLDERS with one channel, and one to the sides of the others."""
    stage, vad = Diarize(DiarizeConfig()), Vad(VadConfig())
    stage.setup()
    vad.setup()
    measured: list[tuple[float, ...]] = []
    kinds: dict[str, list[tuple[tuple[float, ...], bool]]] = {"WEIGHTS": [], "SIDE_WEIGHTS": []}

    def record(*given: Any) -> float:
        measured.append(predictors(*given[:3]))
        return 0.5

    recordings = (one for folder in folders or (recordings_or_packaged(),) for one in islice(judged(folder), most))
    with mock.patch("pipelines.stages.diarize.of_count", record):
        for recording in recordings:
            measured.clear()
            row = diarized(stage, analysed(stage, vad, recording.path, cache))
            if row["method"] == "pipeline":
                kinds["WEIGHTS"] += [(values, row["num_speakers"] == recording.speakers) for values in measured]
            elif recording.sides is not None:
                tracks = sorted({turn["track"] for turn in row["turns"]})  # each of them was recorded, in this order
                for track, values in zip(tracks, measured, strict=True):
                    found = len({turn["speaker"] for turn in row["turns"] if turn["track"] == track})
                    kinds["SIDE_WEIGHTS"].append((values, found == recording.sides[track]))
    for name, pairs in kinds.items():
        if pairs:
            fit(name, np.array([values for values, _ in pairs]), np.array([right for _, right in pairs], float))


def fit(name: str, values: np.ndarray, truth: np.ndarray) -> None:
    """Print the weights of a logistic regression of `truth` (count,) on `values` (count, predictors)."""

    def loss(weights: np.ndarray) -> float:
        logits = values @ weights
        return float(np.sum(np.logaddexp(0, logits) - truth * logits) + PENALTY * np.sum(weights[1:] ** 2))

    fitted = minimize(loss, np.zeros(values.shape[1])).x
    entropy = loss(fitted) - PENALTY * float(np.sum(fitted[1:] ** 2))
    print(f"{len(truth)} counts, {truth.mean():.2f} right, {entropy / len(truth):.3f} nats each")
    print(f"{name} = ({', '.join(f'{weight:.2f}' for weight in fitted)})")


if __name__ == "__main__":
    main()

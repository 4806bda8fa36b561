"""Fit the weights of `speakers_confidence` to conversations whose number of speakers is known.

FOLDERS are what `speechmill simulate` wrote, of the tuning voices. Prints the WEIGHTS of `pipelines.stages.confidence`.
"""

import os
import sys
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
def main(folders: tuple[Path, ...], cache: Path | None) -> None:
    """Fit a logistic regression to the recordings of FOLDERS that the built-in pipeline diarizes."""
    stage, vad = Diarize(DiarizeConfig()), Vad(VadConfig())
    stage.setup()
    vad.setup()
    measured: list[tuple[float, ...]] = []
    right: list[bool] = []

    def record(*given: Any) -> float:
        measured.append(predictors(*given))
        return 0.5

    with mock.patch("pipelines.stages.diarize.of_count", record):
        for recording in (one for folder in folders or (recordings_or_packaged(),) for one in judged(folder)):
            before = len(measured)
            row = diarized(stage, analysed(stage, vad, recording.path, cache))
            if len(measured) > before:
                right.append(row["num_speakers"] == recording.speakers)
    values, truth = np.array(measured), np.array(right, float)

    def loss(weights: np.ndarray) -> float:
        logits = values @ weights
        return float(np.sum(np.logaddexp(0, logits) - truth * logits) + PENALTY * np.sum(weights[1:] ** 2))

    fitted = minimize(loss, np.zeros(values.shape[1])).x
    entropy = loss(fitted) - PENALTY * float(np.sum(fitted[1:] ** 2))
    print(f"{len(truth)} recordings, {truth.mean():.2f} right, {entropy / len(truth):.3f} nats a recording")
    print(f"WEIGHTS = ({', '.join(f'{weight:.2f}' for weight in fitted)})")


if __name__ == "__main__":
    main()

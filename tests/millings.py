"""A cheap milling for tests that run many: seconds of real speech, voice activity, log-mel, many units."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import soundfile
from sounds import packaged_conversation

from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.publish import publish
from manifests.sums import written_sha256
from pipelines.encode import ShardEncoder, made_by
from pipelines.encoding.dataset import Dataset
from pipelines.encoding.plan import Shard, Unit
from pipelines.progress.watch import Done
from pipelines.recipes.recipe import EncodeConfig

RECIPE = """
name = "cheap"
[ingest]
batch_hours = 0.008
[annotate.vad]
[select]
context_s = 2.0
continuation_s = 6.0
[encode]
shard_mb = 0.3
"""


def conversation() -> tuple[np.ndarray, int]:
    """The 30 s of two speakers that ship inside pyannote.audio, int16, and their rate."""
    speech, rate = soundfile.read(packaged_conversation(), dtype="int16")
    return speech, rate


def make_input(folder: Path, count: int, repeats: int = 1) -> None:
    """`folder`/in with as many recordings, each that conversation `repeats` times, turned round; a recipe beside it.

    A batch holds one recording and so does a shard.
    """
    speech, rate = conversation()
    speech = np.tile(speech, repeats)
    (folder / "in").mkdir()
    for n in range(count):
        soundfile.write(folder / f"in/{n:02d}.wav", np.roll(speech, n * rate), rate)
    (folder / "recipe.toml").write_text(RECIPE)


def given(folder: Path, lake: Path, *words: str) -> list[str]:
    """The words after `speechmill` of a run over that input."""
    return ["run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(lake), "--quiet", *words]


def command(folder: Path, lake: Path, *words: str) -> list[str]:
    """`speechmill run` over that input."""
    return [sys.executable, "-m", "pipelines", *given(folder, lake, *words)]


def digests(lake: Path) -> dict[str, str]:
    """sha256 by name of all that two equal lakes share."""
    folders = [folder for folder in lake.glob("*") if folder.name != "runs"]  # where files come and go
    return {
        str(path.relative_to(lake)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sorted(folders)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def encode_alone(worker: ShardEncoder, shard: Shard) -> Done:
    """Make a shard of the one dataset of a worker."""
    (dataset,) = worker.targets
    return worker.encode(Unit(((dataset, shard),)))


def encoded(lake: Lake, dataset: str, selection: str, signal_mark: str, config: EncodeConfig) -> ShardEncoder:
    """Make a dataset of all that a selection keeps, with what describes it, as `Run.encode` does."""
    made = made_by(config, selection, signal_mark)
    worker = ShardEncoder(lake, {dataset: config}, selection, signal_mark)
    with Dataset(lake, dataset, made, dataset).making(config, None) as plan:
        for shard in plan:
            encode_alone(worker, shard)
        for name, told in {"recipe.json": {"name": dataset}, "models.json": {"models": []}}.items():
            lake.storage.put(f"datasets/{dataset}/{name}", pretty(told).encode())
        publish(lake, dataset, written_sha256(lake, selection))
    return worker

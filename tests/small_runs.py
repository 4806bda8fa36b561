"""Small runs for tests that need many: seconds of real speech, voice activity, log-mel, and many small units."""

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
from pipelines.encode import ShardEncoder, dataset_fingerprints
from pipelines.encoding.dataset import Dataset
from pipelines.encoding.planned import Shard, Unit
from pipelines.progress.watch import UnitResult
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
    """Return the packaged 30 s conversation of two speakers, int16 (samples,), and its rate."""
    speech, rate = soundfile.read(packaged_conversation(), dtype="int16")
    return speech, rate


def make_input(folder: Path, count: int, repeats: int = 1) -> None:
    """Write `count` recordings to `folder`/in, and a recipe with one recording per batch and per shard.

    Each recording is the conversation, repeated, and starts at another position, so that no two are equal.
    """
    speech, rate = conversation()
    speech = np.tile(speech, repeats)
    (folder / "in").mkdir()
    for n in range(count):
        soundfile.write(folder / f"in/{n:02d}.wav", np.roll(speech, n * rate), rate)
    (folder / "recipe.toml").write_text(RECIPE)


def run_words(folder: Path, lake: Path, *words: str) -> list[str]:
    """Return the arguments of `speechmill` for a run over the input of `make_input`."""
    return ["run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(lake), "--quiet", *words]


def run_command(folder: Path, lake: Path, *words: str) -> list[str]:
    """Return the command of a run over the input of `make_input`."""
    return [sys.executable, "-m", "pipelines.commands", *run_words(folder, lake, *words)]


def digests(lake: Path) -> dict[str, str]:
    """Return the sha256 of every file that must be the same in equal lakes, by name."""
    folders = [folder for folder in lake.glob("*") if folder.name != "runs"]  # logs and temporary files
    return {
        str(path.relative_to(lake)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sorted(folders)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def encode_alone(worker: ShardEncoder, shard: Shard) -> UnitResult:
    """Encode a shard with a worker that has a single dataset."""
    (dataset,) = worker.targets
    return worker.encode(Unit(((dataset, shard),)))


def encode_dataset(lake: Lake, dataset: str, selection: str, signal_mark: str, config: EncodeConfig) -> ShardEncoder:
    """Encode and publish a dataset of a whole selection, as `Run.encode` does."""
    made = dataset_fingerprints(config, selection, signal_mark)
    worker = ShardEncoder(lake, {dataset: config}, selection, signal_mark)
    with Dataset(lake, dataset, made, dataset).begin_version(config, None) as plan:
        for shard in plan:
            encode_alone(worker, shard)
        for name, told in {"recipe.json": {"name": dataset}, "models.json": {"models": []}}.items():
            lake.storage.put(f"datasets/{dataset}/{name}", pretty(told).encode())
        publish(lake, dataset, written_sha256(lake, selection))
    return worker

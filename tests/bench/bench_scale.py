"""Time and peak memory of the steps of a run that touch no sound, on synthetic manifests of many recordings.

Each step runs in a process of its own. Recordings are half an hour long, 40 in a batch and 43 in a shard: 14,000,000 of
them are 7 million hours in 350,000 batches.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pyarrow.parquet as pq

from manifests import ledger, schemas
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from manifests.shards import ShardCommit, ShardFiles
from manifests.statistics import Summing
from manifests.stored import Stored
from manifests.tables import write_parquet_bytes
from pipelines.encoding.plan import Plan
from pipelines.ingest import PART_ROWS, ingest
from pipelines.inputs.packing import NAMED
from pipelines.recipes.recipe import EncodeConfig, IngestConfig
from pipelines.run import Uncommitted
from pipelines.units.engines import Engine, Group
from pipelines.units.pending import estimate_work, pending_batches

BATCH, SHARD = 40, 43
HALF_HOUR_S = 1800.0
TEMPLATES = 20
MARKS = {"signal": "s", "vad": "v", "diarize": "d", "language": "l"}
MARKER = b"@@@@@@@@"
SELECTION = Selection(
    "bench", MARKS, context_s=10.0, continuation_s=30.0,
    recordings={"long": "duration_s > 300", "english": "coalesce(language_shares['en'], 0) >= 0.99"},
    windows={"speech": "speech_share >= 0.3"},
)  # fmt: skip
SELECTED = 10**6
"""Largest number of recordings for select: the files of more would not fit on most disks."""


def tables(rng: np.random.Generator) -> dict[str, Any]:
    """Return the tables of one batch. Ids begin with a marker that is replaced later."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("recordings", *MARKS, "windows", "shard")}
    for number in range(BATCH):
        base = {"recording_id": f"{MARKER.decode()}{number:012x}", "status": "ok"}
        sha = base["recording_id"] + rng.bytes(22).hex()
        length_s = HALF_HOUR_S * float(rng.uniform(0.8, 1.2))
        edges = np.sort(rng.uniform(0, length_s, 500)).round(3)
        spans = [{"track": 0, "start_s": a, "end_s": b} for a, b in edges.reshape(-1, 2).tolist()]
        turns = [span | {"speaker": f"SPEAKER_0{n % 2}"} for n, span in enumerate(spans)]
        claimed = {"sha256": sha, "size_bytes": 10**7, "claimed_duration_s": length_s, "source": "here"}
        found["recordings"].append(base | claimed | {"uris": [f"/data/{sha}.opus"], "channels": 1})
        measured = {"duration_s": length_s, "sample_rate": 16000, "pcm_sha256": sha, "tracks": 1, "channels": 1}
        found["signal"].append(base | measured)
        found["vad"].append(base | {"segments": spans, "speech_s": length_s / 2, "speech_share": 0.5})
        found["diarize"].append(base | {"turns": turns, "num_speakers": 2, "method": "pipeline"})
        found["language"].append(base | {"language": "en", "language_shares": {"en": 1.0}})
        same = {"recording_id": base["recording_id"], "split": "train", "duration_s": 40.0, "tracks": 1}
        for start_s in range(0, int(length_s) - 40, 40):
            cut = same | {"window_id": f"{base['recording_id']}-{start_s:09d}", "start_s": float(start_s)}
            kept = {"context_s": 10.0, "kept": start_s % 200 != 0, "reasons": [], "speech_share": 0.5}
            found["windows"].append(cut | kept)
            frames = {"context_frames": 800, "continuation_frames": 2400, "language": "en", "num_speakers": 2}
            found["shard"].append(cut | frames | {"folder": "train", "shard": 0, "status": "ok"})
    known = {"recordings": schemas.RECORDINGS, "windows": schemas.WINDOWS, "shard": schemas.SHARD_WINDOWS}
    return {name: schemas.table(rows, known.get(name) or schemas.STAGES[name]) for name, rows in found.items()}


class Writer:
    """Writes hundreds of thousands of files from a few templates, which are linked, or copied with new ids."""

    def __init__(self) -> None:
        self.root = Path()
        rng = np.random.default_rng(0)
        made = [tables(rng) for _ in range(TEMPLATES)]
        self.tables = {name: [tables_of[name] for tables_of in made] for name in made[0]}

    def link(self, name: str, count: int, key: Callable[[int], str]) -> None:
        """Write `count` files of a table. Files of equal content are hard links."""
        data = [write_parquet_bytes(table) for table in self.tables[name]]
        self._link(data, count, key)

    def _link(self, data: list[bytes], count: int, key: Callable[[int], str]) -> None:
        (self.root / key(0)).parent.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = self.root / key(number)
            if number < len(data):
                path.write_bytes(data[number])
            else:
                os.link(self.root / key(number % len(data)), path)

    def commits(self, count: int) -> None:
        """Write the commit records of shards whose window tables `link` writes."""
        summing = Summing()
        summing.add(Stored(np.random.default_rng(0).normal(size=(1000, 80)).astype(np.float16)))
        statistics = summing.statistics()
        assert statistics.products is not None

        def described_of(data: bytes) -> dict[str, Any]:
            return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}

        described = [described_of(write_parquet_bytes(table)) for table in self.tables["shard"]]
        products = write_parquet_bytes(statistics.products.table())
        self._link(
            [products] * TEMPLATES, count, lambda number: f"datasets/bench/{ShardFiles('train', number).products}"
        )
        (self.root / "datasets/bench/commits/train").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shard, which = ShardFiles("train", number), number % TEMPLATES
            rows = len(self.tables["shard"][which])
            files = {shard.windows: described[which], shard.products: described_of(products)}
            commit = ShardCommit("train", number, files, rows, 0, rows * 3200, {"encoder": "e"}, statistics)
            (self.root / "datasets/bench" / shard.commit).write_text(commit.to_json())

    def copy(self, name: str, count: int, key: Callable[[int], str]) -> None:
        """Write `count` files of a table, each with its own ids."""
        (self.root / key(0)).parent.mkdir(parents=True, exist_ok=True)
        data = []
        for table in self.tables[name]:
            sink = io.BytesIO()  # uncompressed, so that the marker can be replaced
            pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
            data.append(sink.getvalue())
        for number in range(count):
            (self.root / key(number)).write_bytes(data[number % TEMPLATES].replace(MARKER, b"%08x" % number))


def batch_name(number: int) -> str:
    return f"batch-{number:06d}"


def annotated(stage: str) -> Callable[[int], str]:
    return lambda number: f"annotations/{stage}-{MARKS[stage]}/{batch_name(number)}.parquet"


def build(writer: Writer, root: Path, recordings: int, step: str) -> None:
    """Write what a step reads, in addition to the output of the steps before it."""
    batches, shards = recordings // BATCH, recordings // SHARD
    if step == "nothing done":
        writer.link("recordings", batches, lambda n: f"recordings/{batch_name(n)}.parquet")
    elif step == "half done":
        for stage in MARKS:
            writer.link(stage, batches // 2, annotated(stage))
    elif step == "plan":
        writer.link("windows", batches, lambda n: f"selections/bench/windows-{n:06d}.parquet")
    elif step == "resume":
        writer.commits(shards // 2)
    elif step == "ledger":
        shutil.rmtree(root / "datasets", ignore_errors=True)
        writer.link("shard", shards, lambda n: f"datasets/bench/windows/train-{n:06d}.parquet")
        writer.commits(shards)
    elif step == "select":
        for name in ("recordings", *MARKS):
            key = annotated(name) if name in MARKS else lambda n: f"recordings/{batch_name(n)}.parquet"
            writer.copy(name, batches, key)
    elif step == "ingest new":
        names(root / "sound", recordings)
        hashed_names(Lake.at(str(root)), root / "sound")


def names(folder: Path, count: int) -> None:
    """Make names of audio files, a thousand in a folder, as hard links to a few dummy files of 60,000 links each."""
    for number in range(count):
        path = folder / f"{number // PART_ROWS:06d}/{number:09d}.wav"
        if number % PART_ROWS == 0:
            path.parent.mkdir(parents=True)
        if number % 60000 == 0:
            first = path
            path.write_bytes(b"no sound")
        else:
            os.link(first, path)


def hashed_names(lake: Lake, folder: Path) -> None:
    """Write what an ingest leaves that was killed after it had hashed every name, as if all contents were different."""
    for part, inside in enumerate(sorted(folder.iterdir())):
        rows = []
        for path in sorted(inside.iterdir()):
            status = path.stat()
            sha = hashlib.sha256(path.name.encode()).hexdigest()
            seen = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "claimed_duration_s": HALF_HOUR_S}
            rows.append(seen | {"uri": str(path), "recording_id": sha[:20], "sha256": sha, "status": "ok"})
        lake.write(f"runs/ingest/{part:06d}.parquet", schemas.table(rows, NAMED))


def run_step(step: str, root: Path) -> str:
    """Run one step. Returns a summary to print."""
    lake = Lake.at(str(root))
    if step in ("nothing done", "half done"):
        count = sum(1 for _ in pending_batches(lake, MARKS))
        return f"{count:,} batches pending"
    if step == "expected":
        batches, seconds = estimate_work(lake, pending_batches(lake, MARKS))
        return f"{batches:,} batches, {seconds / 3600:,.0f} h expected"
    if step == "select":
        return f"{select(lake, SELECTION).total['windows']:,} windows"
    if step == "select by two":
        two = Engine(workers=(2, 2))
        funnel = select(lake, SELECTION, lambda work, spans: two.run(spans, [Group("select", partial(partial, work))]))
        return f"{funnel.total['windows']:,} windows"
    if step == "plan":
        plan = Plan(lake, "bench", EncodeConfig())
        plan.digest()
        return f"{sum(1 for _ in plan):,} shards"
    if step == "resume":
        plan = Plan(lake, "bench", EncodeConfig())
        plan.digest()
        todo = [unit.shard.seconds for unit in Uncommitted(lake, {"bench": plan})]
        return f"{len(todo):,} shards to do, {sum(todo) / 3600:,.0f} h"
    if step == "ledger":
        shards = sum(1 for _ in lake.storage.list("datasets/bench/commits/train"))
        (book,) = ledger.build(lake, "bench", "logmel-e", [{"train": shards}])
        return f"{book.total('windows'):,} windows"
    assert step in ("ingest new", "ingest known")
    found = ingest(lake, [str(root / "sound")], IngestConfig())
    return f"{found.known:,} known, {found.new:,} new"


STEPS = (
    "nothing done",
    "expected",
    "half done",
    "plan",
    "resume",
    "ledger",
    "select",
    "select by two",
    "ingest new",
    "ingest known",
)


def timed(step: str, root: Path) -> dict[str, Any]:
    """Run this script in a new process for one step."""
    words = [sys.executable, __file__, "--step", step, "--root", str(root)]
    answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])


def one(step: str, root: Path) -> None:
    before_mb = peak_mb()
    begun, begun_cpu = time.monotonic(), time.process_time()
    shown = run_step(step, root)
    result = {"wall_s": time.monotonic() - begun, "cpu_s": time.process_time() - begun_cpu, "shown": shown}
    print(json.dumps(result | {"before_mb": before_mb, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the peak memory of this process. Unlike getrusage's, it excludes that of the process it was forked
    from."""
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(peak_kb) / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recordings", type=int, nargs="*", default=[10**5, 10**6])
    options.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    options.add_argument("--folder", default=tempfile.gettempdir())
    options.add_argument("--step", help=argparse.SUPPRESS)
    options.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.step:
        one(given.step, given.root)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'recordings':>11}  {'step':<13}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'added MB':>12}")
    writer = Writer()
    for recordings in given.recordings:
        root = writer.root = Path(tempfile.mkdtemp(prefix="speechmill-scale-", dir=given.folder))
        try:
            for step in given.steps:
                if step.startswith("select") and recordings > SELECTED:
                    continue
                if step in ("select", "ingest new"):
                    shutil.rmtree(root)
                    root.mkdir()
                build(writer, root, recordings, step)
                row = timed(step, root)
                grown_mb = row["peak_mb"] - row["before_mb"]
                print(
                    f"{recordings:>11,}  {step:<13}{row['wall_s']:>9.1f}{row['cpu_s']:>9.1f}{row['peak_mb']:>9.0f}"
                    f"{grown_mb:>12.0f}  {row['shown']}",
                    flush=True,
                )
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()

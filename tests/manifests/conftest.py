"""A small lake of real sound, milled to shards, for what reads lakes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_runs import encode_dataset

from manifests import schemas
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.annotate import Annotator
from pipelines.ingest import ingest
from pipelines.recipes.recipe import EncodeConfig, IngestConfig
from pipelines.stages.turns import summary
from pipelines.stages.vad import Vad, VadConfig


@pytest.fixture(scope="session")
def milled(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> Lake:
    """A mono and a two-channel recording and one that cannot be read, milled to shards.

    Turns are the stretches of speech, each track a speaker: what diarization makes of the second.
    """
    folder = tmp_path_factory.mktemp("in")
    speech, rate = soundfile.read(conversation, dtype="int16")
    soundfile.write(folder / "one.wav", speech, rate)
    soundfile.write(folder / "two.wav", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    (folder / "none.wav").write_bytes(b"no sound")
    lake = Lake.at(str(tmp_path_factory.mktemp("lake")))
    ingest(lake, [str(folder)], IngestConfig(source="sample", licence="MIT", label={"country": "DE"}))
    annotator = Annotator(lake, [Vad(VadConfig())])
    annotator.annotate("batch-000000")
    rows = []
    for row in lake.read(lake.annotation_key("vad", annotator.fingerprints["vad"], "batch-000000")).to_pylist():
        turns = [segment | {"speaker": f"SPEAKER_{segment['track']:02d}"} for segment in row["segments"]]
        turns.sort(key=lambda turn: turn["start_s"])
        told = {name: row[name] for name in schemas.BASE_NAMES} | {"turns": turns, "method": "channels"}
        rows.append(told | summary(turns, 30.0))
    lake.write(lake.annotation_key("diarize", "d", "batch-000000"), schemas.table(rows, schemas.DIARIZE))
    marks = annotator.fingerprints | {"diarize": "d"}
    select(lake, Selection("s", marks, context_s=2, continuation_s=6, windows={"speech": "speech_share > 0.5"}))
    encode_dataset(lake, "set", "s", marks["signal"], EncodeConfig(shard_mb=0.5))
    return lake

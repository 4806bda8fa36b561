"""The schema of every Parquet file in a lake.

Each column carries its unit and a description in its metadata. A stage writes one row for each recording of a batch,
in the order of the batch; a recording that failed has a row, too. `BASE` is common to the rows of all stages.
"""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.changes import CHANGES, REMOVED
from manifests.schemas.columns import BASE, BASE_NAMES, FAILURE, TURN, field, table
from manifests.schemas.datasets import LEDGER, PRODUCTS, SHARD_WINDOWS, SHARDS, SUBSET, TOKENS
from manifests.schemas.matches import MATCHES
from manifests.schemas.recordings import RECORDINGS
from manifests.schemas.selections import PASSAGE, REPEATS, VERDICTS, WINDOWS
from manifests.schemas.stages import STAGE_SPECS
from manifests.schemas.stages.diarize import DIARIZE, TURN_TAKING
from manifests.schemas.stages.fingerprint import FINGERPRINT
from manifests.schemas.stages.language import LANGUAGE
from manifests.schemas.stages.phonemes import PHONEMES
from manifests.schemas.stages.prosody import PROSODY
from manifests.schemas.stages.quality import QUALITY
from manifests.schemas.stages.signal import SIGNAL
from manifests.schemas.stages.vad import VAD

__all__ = [
    "BASE",
    "BASE_NAMES",
    "CHANGES",
    "DIARIZE",
    "FAILURE",
    "FINGERPRINT",
    "LANGUAGE",
    "LEDGER",
    "MATCHES",
    "PASSAGE",
    "PHONEMES",
    "PRODUCTS",
    "PROSODY",
    "QUALITY",
    "RECORDINGS",
    "REMOVED",
    "REPEATS",
    "SHARDS",
    "SHARD_WINDOWS",
    "SIGNAL",
    "STAGES",
    "STAGE_SPECS",
    "SUBSET",
    "TOKENS",
    "TURN",
    "TURN_TAKING",
    "VAD",
    "VERDICTS",
    "WINDOWS",
    "field",
    "judged",
    "table",
]

STAGES: dict[str, pa.Schema] = {name: spec.schema for name, spec in STAGE_SPECS.items()}
"""The schema of each stage by its name, in the order in which stages run."""


def judged(stage: str) -> pa.Schema:
    """The columns of a stage that rules can read."""
    spec = STAGE_SPECS[stage]
    return pa.schema([column for column in spec.schema if column.name not in spec.bulky])

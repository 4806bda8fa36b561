"""The stage `fingerprint`: the landmarks of a recording, by which other recordings with the same sound are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifests.schemas import FINGERPRINT
from pipelines.stages.base import Row, Sound, Stage
from pipelines.stages.landmarks import landmarks


@dataclass(frozen=True)
class FingerprintConfig:
    """Empty, because only fingerprints that were taken in the same way can be compared."""


class Fingerprint(Stage):
    """Makes rows of `manifests.schemas.FINGERPRINT`; `pipelines.stages.landmarks` says what landmarks are."""

    name = "fingerprint"
    version = 1
    schema = FINGERPRINT
    config: FingerprintConfig

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        times_ms, bits = landmarks(sound)
        return {"times_ms": times_ms.tolist(), "landmarks": bits.tolist(), "landmark_count": len(bits)}

"""Fingerprints: the landmarks of a recording, by which its copies and repeated passages are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifests.schemas import FINGERPRINT
from pipelines.stages.base import Row, Sound, Stage
from pipelines.stages.landmarks import landmarks


@dataclass(frozen=True)
class FingerprintConfig:
    """There are no settings, because fingerprints of different settings could not be compared."""


class Fingerprint(Stage):
    """Rows of `manifests.schemas.FINGERPRINT`, which `pipelines.stages.landmarks` describes."""

    name = "fingerprint"
    version = 1
    schema = FINGERPRINT
    config: FingerprintConfig

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        times_ms, bits = landmarks(sound)
        return {"times_ms": times_ms.tolist(), "landmarks": bits.tolist(), "landmark_count": len(bits)}

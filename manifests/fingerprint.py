"""Fingerprints: a short hash of everything that can change a result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from manifests.output import to_json


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """The first 12 hex digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def pretty(value: Any) -> str:
    """JSON with sorted keys, one on each line, for people and for comparison."""
    return to_json(value, indent=1, sort_keys=True) + "\n"

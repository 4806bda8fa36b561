"""What is selected: the settings of a recipe, and the selection of a lake that is made by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.names import DUPLICATE, FOLDERS, REPEATED, checked_name

MOSTLY = 0.5
"""A window repeats where more than this share of its sound was met before."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """What is selected: the table `[select]` of a recipe."""

    context_s: float = 10.0
    """Length of the context with which a window begins."""
    continuation_s: float = 30.0
    """Length of the continuation, which follows the context."""
    stride_s: float | None = None
    """Time from the start of a window to the start of the next; by default the length of a window."""
    grid_s: float = 0.1
    """Windows start at multiples of this; the default is 8 frames of 12.5 ms."""
    align: str = "none"
    """'turns' starts each window at the next turn of a speaker; 'none' starts windows at regular steps."""
    seed: int = 0
    """Seed of the hash that draws splits."""
    splits: dict[str, float] = field(default_factory=lambda: {"train": 1.0})
    """Share of recordings in each split; the shares must sum to 1."""
    recordings: dict[str, str] = field(default_factory=dict)
    """Rules over annotation columns by name: an SQL condition that a recording must meet."""
    windows: dict[str, str] = field(default_factory=dict)
    """Rules over window columns by name: an SQL condition that a window must meet."""
    duplicate_share: float = 0.8
    """A recording is a duplicate if at least this share of its sound occurs in another one. Needs fingerprints."""
    most_repeats: int | None = None
    """A passage that occurs in more recordings than this is kept only in the one that was ingested first: windows of
    the others that consist mostly of it are rejected with the reason `repeated`. By default passages are kept
    everywhere. Needs fingerprints."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.context_s, self.continuation_s, self.stride_s or 0, self.grid_s))):
            raise ValueError("select.context_s, continuation_s, stride_s and grid_s must be finite numbers")
        if self.context_s < 0 or self.continuation_s < 0.001:
            raise ValueError("select.context_s must be at least 0 and select.continuation_s at least 0.001")
        if self.grid_s < 0.001:  # the id of a window contains its start in milliseconds
            raise ValueError(f"select.grid_s must be at least 0.001, a millisecond, not {self.grid_s}")
        if self.stride_s is not None and self.stride_s <= 0:
            raise ValueError("select.stride_s must be above 0")
        if not 0.5 <= self.duplicate_share <= 1:
            raise ValueError(f"select.duplicate_share must be 0.5 to 1, not {self.duplicate_share}")
        if self.most_repeats is not None and self.most_repeats < 1:
            raise ValueError(f"select.most_repeats must be at least 1, not {self.most_repeats}")
        if self.align not in ("none", "turns"):
            raise ValueError(f"select.align must be 'none' or 'turns', not {self.align!r}")
        for split in self.splits:
            checked_name(split, "the split")
            if split.lower() in FOLDERS:
                raise ValueError(f"the split {split!r} cannot be used: datasets have a folder of this name")
        for rule in (*self.recordings, *self.windows):
            self._check_rule_name(rule)
            if rule == DUPLICATE:
                raise ValueError(f"the rule {rule!r} cannot be used: it is the reason of recordings with equal samples")
            if rule == REPEATED:
                what = f"the rule {rule!r} cannot be used"
                raise ValueError(f"{what}: it is the reason of windows that most_repeats rejects")
        if len({split.lower() for split in self.splits}) < len(
            self.splits
        ):  # some file systems do not distinguish them
            raise ValueError(f"select.splits must differ by more than capitals: {', '.join(self.splits)}")
        if not self.splits or min(self.splits.values()) < 0 or abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ValueError(f"select.splits must be shares that sum to 1, not {self.splits}")

    def _check_rule_name(self, rule: str) -> None:
        checked_name(rule, "the rule")

    @property
    def window_s(self) -> float:
        """Length of a window, seconds."""
        return self.context_s + self.continuation_s

    @property
    def window_rules(self) -> dict[str, str]:
        """The rules for windows by name, including the one that follows from `most_repeats`."""
        if self.most_repeats is None:
            return dict(self.windows)
        rare = f"coalesce(repeats <= {self.most_repeats} OR repeated_share <= {MOSTLY}, true)"
        return {**self.windows, REPEATED: rare}


@dataclass(frozen=True)
class Selection(SelectConfig):
    """Settings applied to the annotations of a lake, and the name under which the result is stored.

    `stages` maps the name of each annotation stage to its fingerprint.
    """

    name: str
    stages: Mapping[str, str]
    matches: str | None = None
    """Fingerprint of the matches, which say which recordings share sound; None if only equal samples are compared."""

    def __post_init__(self) -> None:
        """Nothing is checked here: a recipe has been checked, and rules of `manifest what-if` can have any name."""

    @classmethod
    def stored(cls, lake: Lake, name: str) -> Selection:
        """Read the selection `name`. Raises FileNotFoundError if there is none."""
        key = f"selections/{name}/selection.json"
        try:
            return cls(**lake.read_json(key))
        except TypeError as error:
            raise CorruptFileError.of(key, f"is no selection: {error}") from error

"""The settings of a simulation and their bounds. Together with the voices they determine its bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.recipes.recipe import apply_override
from runtime import typed
from runtime.errors import OverrideError

SIDES = ("tuning", "test")
ROOMS = ("dry", "small", "medium", "large")
CODECS = ("none", "mulaw", "alaw", "gsm", "amr", "opus", "g722")
BEDS = ("none", "pink", "babble", "files")
Range = tuple[float, float]
"""The smallest and the largest value of a uniform distribution."""
RANGES: dict[str, Range] = {
    "minutes": (0.5, 1440),
    "speakers": (1, 8),
    "snr_db": (-20, 100),
    "leak_db": (0, 100),
    "leak_ms": (0, 1000),
}
"""The bounds of each setting that is a range."""


@dataclass(frozen=True)
class TurnTaking:
    """Parameters of turn-taking. docs/simulate.md gives the sources of the defaults."""

    offset_median_s: float = 0.2
    """Median of the floor transfer offset: positive is a gap between two speakers, negative an overlap."""
    offset_sd_s: float = 0.6
    """Standard deviation of the floor transfer offset."""
    offset_tail: float = 1.1
    """Mean of the exponential part of the offset divided by the standard deviation of its normal part: the skew grows
    with it."""
    hold: float = 0.2
    """Probability that the same speaker continues after a pause; otherwise the next speaker is drawn by share."""
    pause_median_s: float = 0.5
    """Median pause between two utterances of the same speaker."""
    pause_spread: float = 0.6
    """Standard deviation of the natural logarithm of pauses."""
    backchannels_per_min: float = 3.0
    """Short utterances of listeners within the utterance of another speaker, per minute of conversation."""
    interruptions: float = 0.05
    """Share of the changes of speaker at which the next speaker interrupts and the other one breaks off."""
    concentration: float = 4.0
    """Parameter of the symmetric Dirichlet distribution of the shares of speaking time: with a lower value, shares are
    less equal."""

    def __post_init__(self) -> None:
        for name in ("offset_sd_s", "offset_tail", "pause_median_s", "concentration"):
            if not getattr(self, name) > 0:
                raise ValueError(f"turns.{name} must be above 0")
        for name in ("pause_spread", "backchannels_per_min"):
            if getattr(self, name) < 0:
                raise ValueError(f"turns.{name} must not be below 0")
        if not (0 <= self.hold < 1 and 0 <= self.interruptions <= 1):
            raise ValueError("turns.hold must be from 0 to below 1, turns.interruptions from 0 to 1")


@dataclass(frozen=True)
class Settings:
    """Settings of all conversations of one simulation. For each conversation, values are drawn from ranges and
    choices."""

    seed: int = 0
    side: str = "tuning"
    """The voices that speak: those for tuning a method, or those for testing it."""
    test_share: float = 0.5
    """Share of the voices that are for testing."""
    split_seed: int = 0
    """Seed of the split into sides. No other setting except `test_share` moves a voice to the other side."""
    minutes: Range = (1.0, 5.0)
    speakers: tuple[int, int] = (2, 2)
    channels: int = 1
    """1 mixes all speakers; 2 is a telephone call with half of the speakers on each side."""
    rate: int = 16000
    rooms: tuple[str, ...] = ROOMS
    codecs: tuple[str, ...] = ("none",)
    beds: tuple[str, ...] = ("none", "pink")
    snr_db: Range = (10.0, 30.0)
    """Level of a speaker relative to that of the bed."""
    level_spread_db: float = 3.0
    """Standard deviation of the levels of speakers."""
    leak_db: Range = (20.0, 40.0)
    """For two channels, the level of the leakage of a side into the other one, in dB below the side itself."""
    leak_ms: Range = (0.0, 50.0)
    """Delay of the leakage."""
    tts_utterances: int = 60
    """Number of utterances of each synthetic voice."""
    turns: TurnTaking = field(default_factory=TurnTaking)

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"side must be one of {', '.join(SIDES)}, not {self.side!r:.50}")
        for name, known in (("rooms", ROOMS), ("codecs", CODECS), ("beds", BEDS)):
            chosen = getattr(self, name)
            if not chosen or set(chosen) - set(known):
                raise ValueError(f"{name} must be some of {', '.join(known)}, not {', '.join(chosen)!r:.100}")
        for name, (least, most) in RANGES.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name} must be a range between {least:g} and {most:g}, not {low:g}..{high:g}")
        if self.channels not in (1, 2):
            raise ValueError("channels must be 1 or 2")
        if not 8000 <= self.rate <= 48000:
            raise ValueError("rate must be from 8000 to 48000 Hz")
        if not 0 <= self.test_share <= 1:
            raise ValueError("test_share must be from 0 to 1")
        if not 0 <= self.level_spread_db <= 20:
            raise ValueError("level_spread_db must be from 0 to 20")
        if not 2 <= self.tts_utterances <= 10**5:
            raise ValueError("tts_utterances must be from 2 to 100000")
        if self.seed < 0 or self.split_seed < 0:
            raise ValueError("seed and split_seed must not be below 0")


def settings_of(named: Mapping[str, Any], overrides: tuple[str, ...]) -> Settings:
    """Settings from options and from `--set KEY=VALUE`, which has precedence. Raises OverrideError for invalid ones."""
    raw: dict[str, Any] = dict(named)
    for override in overrides:
        apply_override(raw, override)
    try:
        turns = raw.pop("turns", {})
        return Settings(**_checked(Settings, raw), turns=TurnTaking(**_checked(TurnTaking, turns)))
    except ValueError as error:
        raise OverrideError(f"the simulation cannot be made: {error}", "correct the option or the --set") from error


def _checked(kind: type, table: Any) -> dict[str, Any]:
    """The values of a table, converted to the types of the dataclass; lists become tuples."""
    names = [one.name for one in dataclasses.fields(kind)]
    if not isinstance(table, Mapping):
        raise ValueError(f"{table!r:.50} is not a table")
    if unknown := set(table) - set(names):
        raise ValueError(f"there is no setting {min(unknown)!r:.50}; the settings are {', '.join(names)}")
    typed.check(kind, table)
    for name, value in table.items():
        if name in RANGES and len(value) != 2:
            raise ValueError(f"{name} must be two numbers, the smallest and the largest")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}

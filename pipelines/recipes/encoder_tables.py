"""The tables of a recipe with the settings of its encoders: `[encode]`, or an `[encode.NAME]` for each of several."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

import encoders
from manifests.names import checked_name
from manifests.stored import DTYPES
from pipelines.recipes.tables import build_config, check_keys
from runtime.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from manifests.selection import SelectConfig


@dataclass(frozen=True)
class EncodeConfig:
    """The settings of the encoder of one dataset: the table [encode] of a recipe, or a table [encode.NAME]."""

    encoder: str = "logmel"
    """Name of the encoder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the encoder that differ from its defaults."""
    shard_mb: float = 1000.0
    """Target size of a shard, in 10^6 bytes of features. A recording is never split between shards. If there are
    several encoders, the one with the most bytes per second decides, so that all have the same windows in a shard."""
    seed: int = 0
    """Seed of the hash that orders recordings, so that any prefix of the shards is a fair sample."""
    patch: int = 1
    """Frames stacked into one token, for the printed counts; the ledger has 1 to 6."""
    on_grid: bool = True
    """Whether every window must begin at the beginning of a frame. Otherwise it gets the nearest frames, at most half a
    frame off. Frames of encoders at 44.1 kHz begin at no round number of seconds."""

    dtype: str = "float16"
    """How features are stored: float16; or int8, in half the space, with a scale and an offset per value and window."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"encode.dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.shard_mb <= 0 or not 1 <= self.patch <= 6:
            raise ValueError("encode.shard_mb must be above 0 and encode.patch from 1 to 6")

    def load(self) -> encoders.Encoder:
        """Return the encoder, without its weights."""
        return encoders.load(self.encoder, self.settings)

    def missing_packages(self) -> MissingExtraError | None:
        """Return the error that names the packages of the encoder that are not installed; None if all are."""
        try:
            self.load()
        except MissingExtraError as error:
            return error
        return None

    @property
    def bytes_per_s(self) -> float:
        """Bytes of features for a second of sound on one track."""
        encoder = self.load()
        return encoder.frame_rate * encoder.dim * np.dtype(self.dtype).itemsize


def parse_encoders(table: Any) -> dict[str, EncodeConfig]:
    """Parse the tables `[encode.NAME]`. There are none if `[encode]` itself names the encoder.

    Such a table holds the settings of its encoder, and the name of the encoder if it is not the name of the table.

    Args:
        table: The table [encode], of any type.

    Raises:
        RecipeError: The tables are wrong.
    """
    if not isinstance(table, dict):
        return {}  # `parse_encode` reports that
    own = {f.name for f in fields(EncodeConfig)}
    tables = {name: inner for name, inner in table.items() if name not in own and isinstance(inner, dict)}
    if not tables:
        return {}
    common = {name: value for name, value in table.items() if name not in tables}
    check_keys(common, own, "encode")
    if taken := {"encoder", "settings"} & common.keys():
        what = f"encode.{min(taken)} and tables of encoders ({', '.join(tables)}) are given together"
        raise RecipeError(what, "give each encoder a table [encode.NAME] of its own")
    if len({name.lower() for name in tables}) < len(tables):  # some disks cannot tell their datasets apart
        what = f"the tables of encoders must differ by more than capitals: {', '.join(tables)}"
        raise RecipeError(what, "rename one of them")
    configs = {}
    for name, inner in tables.items():
        try:
            checked_name(name, "the table of an encoder")
        except ValueError as error:
            raise RecipeError(str(error), "give the table [encode.NAME] such a name") from error
        own_keys = {key: inner[key] for key in ("encoder", "on_grid", "dtype") if key in inner}
        settings = {key: value for key, value in inner.items() if key not in own_keys}
        configs[name] = parse_encode({"encoder": name, **common, **own_keys, "settings": settings}, f"encode.{name}")
    return configs


def parse_encode(table: Any, where: str) -> EncodeConfig:
    """Parse the settings of one encoder.

    Args:
        table: The table, of any type.
        where: The name of the table, for errors.

    Raises:
        RecipeError: The settings are wrong, or its encoder is not deterministic.
    """
    config: EncodeConfig = build_config(EncodeConfig, table, where)
    try:
        encoder = config.load()
    except MissingExtraError:  # `pipelines.units.extras` reports that, with all other missing packages
        return config
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[{where}] {error}", f"correct the name or the settings in [{where}]") from error
    if not encoder.deterministic:
        what = f"[{where}] {encoder.name} draws samples: no dataset of it could be made again"
        raise RecipeError(what, "set it to give the mean")
    return config


def check_grid(select: SelectConfig, encoder: encoders.Encoder) -> None:
    """Raise RecipeError unless each window begins at the beginning of a frame of the encoder.

    Windows start at multiples of `grid_s`. If they are not aligned with turns, they start at multiples of the stride,
    which is rounded up to the grid. Start times are stored in whole microseconds.
    """
    grid_us = Fraction(str(select.grid_s)) * 10**6
    step_us = grid_us
    if select.align == "none":
        stride_s = select.stride_s or select.context_s + select.continuation_s
        steps = Fraction(str(round(stride_s, 9))) * 10**6 / grid_us
        step_us *= max(1, math.ceil(steps - Fraction(1, 10**6)))  # as `manifests.windows.cut_starts` rounds it
    hop_us = Fraction(encoder.hop_samples * 10**6, encoder.sample_rate)
    if step_us.denominator == 1 and (step_us / hop_us).denominator == 1:
        return
    grid_s = float(hop_us * hop_us.denominator / 10**6)
    raise RecipeError(
        f"windows would start every {float(step_us) / 1e6:g} s, between two frames of {encoder.name}, one of which "
        f"takes {float(hop_us) / 1e6:g} s",
        f"set select.grid_s to {grid_s:g} or a multiple of it; or set on_grid = false, which takes the nearest frames",
    )

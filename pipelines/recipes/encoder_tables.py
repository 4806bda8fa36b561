"""The tables of a recipe that say what is encoded: `[encode]`, or `[encode.NAME]` for each of several encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import encoders
from manifests.names import checked_name
from pipelines.recipes.tables import build, check_keys
from runtime.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from manifests.selection import SelectConfig


@dataclass(frozen=True)
class EncodeConfig:
    """What one dataset is encoded with. A recipe has one, or one for each table `[encode.NAME]`."""

    encoder: str = "logmel"
    """Name of the encoder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Parameters of the encoder that differ from its defaults."""
    shard_mb: float = 1000.0
    """Size that a shard aims at, in 10^6 bytes of features; a recording is never cut between shards. Of several
    encoders the one with most bytes a second decides, so that all have the same windows in the same shards."""
    seed: int = 0
    """Seed of the hash that orders recordings, so that any prefix of the shards is a fair sample."""
    patch: int = 1
    """Frames stacked into one token, for the printed counts; the ledger has 1 to 6."""
    on_grid: bool = True
    """Whether every window must begin where a frame does. Otherwise it is given the frames nearest to it, at most half
    a frame off: the frames of encoders at 44.1 kHz meet no round number of seconds."""

    def __post_init__(self) -> None:
        if self.shard_mb <= 0 or not 1 <= self.patch <= 6:
            raise ValueError("encode.shard_mb must be above 0 and encode.patch from 1 to 6")

    def load(self) -> encoders.Encoder:
        """The encoder, without its weights."""
        return encoders.load(self.encoder, self.settings)

    def lacks(self) -> MissingExtraError | None:
        """What says that packages of the encoder are not installed; None where they are."""
        try:
            self.load()
        except MissingExtraError as error:
            return error
        return None

    @property
    def bytes_per_s(self) -> float:
        """Bytes of features of a second of sound on one track: float16."""
        encoder = self.load()
        return encoder.frame_rate * encoder.dim * 2


def encoders_of(table: Any) -> dict[str, EncodeConfig]:
    """The encoders of the tables `[encode.NAME]`; none where `[encode]` itself names the encoder.

    Such a table holds the settings of its encoder, and the encoder's name where it differs from that of the table.
    """
    if not isinstance(table, dict):
        return {}  # told where it is read as one encoder's
    own = {f.name for f in fields(EncodeConfig)}
    tables = {name: of for name, of in table.items() if name not in own and isinstance(of, dict)}
    if not tables:
        return {}
    common = {name: value for name, value in table.items() if name not in tables}
    check_keys(common, own, "encode")
    if taken := {"encoder", "settings"} & common.keys():
        what = f"encode.{min(taken)} and tables of encoders ({', '.join(tables)}) are given together"
        raise RecipeError(what, "give each encoder a table [encode.NAME] of its own")
    if len({name.lower() for name in tables}) < len(tables):  # not every disk tells their datasets apart
        what = f"the tables of encoders must differ by more than capitals: {', '.join(tables)}"
        raise RecipeError(what, "rename one of them")
    found = {}
    for name, of in tables.items():
        try:
            checked_name(name, "the table of an encoder")
        except ValueError as error:
            raise RecipeError(str(error), "give the table [encode.NAME] such a name") from error
        own_keys = {key: of[key] for key in ("encoder", "on_grid") if key in of}
        settings = {key: value for key, value in of.items() if key not in own_keys}
        found[name] = encode_of({"encoder": name, **common, **own_keys, "settings": settings}, f"encode.{name}")
    return found


def encode_of(table: Any, where: str) -> EncodeConfig:
    config: EncodeConfig = build(EncodeConfig, table, where)
    try:
        encoder = config.load()
    except MissingExtraError:  # told with all else that is missing, see `pipelines.units.extras`
        return config
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[{where}] {error}", f"correct the name or the settings in [{where}]") from error
    if not encoder.deterministic:
        what = f"[{where}] {encoder.name} draws samples: no dataset of it could be made again"
        raise RecipeError(what, "set it to give the mean")
    return config


def check_grid(select: SelectConfig, encoder: encoders.Encoder) -> None:
    """Raise RecipeError unless each window begins where a frame of the encoder does.

    Starts of windows are multiples of `grid_s`, and without turns of the stride, which is rounded up to the grid; they
    are kept to the microsecond.
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

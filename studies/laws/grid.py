"""An isoFLOP grid of runs to train: sizes, tokens, steps, hours of sound, bytes and epochs at each compute budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from runtime.errors import SpeechmillError
from studies.laws.law import FLOP_PER_PARAM_TOKEN

EPOCHS = 4.0
EPOCHS_SOURCE = "Muennighoff et al. 2023: up to about four epochs repeated data are nearly as good as new data"
MAX_CELLS = 10_000


@dataclass(frozen=True)
class Family:
    """Transformers of one shape: width = aspect x depth, and N = per_layer x width^2 x depth parameters."""

    aspect: float = 128.0
    per_layer: float = 36.0

    def params(self, depth: int) -> float:
        return self.per_layer * (self.aspect * depth) ** 2 * depth

    def width(self, depth: int) -> float:
        return self.aspect * depth


@dataclass(frozen=True)
class Sound:
    """What an hour of sound is in tokens and bytes, and how much of it there is."""

    frames_per_hour: float
    """Frames over all tracks."""
    tokens_per_hour: float
    """Tokens that count towards D, of `patch` frames."""
    share_counted: float
    """Of all tokens that a model reads, those that count towards D."""
    bytes_per_frame: float | None
    patch: int
    tokens_held: float | None
    """Counted tokens that there are; None where that is not known."""
    tokens_repeated: float | None
    """Of these the ones that repeat sound of other recordings; None where that is not known."""
    source: str
    """Where these numbers come from."""


def sound_of_rate(
    frame_rate: float, dim: int | None, patch: int, context_share: float, count_context: bool, hours_held: float | None
) -> Sound:
    """For an encoder with a frame rate in Hz and `dim` values in a frame, which are stored as float16."""
    share = 1.0 if count_context else 1.0 - context_share
    tokens_per_hour = frame_rate * 3600 / patch * share
    return Sound(
        frame_rate * 3600,
        tokens_per_hour,
        share,
        None if dim is None else 2.0 * dim,
        patch,
        None if hours_held is None else hours_held * tokens_per_hour,
        None,
        f"{frame_rate:g} frames a second",
    )


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    flops: float
    depth: int | None
    width: float | None
    params: float
    tokens: float
    tokens_per_param: float
    steps: int
    hours: float
    gigabytes: float | None
    """10^9 bytes of features that are read in one epoch or less: what must be stored."""
    epochs: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def cell(flops: float, params: float, sound: Sound, batch_tokens: float, depth: int | None, family: Family) -> Cell:
    """The run of a model of so many parameters with so much compute, C = 6 N D."""
    tokens = flops / FLOP_PER_PARAM_TOKEN / params
    hours = tokens / sound.tokens_per_hour
    epochs = None if sound.tokens_held is None else tokens / sound.tokens_held
    stored_hours = hours if epochs is None else hours / max(1.0, epochs)
    return Cell(
        flops,
        depth,
        None if depth is None else family.width(depth),
        params,
        tokens,
        tokens / params,
        max(1, math.ceil(tokens / batch_tokens)),
        hours,
        None if sound.bytes_per_frame is None else stored_hours * sound.frames_per_hour * sound.bytes_per_frame / 1e9,
        epochs,
    )


def isoflop_grid(
    budgets: Sequence[float],
    sizes: Sequence[float] | None,
    family: Family,
    depths: tuple[int, int],
    ratio: tuple[float, float],
    sound: Sound,
    batch_tokens: float,
) -> list[Cell]:
    """Every budget with every size, of which a budget keeps those with a number of tokens per parameter in `ratio`.

    `sizes` are parameters; without them the sizes are those of the family between two depths. Raises SpeechmillError
    for a budget of which nothing is left and for a grid of more than 10,000 runs.
    """
    if sizes is None:
        models: list[tuple[int | None, float]] = [(d, family.params(d)) for d in range(depths[0], depths[1] + 1)]
    else:
        models = [(None, size) for size in sorted(sizes)]
    if len(budgets) * len(models) > MAX_CELLS:
        raise SpeechmillError(
            f"{len(budgets):,} budgets x {len(models):,} sizes are more than {MAX_CELLS:,} runs", "name fewer of them"
        )
    cells = []
    for flops in sorted(budgets):
        made = [cell(flops, params, sound, batch_tokens, depth, family) for depth, params in models]
        kept = [one for one in made if ratio[0] <= one.tokens_per_param <= ratio[1]]
        if not kept:
            least, most = made[-1].tokens_per_param, made[0].tokens_per_param
            raise SpeechmillError(
                f"at {flops:g} FLOP no size has {ratio[0]:g} to {ratio[1]:g} tokens per parameter: these sizes have "
                f"{least:.3g} to {most:.3g}",
                "name other sizes by --depths or --sizes, or a wider --ratio",
            )
        cells += kept
    return cells


def warnings(cells: Sequence[Cell], sound: Sound, whole: bool = True) -> list[str]:
    """What must be known before such runs are trained; a `whole` grid wants enough sizes at each budget."""
    told = []
    repeated = [one for one in cells if one.epochs is not None and one.epochs > EPOCHS]
    if repeated:
        worst = max(one.epochs or 0.0 for one in repeated)
        told.append(
            f"{len(repeated)} of {len(cells)} runs repeat the data more than {EPOCHS:g} times, one {worst:,.1f} times; "
            f"{EPOCHS_SOURCE}"
        )
    if sound.tokens_held and sound.tokens_repeated:
        unique = sound.tokens_held - sound.tokens_repeated
        told.append(
            f"{sound.tokens_repeated / sound.tokens_held:.1%} of the tokens repeat sound of other recordings, so "
            f"{unique:,.4g} are unique: "
            + (f"over these, epochs are {sound.tokens_held / unique:.3g} times as many" if unique > 0 else "none")
        )
    if sound.tokens_held is None:
        told.append("how much data there is was not said, so no epochs are told: name a dataset or --hours-held")
    if sound.share_counted < 1:
        told.append(
            f"D counts the continuation only; the model also reads the context, so that the compute spent is "
            f"{1 / sound.share_counted:.3g} times 6 N D"
        )
    few = {one.flops for one in cells if sum(other.flops == one.flops for other in cells) < 5}
    if whole and few:
        budgets = ", ".join(f"{flops:g}" for flops in sorted(few)[:5])
        told.append(f"fewer than 5 sizes at {budgets} FLOP: a parabola wants 5 or more")
    return told

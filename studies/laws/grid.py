"""An isoFLOP grid of runs: sizes, tokens, steps, hours of sound, bytes and epochs at each compute budget."""

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
    """Transformers of one shape: width = aspect x depth, with N = per_layer x width^2 x depth parameters."""

    aspect: float = 128.0
    per_layer: float = 36.0

    def params(self, depth: int) -> float:
        return self.per_layer * (self.aspect * depth) ** 2 * depth

    def width(self, depth: int) -> float:
        return self.aspect * depth


@dataclass(frozen=True)
class Sound:
    """The tokens and bytes of an hour of sound, and the amount of sound available."""

    frames_per_hour: float
    """Frames over all tracks."""
    tokens_per_hour: float
    """Tokens of `patch` frames that count towards D."""
    share_counted: float
    """Share of the tokens that a model reads that count towards D."""
    bytes_per_frame: float | None
    patch: int
    tokens_held: float | None
    """Available tokens that count towards D; None if unknown."""
    tokens_repeated: float | None
    """Those of them that repeat sound of other recordings; None if unknown."""
    source: str
    """Origin of these numbers, for messages."""


def sound_of_rate(
    frame_rate: float, dim: int | None, patch: int, context_share: float, count_context: bool, hours_held: float | None
) -> Sound:
    """Return the amounts for an encoder with a frame rate in Hz and `dim` float16 values per frame."""
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
    """Size of the features of at most one epoch, which must be stored, in 10^9 bytes."""
    epochs: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def cell(flops: float, params: float, sound: Sound, batch_tokens: float, depth: int | None, family: Family) -> Cell:
    """Return the run of a model with `params` parameters and a compute of `flops` = 6 N D."""
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
    """Return the runs of every budget with every size whose tokens per parameter are within `ratio`.

    Args:
        budgets: Compute, FLOP.
        sizes: Numbers of parameters; by default those of `family` between two `depths`.
        family: Shape of the models.
        depths: Smallest and largest depth.
        ratio: Smallest and largest number of tokens per parameter.
        sound: Tokens and bytes of an hour.
        batch_tokens: Tokens per step.

    Raises:
        SpeechmillError: A budget has no such size, or the grid has more than 10,000 runs.
    """
    if sizes is None:
        models: list[tuple[int | None, float]] = [(d, family.params(d)) for d in range(depths[0], depths[1] + 1)]
    else:
        models = [(None, size) for size in sorted(sizes)]
    if len(budgets) * len(models) > MAX_CELLS:
        raise SpeechmillError(
            f"{len(budgets):,} budgets x {len(models):,} sizes are more than {MAX_CELLS:,} runs", "give fewer of them"
        )
    cells = []
    for flops in sorted(budgets):
        every = [cell(flops, params, sound, batch_tokens, depth, family) for depth, params in models]
        kept = [run for run in every if ratio[0] <= run.tokens_per_param <= ratio[1]]
        if not kept:
            least, most = every[-1].tokens_per_param, every[0].tokens_per_param
            raise SpeechmillError(
                f"at {flops:g} FLOP no size has {ratio[0]:g} to {ratio[1]:g} tokens per parameter: these sizes have "
                f"{least:.3g} to {most:.3g}",
                "give other sizes with --depths or --sizes, or a wider --ratio",
            )
        cells += kept
    return cells


def warnings(cells: Sequence[Cell], sound: Sound, whole: bool = True) -> list[str]:
    """Return warnings about the runs. A `whole` grid should have enough sizes at each budget."""
    sentences = []
    repeated = [one for one in cells if one.epochs is not None and one.epochs > EPOCHS]
    if repeated:
        worst = max(one.epochs or 0.0 for one in repeated)
        sentences.append(
            f"{len(repeated)} of {len(cells)} runs repeat the data more than {EPOCHS:g} times, one {worst:,.1f} times; "
            f"{EPOCHS_SOURCE}"
        )
    if sound.tokens_held and sound.tokens_repeated:
        unique = sound.tokens_held - sound.tokens_repeated
        sentences.append(
            f"{sound.tokens_repeated / sound.tokens_held:.1%} of the tokens repeat sound of other recordings, so "
            f"{unique:,.4g} are unique: "
            + (f"over these, epochs are {sound.tokens_held / unique:.3g} times as many" if unique > 0 else "none")
        )
    if sound.tokens_held is None:
        sentences.append("epochs are unknown, because the amount of data is: give a dataset or --hours-held")
    if sound.share_counted < 1:
        sentences.append(
            f"D counts the continuation only; the model also reads the context, so the actual compute is "
            f"{1 / sound.share_counted:.3g} times 6 N D"
        )
    few = {one.flops for one in cells if sum(other.flops == one.flops for other in cells) < 5}
    if whole and few:
        budgets = ", ".join(f"{flops:g}" for flops in sorted(few)[:5])
        sentences.append(f"fewer than 5 sizes at {budgets} FLOP: a parabola needs 5 or more")
    return sentences

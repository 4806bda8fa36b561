"""StageSpec: what the rest of speechmill needs to know about an annotation stage."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from manifests.schemas.row_checks import RowCheck


@dataclass(frozen=True)
class StageSpec:
    """The specification of a stage, the `SPEC` of its file in `manifests/schemas/stages/`.

    The stage has the name of that file. Its class is in the file of the same name in `pipelines/stages/`, and the names
    of the class and of its settings follow from it: the stage `turn_shape` is `TurnShape` with `TurnShapeConfig`.
    """

    order: int
    """Stages run, and their columns are listed, by ascending order. A stage comes after those whose rows it reads."""
    summary: str
    """One sentence for the documentation of recipes, in Markdown."""
    schema: pa.Schema
    """The columns of its rows, which begin with `BASE`. No other stage may have columns of these names."""
    headline: tuple[str, ...]
    """Numeric columns that `manifest stats` shows if the user does not choose a stage."""
    checks: tuple[RowCheck, ...] = ()
    """What `manifest validate` checks in each row, besides its status."""
    cpu_hours: float = 0.0
    """CPU hours that it takes for an hour of sound, as measured in docs/studies.md; for the estimate of a dry run."""
    listed: tuple[str, ...] = ()
    """Columns with lists that are too long for `manifest show` to print as one value."""
    bulky: tuple[str, ...] = ()
    """Columns that rules cannot use, because they are too large for `select` to load for many recordings at a time."""
    optional: bool = True
    """Whether recipes choose it by a table `[annotate.NAME]`; otherwise it always runs and has no class of its own."""

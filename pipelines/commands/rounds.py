"""Rounds: the steps of a run over inputs that go on growing, again whenever there is something new."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.inputs.entry import InputError
from pipelines.inputs.packing import Ingested
from pipelines.run import Pending, Run
from pipelines.units.pending import fingerprints
from runtime.errors import WaitingError


def repeat(
    work: Run, ingest: Callable[[], Ingested], others: Callable[[], None], every_s: float, told: Callable[[str], None]
) -> None:
    """Ingest every `every_s` seconds, and do the other steps where that met something new or something is left to do.

    Ends when a person presses Ctrl-C between two rounds; within one it raises KeyboardInterrupt, as any step does. An
    input that holds no sound yet, and a recording that cannot be had at present, are told and tried again.
    """
    is_due = True  # what an earlier command left undone is done in the first round
    while True:
        try:
            found = ingest()
            if is_due or found.new or found.renamed or is_pending(work):
                is_due = True
                others()
                is_due = False
        except (InputError, WaitingError) as error:
            told(f"{error}; tried again in {every_s:g} s: {error.remedy}")
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            told("ended")
            return


def is_pending(work: Run) -> bool:
    """Whether a batch lacks something that the recipe measures."""
    marks = fingerprints(work.recipe.make_stages(), work.recipe.decode)
    return next(iter(Pending(work.lake, marks)), None) is not None

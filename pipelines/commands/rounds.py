"""`run --watch`: repeats the steps of a run over inputs that grow."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.inputs.entry import InputError
from pipelines.inputs.packing import Ingested
from pipelines.run import Pending, Run
from pipelines.units.pending import stage_fingerprints
from runtime.errors import WaitingError


def repeat(
    work: Run, ingest: Callable[[], Ingested], others: Callable[[], None], every_s: float, report: Callable[[str], None]
) -> None:
    """Ingest every `every_s` seconds, and run the other steps if there is something new or unfinished.

    Ctrl-C between two rounds ends the loop; during a round it raises KeyboardInterrupt, as in any step. `report` is
    called for an input without sound or a recording that is temporarily unreachable: the next round tries again.
    """
    is_due = True  # the first round finishes the work of earlier commands
    while True:
        try:
            found = ingest()
            if is_due or found.new or found.renamed or is_pending(work):
                is_due = True
                others()
                is_due = False
        except (InputError, WaitingError) as error:
            report(f"{error}; tried again in {every_s:g} s: {error.remedy}")
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            report("ended")
            return


def is_pending(work: Run) -> bool:
    """Whether a batch lacks the results of a stage of the recipe."""
    fingerprints = stage_fingerprints(work.recipe.make_stages(), work.recipe.decode)
    return next(iter(Pending(work.lake, fingerprints)), None) is not None

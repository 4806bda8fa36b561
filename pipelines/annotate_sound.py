"""Ingest and annotate in one call, for commands that need annotations only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from manifests.lake import Lake
from pipelines.progress.watch import Watch
from pipelines.recipes.recipe import Recipe
from pipelines.run import Run
from pipelines.units import extras, resources
from pipelines.units.engines import Engine


def ingest_and_annotate(
    paths: Sequence[str], root: str, recipe: Recipe, workers: int, quiet: bool, command: str = "speechmill study pjsd"
) -> None:
    """Ingest the sound at `paths` into the lake `root` and annotate it, as `speechmill ingest` and `annotate` do.

    Args:
        paths: Files or folders.
        root: The path or URL of the lake.
        recipe: Its stages are run.
        workers: The number of processes.
        quiet: Whether no progress is shown.
        command: The command line that the log names.
    """
    engine = Engine("local", (workers, workers))
    extras.check(recipe, engine, [root, *paths], measures=True)
    resources.check_devices(recipe, engine)
    lake = Lake.at(root, recipe.storage)
    lake.sweep()
    watch = Watch(lake.storage, command, recipe.resolved, quiet)
    with closing(engine), watch:
        run = Run(recipe, lake, watch, engine)
        ingested = run.ingest(paths)
        watch.print(str(ingested))
        for _ in run.annotate():
            pass

"""Sound to annotations in one call, for commands that need no more of a run than that."""

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
    """Ingest the sound at `paths` into the lake `root` and annotate it, as the commands of these names do."""
    engine = Engine("local", (workers, workers))
    extras.check(recipe, engine, [root, *paths], measures=True)
    resources.check_devices(recipe, engine)
    lake = Lake.at(root, recipe.storage)
    lake.sweep()
    watch = Watch(lake.storage, command, recipe.resolved, quiet)
    with closing(engine), watch:
        run = Run(recipe, lake, watch, engine)
        found = run.ingest(paths)
        watch.print(str(found))
        for _ in run.annotate():
            pass

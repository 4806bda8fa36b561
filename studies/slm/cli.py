"""`speechmill study train | sweep`: train models on the shards of a lake. Imports of torch happen inside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import JSON, complete_folders
from runtime.errors import SpeechmillError
from studies.planning import whole_number

if TYPE_CHECKING:
    from studies.slm.sweep import Given


@dataclasses.dataclass(frozen=True)
class Training:
    """The values of the options that `train` and `sweep` have in common."""

    dataset: str | None
    also: str | None
    model: str
    patch: int
    depth: int
    overrides: tuple[str, ...]
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a run by name. Raises SpeechmillError for a `--set` that is wrong."""
        return _settings(self.overrides, model=self.model, patch=self.patch)

    def corpus(self, lake: str) -> Given:
        """The data of a lake that the options choose."""
        from studies.slm.sweep import Given
        from studies.slm.train import Settings

        held = self.settings.get("held_windows", Settings.held_windows)
        return Given(lake, self.dataset, self.patch, self.device, held, self.also)


TRAINING = (
    click.option(
        "--dataset", metavar="NAME", shell_complete=complete_folders("datasets"),
        help="Dataset of LAKE; by default the newest.",
    ),
    click.option("--also", metavar="LAKE", help="Another lake, whose split test is evaluated too."),
    click.option(
        "--model", type=click.Choice(["diffusion", "ar"]), default="diffusion", show_default=True,
        help="Continuous diffusion model, or discrete autoregressive model.",
    ),
    click.option("--patch", type=click.IntRange(1, 6), default=4, show_default=True, help="Frames per token."),
    click.option(
        "--depth", type=click.IntRange(1, 1000), default=2, show_default=True,
        help="Blocks of a model, if only its size is given.",
    ),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting: learning_rate=0.004."),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
        help="Device for training.",
    ),
)  # fmt: skip
OUT = click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Folder of the results, in which the same command continues an interrupted training.",
)  # fmt: skip


def training_options(function: Any) -> Any:
    """Add the options that both commands have. The command gets them as the argument `training`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        common = {field.name: values.pop(field.name) for field in dataclasses.fields(Training)}
        return function(training=Training(**common), **values)

    decorated: Any = command
    for option in reversed(TRAINING):
        decorated = option(decorated)
    return decorated


def _needs_torch() -> None:
    from importlib.util import find_spec

    from manifests.install import install
    from runtime.errors import MissingExtraError

    if find_spec("torch") is None:
        raise MissingExtraError("training needs torch", install(["reader"]))


def _truth(word: str) -> bool:
    if word not in ("true", "false"):
        raise ValueError(f"{word!r} is neither true nor false")
    return word == "true"


def _settings(overrides: tuple[str, ...], **named: Any) -> dict[str, Any]:
    """Settings from options and from `--set`, each of the type of its field."""
    from studies.slm.train import Settings

    known = {field.name: field for field in dataclasses.fields(Settings)}
    for text in overrides:
        name, _, value = text.partition("=")
        if name not in known or name in ("flops", "width", "depth", "seed", "model", "patch"):
            free = ", ".join(sorted(known.keys() - {"flops", "width", "depth", "seed", "model", "patch"}))
            raise SpeechmillError(f"no setting {name!r} of a run", f"choose from: {free}")
        kinds: dict[str, Callable[[str], Any]] = {"learning_rate": float, "decay": float, "compile": _truth}
        kind = kinds.get(name, int)
        try:
            named[name] = value if name in ("predict", "precision") else kind(value)
        except ValueError as error:
            raise SpeechmillError(f"--set {text}: {error}", "correct the value") from error
    return named


def _line(result: dict[str, Any]) -> str:
    from studies.laws.text import digits

    what = "nats a token" if result["model"] == "ar" else "error of v"
    return (
        f"{digits(result['flops'])} FLOP, N {result['params']:,}, D {result['tokens']:,} in {result['epochs']:.2f} "
        f"epochs, {result['steps']:,} steps of {result['rows']} windows: held-out loss {result['loss']:.6f} ({what})"
    )


@click.command()
@click.argument("lake", type=click.Path())
@OUT
@click.option("--flops", callback=whole_number, required=True, metavar="FLOP", help="Compute, C = 6 N D.")
@click.option("--params", callback=whole_number, required=True, metavar="N", help="Parameters of the blocks.")
@click.option("--seed", type=click.IntRange(0, 2**20), default=0, show_default=True)
@training_options
@JSON
def train(lake: str, folder: Path, flops: int, params: int, seed: int, training: Training, as_json: bool) -> None:
    """Train one speech model on the windows of LAKE.

    The tokens D = C / 6 N, steps, batch and schedule follow from compute and size. docs/trainer.md has details.
    """
    _needs_torch()
    from manifests.commands import terminal
    from studies.slm import sweep as sweeping
    from studies.slm.train import Trainer, locked

    run = {"flops": float(flops), "params": float(params)}
    (job,) = sweeping.jobs([run], [seed], training.depth, **training.settings)
    with locked(folder):
        trainer = Trainer(training.corpus(lake).open(), job.settings, folder)
        if trainer.done and not as_json:
            terminal.echo(f"goes on after step {trainer.done:,} of {trainer.steps:,}")
        result = trainer.run()
    terminal.as_json(result) if as_json else terminal.echo(_line(result))


@click.command()
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("lake", type=click.Path())
@OUT
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Number of runs of each size.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Number of runs at the same time: one per core, or several on one GPU.",
)  # fmt: skip
@training_options
@JSON
def sweep(plan: Path, lake: str, folder: Path, seeds: int, workers: int, training: Training, as_json: bool) -> None:
    """Train all runs of PLAN, which `study plan --csv` wrote, on the windows of LAKE.

    Finished runs are not repeated. FOLDER/runs.csv has a row for each run, for `study fit`.
    """
    _needs_torch()
    from manifests.commands import terminal
    from studies.slm import sweep as sweeping

    todo = sweeping.jobs(sweeping.cells(plan), range(seeds), training.depth, **training.settings)
    given = training.corpus(lake)

    def tell(name: str, result: dict[str, Any]) -> None:
        if not as_json:
            terminal.echo(f"{name}: {_line(result)}")

    def expect(seconds: float) -> None:
        if not as_json:
            many = f" of each of {workers} workers" if workers > 1 else ""
            terminal.echo(f"expected: {seconds:,.0f} s of computing, {seconds / workers / 60:,.1f} min{many}")

    rows = sweeping.sweep(given, todo, folder, workers, tell, expect)
    if as_json:
        terminal.as_json({"table": str(folder / sweeping.TABLE), "runs": rows})
    else:
        terminal.echo(f"{len(rows):,} runs: {folder / sweeping.TABLE}")

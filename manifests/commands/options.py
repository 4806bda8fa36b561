"""What the commands of `speechmill manifest` have in common: their options, and the conversion of their errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.terminal import WIDE as WIDE_META
from manifests.output import one_line

if TYPE_CHECKING:
    from manifests.commands.targets import Target


class ManifestCommandError(click.ClickException):
    """An error in what the user asked for. It is shown with its remedy, and the exit code is 1."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: Any = None) -> None:
        text = f"error: {one_line(self.message)}\nremedy: {one_line(self.remedy)}"
        click.echo(text, err=True, file=file)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors in names, rules and SQL that the user gave into ManifestCommandError."""
    import duckdb

    from manifests.choice import ChoiceError
    from manifests.commands import mistakes
    from manifests.corrupt import damaged
    from manifests.exchange.foreign.rows import ManifestError
    from manifests.rules import RuleError
    from manifests.sql import NotReadingError

    try:
        yield
    except (ChoiceError, ManifestError, NotReadingError) as error:
        raise ManifestCommandError(str(error), error.remedy) from error
    except RuleError as error:
        raise ManifestCommandError(*mistakes.explain_rule(error, _target())) from error
    except duckdb.Error as error:
        if damage := damaged(error):
            raise damage from error
        raise ManifestCommandError(*mistakes.explain_sql(error, _target())) from error


class Commands(click.Group):
    """A group of commands whose user errors become ManifestCommandError."""

    def invoke(self, ctx: click.Context) -> Any:
        with user_errors():
            return super().invoke(ctx)


TARGET = "speechmill.target"
"""Key in the `meta` of click's context: the Target of the command, for its error messages."""


def _target() -> Target | None:
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(TARGET)


def open_target(target: str, selection: str | None, dataset: str | None, stages: Mapping[str, str], **_: Any) -> Target:
    """The Target that the options of a command name; it is kept for error messages."""
    from manifests.commands.targets import resolve

    resolved = resolve(target, selection, dataset, stages)
    click.get_current_context().meta[TARGET] = resolved
    return resolved


def _stages(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not fingerprint for _, _, fingerprint in pairs):
        raise click.BadParameter("write --stage NAME=FINGERPRINT")
    return {name: fingerprint for name, _, fingerprint in pairs}


def complete_folders(prefix: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A shell completion of the names of the folders that a lake has under `prefix`."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from manifests.choice import folders
        from manifests.lake import Lake

        value = next((ctx.params[name] for name in ("target", "lake", "one", "sources") if ctx.params.get(name)), None)
        lake = value[0] if isinstance(value, tuple) else value
        if lake is None:
            return []
        with contextlib.suppress(OSError, ValueError):  # a shell that completes must not print errors
            return [name for name in folders(Lake.at(lake), prefix) if name.startswith(incomplete)]
        return []

    return complete


def choice_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose the selection, the dataset and the results of stages of a lake.

    The command gets the arguments `selection`, `dataset` and `stages`.
    """
    for option in (
        click.option(
            "--stage", "stages", multiple=True, metavar="NAME=FINGERPRINT", callback=_stages,
            help="Results of a stage to read, if it was run with several settings.",
        ),
        click.option(
            "--dataset", metavar="NAME", shell_complete=complete_folders("datasets"),
            help="Dataset to read. The default is the newest that was made from the selection.",
        ),
        click.option(
            "--selection", metavar="NAME", shell_complete=complete_folders("selections"),
            help="Selection to read. The default is that of --dataset, or else the newest. "
            "`speechmill manifest selections LAKE` lists all.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, as docs/json.md describes it.")
VIEW = click.option(
    "--view", metavar="VIEW",
    help="Table to read: recordings, windows, verdicts, vad, ...; `manifest query LAKE \"SHOW TABLES\"` lists all.",
)  # fmt: skip
WHERE = click.option("--where", default="true", metavar="CONDITION", help="SQL condition that rows must meet.")


def _widen(context: click.Context, parameter: click.Parameter, wide: bool) -> None:
    context.meta[WIDE_META] = wide


WIDE = click.option(
    "--wide", is_flag=True, callback=_widen, expose_value=False,
    help="Print all columns and whole values, also in a narrow terminal. Output to a pipe is always whole.",
)  # fmt: skip


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of every command over one target: the target, the choice and --json."""
    return click.argument("target", type=click.Path())(choice_options(JSON(function)))

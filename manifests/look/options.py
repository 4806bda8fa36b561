"""What the commands of `speechmill manifest` have in common: their options, and their errors told to people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.look.terminal import WIDE as WIDE_META
from manifests.output import one_line

if TYPE_CHECKING:
    from manifests.look.targets import Target


class LookError(click.ClickException):
    """Something a user asked for that cannot be; shown with its remedy, exit code 1."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: Any = None) -> None:
        text = f"error: {one_line(self.message)}\nremedy: {one_line(self.remedy)}"
        click.echo(text, err=True, file=file)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of SQL, rules and names, for people."""
    import duckdb

    from manifests.choice import ChoiceError
    from manifests.corrupt import damaged
    from manifests.exchange.foreign.rows import ManifestError
    from manifests.look import mistakes
    from manifests.rules import RuleError
    from manifests.sql import NotReadingError

    try:
        yield
    except (ChoiceError, ManifestError, NotReadingError) as error:
        raise LookError(str(error), error.remedy) from error
    except RuleError as error:
        raise LookError(*mistakes.of_rule(error, _target())) from error
    except duckdb.Error as error:
        if damage := damaged(error):
            raise damage from error
        raise LookError(*mistakes.of_sql(error, _target())) from error


class Commands(click.Group):
    """Runs each command with its errors told."""

    def invoke(self, ctx: click.Context) -> Any:
        with told():
            return super().invoke(ctx)


TARGET = "speechmill.target"
"""In the `meta` of click's context: the Target that a command looks at."""


def _target() -> Target | None:
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(TARGET)


def opened(target: str, selection: str | None, dataset: str | None, stages: Mapping[str, str], **_: Any) -> Target:
    """What a command looks at, by its options."""
    from manifests.look.targets import resolve

    found = resolve(target, selection, dataset, stages)
    click.get_current_context().meta[TARGET] = found
    return found


def _stages(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not mark for _, _, mark in pairs):
        raise click.BadParameter("write --stage NAME=FINGERPRINT")
    return {name: mark for name, _, mark in pairs}


def folders_of(prefix: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the names of the folders of a lake."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from manifests.choice import folders
        from manifests.lake import Lake

        given = next((ctx.params[name] for name in ("target", "lake", "one", "sources") if ctx.params.get(name)), None)
        lake = given[0] if isinstance(given, tuple) else given
        if lake is None:
            return []
        with contextlib.suppress(OSError, ValueError):  # a shell that completes must not print errors
            return [name for name in folders(Lake.at(lake), prefix) if name.startswith(incomplete)]
        return []

    return complete


def choosing(function: Callable[..., None]) -> Callable[..., None]:
    """Which selection, dataset and results of stages of a lake are meant: `selection`, `dataset` and `stages`."""
    for option in (
        click.option(
            "--stage", "stages", multiple=True, metavar="NAME=FINGERPRINT", callback=_stages,
            help="Results of a stage to look at, where it was measured with several settings.",
        ),
        click.option(
            "--dataset", metavar="NAME", shell_complete=folders_of("datasets"),
            help="Dataset to look at; if not given, the newest that was made of the selection.",
        ),
        click.option(
            "--selection", metavar="NAME", shell_complete=folders_of("selections"),
            help="Selection to look at; if not given, the one of --dataset, else the newest. "
            "`speechmill manifest selections LAKE` lists them.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, as docs/json.md describes it.")
VIEW = click.option(
    "--view", metavar="VIEW",
    help="Table to look at: recordings, annotations, windows, vad, ...; `query LAKE \"SHOW TABLES\"` lists them.",
)  # fmt: skip
WHERE = click.option("--where", default="true", metavar="CONDITION", help="SQL condition that rows must meet.")


def _widen(context: click.Context, parameter: click.Parameter, wide: bool) -> None:
    context.meta[WIDE_META] = wide


WIDE = click.option(
    "--wide", is_flag=True, callback=_widen, expose_value=False,
    help="Print whole rows and values, however narrow the terminal; a pipe always gets them.",
)  # fmt: skip


def looking(function: Callable[..., None]) -> Callable[..., None]:
    """What every command over one target takes."""
    return click.argument("target", type=click.Path())(choosing(JSON(function)))

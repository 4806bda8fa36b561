"""`speechmill completion SHELL`: prints the shell code that completes commands, options and names of a lake."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print shell completion: for bash, eval "$(speechmill completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    assert ctx.parent is not None
    click.echo(kind(ctx.parent.command, {}, "speechmill", "_SPEECHMILL_COMPLETE").source())

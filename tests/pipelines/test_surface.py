"""The commands and options of `speechmill manifest`, frozen: a change here is a change for every user."""

import click
import pytest
from click.testing import CliRunner

from pipelines.cli import cli, manifest

LOOKING = {"TARGET", "--selection", "--dataset", "--stage", "--json", "--recipe"}
HEARING = LOOKING | {"ID", "[START]", "[END]"}
SURFACE = {
    "head": LOOKING | {"--view", "--where", "-n", "--columns"},
    "show": LOOKING | {"ID"},
    "stats": LOOKING | {"--view", "--where", "--by", "--histogram"},
    "query": LOOKING | {"SQL", "--format", "-o", "--output"},
    "funnel": LOOKING,
    "what-if": LOOKING | {"--rule", "--window-rule", "--drop", "--set", "--sample"},
    "diff": {"ONE", "TWO", "--json", "--recipe"},
    "clip": HEARING | {"-o", "--output"},
    "play": HEARING,
    "spectrogram": HEARING | {"-o", "--output"},
    "convert": {"LAKE_OR_FILE...", "--to", "-o", "--out", "--selection", "--json", "--recipe"},
    "validate": {"LAKE_OR_FILE...", "--deep", "--json", "--recipe"},
}


def surface(command: click.Command) -> set[str]:
    names: set[str] = set()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names |= {*parameter.opts}
        else:
            names.add(parameter.metavar or str(parameter.name).upper())
    return names


def test_commands_and_options_are_as_frozen() -> None:
    assert {name: surface(command) for name, command in manifest.commands.items()} == SURFACE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_SPEECHMILL_COMPLETE" in done.output


def test_the_shell_is_offered_commands_and_options() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "speechmill", "_SPEECHMILL_COMPLETE")
    assert "what-if" in {item.value for item in complete.get_completions(["manifest"], "wh")}
    assert {item.value for item in complete.get_completions(["manifest", "stats", "."], "--h")} >= {"--histogram"}

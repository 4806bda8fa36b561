"""The commands and options of `speechmill`, frozen: a change here is a change for every user."""

import click
import pytest
from click.testing import CliRunner

from pipelines.commands.cli import cli

LAKE = {"RECIPE", "--lake", "--set", "-q", "--quiet", "--json"}
STEP = LAKE | {"--engine", "--workers", "--ray-address", "[-- BEAM OPTIONS]"}
CHOICE = {"--selection", "--dataset", "--stage"}
TARGETED = CHOICE | {"TARGET", "--json", "--recipe"}
TABLES = TARGETED | {"--wide"}
SEGMENT = TARGETED | {"ID", "[START]", "[END]"}
PICKING = {"LAKE", "--uri", "--source", "--where", "--from", "--dry-run", "--json", "-q", "--quiet", "--recipe"}
TRAINING = {
    "LAKE", "-o", "--output", "--dataset", "--also", "--model", "--patch", "--depth", "--set", "--device", "--json",
}  # fmt: skip
SURFACE = {
    "run": STEP | {"--in", "--retry-failed", "--dry-run", "--watch"},
    "ingest": STEP | {"--in"},
    "annotate": STEP | {"--retry-failed", "--dry-run"},
    "select": STEP | {"--dry-run"},
    "encode": STEP | {"--retry-failed", "--dry-run"},
    "label": PICKING | {"[KEY=VALUE]...", "--id", "--history"},
    "merge": {"LAKE", "--hours", "--dry-run", "--json", "-q", "--quiet", "--recipe"},
    "remove": PICKING | {"[ID]...", "--reason", "--keep-copies", "-y", "--yes"},
    "simulate": {
        *(
            "OUT",
            "--voices",
            "--tts",
            "--texts",
            "--bank",
            "--voice-names",
            "--voice-by",
            "--count",
            "--minutes",
            "--speakers",
            "--side",
        ),
        *("--test-share", "--channels", "--rate", "--room", "--codec", "--bed", "--noise", "--snr", "--seed", "--set"),
        *("--workers", "--dry-run", "-q", "--quiet", "--json"),
    },
    "tokens show": LAKE | {"--by", "--dataset", "--version"},
    "tokens verify": LAKE | {"--dataset"},
    "datasets list": {"LAKE", "--json", "--recipe"},
    "datasets remove": {"LAKE", "NAME", "--version", "-y", "--yes", "--json", "--recipe"},
    "encoder list": {"--json"},
    "encoder show": {"NAME", "--set", "--json"},
    "encoder roundtrip": {
        "FILE",
        "[START]",
        "[END]",
        "--encoder",
        "--recipe",
        "--set",
        "--vocoder",
        "-o",
        "--output",
        "--json",
    },
    "encoder train": {"LAKE", "-o", "--output", "--dataset", "--set", "--device", "--json"},
    "study pjsd": {
        "A",
        "B",
        "--where",
        "--windows",
        "--selection",
        "--b-where",
        "--b-windows",
        "--b-selection",
        "--stage",
        "-n",
        "--phones",
        "--draws",
        "--seed",
        "--recipe",
        "--set",
        "--workers",
        "--lake",
        "-q",
        "--quiet",
        "--json",
    },
    "models list": {"--json"},
    "models verify": {"[NAME]...", "--json"},
    "models where": {"MODEL", "--json"},
    "recipe list": {"--json"},
    "recipe show": {"RECIPE", "--json"},
    "recipe check": {"FILE", "--set", "--json"},
    "recipe init": {"FILE", "--like"},
    "recipe keys": {"[TABLE]", "--json"},
    "doctor": {"[PLACE]...", "--write", "--json", "--recipe"},
    "config from-terraform": {"OUTPUTS", "--recipe"},
    "study subset": {
        "LAKE",
        "-o",
        "--output",
        "--budget",
        "--dataset",
        "--version",
        "--split",
        "--tracks",
        "--patch",
        "--no-context",
        "--by",
        "--weight",
        "--containing",
        "--wide",
        "--json",
        "--recipe",
    },
    "study leaks": {"A [B]...", "--lake", "--share", "--show", "--wide", "--json", "--recipe"},
    "study sample": {
        "[LAKE]",
        "--by",
        "--where",
        "--view",
        "--margin",
        "--relative",
        "--hours",
        "--share",
        "--mean-minutes",
        "--variation",
        "--confidence",
        "--wide",
        "--json",
        "--recipe",
    },
    "study cost": {
        "LAKE",
        "--hours",
        "--prices",
        "--show-prices",
        "--run",
        "--machine",
        "--days",
        "--confidence",
        "--wide",
        "--json",
        "--recipe",
    },
    "completion": {"SHELL"},
    "report": CHOICE | {"LAKE", "-o", "--output", "--samples", "--no-audio", "--roundtrips", "--recipe"},
    "manifest head": TABLES | {"--view", "--where", "-n", "--columns"},
    "manifest show": TABLES | {"ID"},
    "manifest stats": TABLES | {"--view", "--where", "--by", "--histogram"},
    "manifest query": TABLES | {"SQL", "--format", "-o", "--output"},
    "manifest funnel": TARGETED,
    "manifest what-if": TABLES | {"--rule", "--window-rule", "--drop", "--set", "--sample"},
    "manifest diff": CHOICE | {"ONE", "TWO", "--json", "--wide", "--recipe"},
    "manifest duplicates": CHOICE | {"LAKE", "-n", "--json", "--wide", "--recipe"},
    "manifest selections": {"LAKE", "--json", "--wide", "--recipe"},
    "manifest clip": SEGMENT | {"-o", "--output"},
    "manifest play": SEGMENT,
    "manifest spectrogram": SEGMENT | {"-o", "--output"},
    "manifest convert": CHOICE | {"LAKE_OR_FILE...", "--to", "-o", "--out", "--overwrite", "--json", "--recipe"},
    "study train": TRAINING | {"--flops", "--params", "--seed"},
    "study sweep": TRAINING | {"PLAN", "--seeds", "--workers"},
    "study generate": {
        "RUN",
        "LAKE",
        "-o",
        "--output",
        "--clips",
        "--split",
        "--steps",
        "--guidance",
        "--vocoder",
        "--seed",
        "--device",
        "--json",
    },
    "study fit": {
        "TABLE",
        "--params",
        "--tokens",
        "--loss",
        "--flops",
        "--run",
        "--by",
        "--where",
        "--metric",
        "--gamma",
        "--delta",
        "--starts",
        "--resamples",
        "--outlier-sd",
        "--misfit-sd",
        "--hold-out",
        "--at",
        "--epsilon",
        "--frame-rate",
        "--patch",
        "--params-are",
        "--tokens-are",
        "--plots",
        "--format",
        "--page",
        "--wide",
        "--json",
    },
    "study plan": {
        "--budgets",
        "--sizes",
        "--aspect",
        "--per-layer",
        "--depths",
        "--ratio",
        "--lake",
        "--dataset",
        "--version",
        "--split",
        "--encoder",
        "--frame-rate",
        "--dim",
        "--patch",
        "--count",
        "--context-share",
        "--hours-held",
        "--batch-tokens",
        "--from-fit",
        "--group",
        "--spend",
        "--runs",
        "--aim",
        "--csv",
        "--wide",
        "--json",
    },
    "manifest validate": {"LAKE_OR_FILE...", "--deep", "--json", "--recipe"},
}


def surface(command: click.Command, name: str = "") -> dict[str, set[str]]:
    if isinstance(command, click.Group):
        parts = [surface(part, f"{name} {word}".strip()) for word, part in command.commands.items()]
        return {path: options for part in parts for path, options in part.items()}
    names: set[str] = set()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names |= {*parameter.opts}
        else:
            names.add(parameter.metavar or str(parameter.name).upper())
    return {name: names}


def test_commands_and_options_are_as_frozen() -> None:
    assert surface(cli) == SURFACE


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


def test_the_shell_is_offered_the_keys_of_a_recipe() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "speechmill", "_SPEECHMILL_COMPLETE")
    offered = {item.value for item in complete.get_completions(["run", "demo", "--set"], "select.con")}
    assert offered == {"select.context_s=", "select.continuation_s="}


def test_every_command_over_manifests_says_what_it_and_each_of_its_options_does() -> None:
    manifest = cli.commands["manifest"]
    assert isinstance(manifest, click.Group)
    for name, command in [*manifest.commands.items(), ("report", cli.commands["report"])]:
        assert command.help, name
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert options
        assert not [option.opts for option in options if not option.help or not option.help.endswith(".")], name
        shown = CliRunner().invoke(cli, ["manifest", name, "--help"] if name != "report" else [name, "--help"])
        assert max(map(len, shown.output.splitlines())) <= 80, name

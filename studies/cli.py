"""`speechmill study`: commands for scaling studies. They import what they need when they run."""

from __future__ import annotations

import click

from manifests.commands.options import Commands
from studies import planning
from studies.laws import cli as laws
from studies.laws import plan_cli
from studies.slm import cli as slm


@click.group(cls=Commands)
def study() -> None:
    """Plan and judge scaling studies: budgets, subsets, laws, phonemes, costs."""


for command in (plan_cli.plan, laws.fit, slm.train, slm.sweep, *planning.COMMANDS):
    study.add_command(command)

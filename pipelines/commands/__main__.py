"""`python -m pipelines.commands`: the command line of a checkout that is not installed."""

from pipelines.commands.cli import main

main()

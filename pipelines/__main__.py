"""`python -m pipelines`: the command line of a checkout that is not installed."""

from pipelines.cli import main

main()

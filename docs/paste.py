"""Update the output of the commands in docs/tutorial.md: `python -m docs.paste LAKE`, with the lake of the demo.

A block with output begins with a command after a dollar sign. tests/pipelines/test_cli.py compares the output below
each command with what it prints.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from click.testing import CliRunner

from pipelines.commands.cli import cli

PAGE = Path(__file__).with_name("tutorial.md")
BLOCK = re.compile(r"```\n(\$ speechmill .*?)```", re.DOTALL)


def update_output(text: str, lake: str) -> str:
    """Return the page with the current output of its commands. `lake` replaces demo-lake in the commands."""
    return BLOCK.sub(lambda block: f"```\n{_printed(block[1], lake)}```", text)


def _printed(block: str, lake: str) -> str:
    lines = []
    for line in block.splitlines():
        if line.startswith("$ speechmill "):
            words = [lake if word == "demo-lake" else word for word in shlex.split(line)[2:]]
            done = CliRunner().invoke(cli, words, catch_exceptions=False)
            if done.exit_code:
                raise RuntimeError(f"{line} ended with {done.exit_code}: {done.output}")
            lines += [line, *(_rows(done.stdout) if "json" in words else done.stdout.splitlines())]
    return "\n".join(lines) + "\n"


def _rows(document: str) -> list[str]:
    """Return the lines with rows of a JSON document of `manifest query`."""
    return [line.strip().removesuffix(",") for line in document.splitlines() if line.startswith(" {")]


if __name__ == "__main__":
    PAGE.write_text(update_output(PAGE.read_text(), sys.argv[1]))

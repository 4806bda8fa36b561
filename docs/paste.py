"""What the commands in docs/tutorial.md print over the lake of the demo: pasted by `python -m docs.paste LAKE`.

A block that shows output begins with its commands, each after a dollar sign; tests/pipelines/test_cli.py compares what
stands below them with what they print.
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


def pasted(text: str, lake: str) -> str:
    """The page, with what its commands print over a lake that it calls demo-lake."""
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
    """The rows of a document of `manifest query`, without what surrounds them."""
    return [line.strip().removesuffix(",") for line in document.splitlines() if line.startswith(" {")]


if __name__ == "__main__":
    PAGE.write_text(pasted(PAGE.read_text(), sys.argv[1]))

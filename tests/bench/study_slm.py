"""Run docs/trainer.md from an empty folder: python tests/bench/study_slm.py [FOLDER] [--scale full|small].

The lines are those of the page. `small` has a hundredth of the compute, for minutes instead of an hour and a half.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/trainer.md"
SMALL = {
    "COUNT": "40", "UTTERANCES": "30", "BUDGETS": "1e10..4e10:4", "SIZES": "5184,9216,20736,36864,82944,147456",
    "RATIO": "0.2..200", "CLIPS": "8",
}  # fmt: skip


def blocks() -> list[str]:
    """The shell lines of the page that make the study."""
    return re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="build/study", type=Path)
    parser.add_argument("--scale", choices=["full", "small"], default="full")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | (SMALL if given.scale == "small" else {})
    for block in blocks():
        begun = time.monotonic()
        subprocess.run(["bash", "-eux", "-c", block], cwd=given.folder, env=known, check=True)
        print(f"{time.monotonic() - begun:,.0f} s")


if __name__ == "__main__":
    main()

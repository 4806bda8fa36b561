"""Check whether a place holds a lake, and suggest another lake beside it if it does not."""

from __future__ import annotations

import contextlib
import difflib

from manifests.choice import ChoiceError, folders
from manifests.lake import Lake


class NoLakeError(ChoiceError):
    """A command was to read a lake at a place that holds none."""


def holds_lake(lake: Lake) -> bool:
    """Whether the lake has a batch of recordings."""
    return next(lake.batches(), None) is not None


def check_lake(lake: Lake, name: str) -> None:
    """Raise NoLakeError if there is no lake; the error suggests the lake whose name is nearest to `name`."""
    if not holds_lake(lake):
        remedy = "name a lake that `speechmill ingest` or `speechmill run` has filled: only these two commands make one"
        raise NoLakeError(f"there is no lake at {name}: it holds no recordings", did_you_mean(lake, name) + remedy)


def did_you_mean(lake: Lake, written: str) -> str:
    """Ask "did you mean ...?" with the lake in the same folder whose name is nearest; "" if none is near.

    Args:
        lake: The lake that does not exist.
        written: Its place as the user wrote it; the suggestion is written in the same way.
    """
    parent, _, name = lake.storage.root.rpartition("/")
    if parent.endswith("/") or not parent:  # the root of a bucket or of a disk
        return ""
    with contextlib.suppress(OSError):  # a folder that cannot be listed gives no suggestion
        siblings = Lake.at(parent, lake.config)
        for near in difflib.get_close_matches(name, folders(siblings, ""), 5):
            if near != name and holds_lake(Lake.at(f"{parent}/{near}", lake.config)):
                return f"did you mean {written.rstrip('/').removesuffix(name)}{near}? "
    return ""

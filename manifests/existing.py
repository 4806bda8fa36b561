"""Whether a place holds a lake, and which lake beside it was meant where it does not."""

from __future__ import annotations

import contextlib
import difflib

from manifests.choice import ChoiceError, folders
from manifests.lake import Lake


class NoLakeError(ChoiceError):
    """A place that a command was to read as a lake, and that holds none."""


def holds_lake(lake: Lake) -> bool:
    """Whether there is a batch of recordings."""
    return next(lake.batches(), None) is not None


def check_lake(lake: Lake, name: str) -> None:
    """Raise NoLakeError, with the lake of the nearest name, where there is none that a person calls `name`."""
    if not holds_lake(lake):
        remedy = "name a lake that `speechmill ingest` or `speechmill run` has filled: only these two make one"
        raise NoLakeError(f"there is no lake at {name}: it holds no recordings", did_you_mean(lake, name) + remedy)


def did_you_mean(lake: Lake, said: str) -> str:
    """A question with the lake beside a missing one whose name is nearest to its own; '' where none is near.

    The answer is written as the person wrote the missing one: `said`.
    """
    parent, _, name = lake.storage.root.rpartition("/")
    if parent.endswith("/") or not parent:  # of a bucket or the root of a disk
        return ""
    with contextlib.suppress(OSError):  # what cannot be listed offers nothing
        beside = Lake.at(parent, lake.config)
        for near in difflib.get_close_matches(name, folders(beside, ""), 5):
            if near != name and holds_lake(Lake.at(f"{parent}/{near}", lake.config)):
                return f"did you mean {said.rstrip('/').removesuffix(name)}{near}? "
    return ""

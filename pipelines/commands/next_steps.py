"""What a run prints at its end: why no window was kept, and the commands to run next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from manifests.funnel import Funnel
from manifests.selection import Selection


def nothing_kept(funnel: Funnel, selection: Selection) -> str | None:
    """Why a selection keeps no window, with the rule that rejects most; None where it keeps some."""
    if funnel.part("windows", "kept")[0]:
        return None
    prefix, window = "no window is kept: ", f"a window of {selection.window_s:g} s"
    if not funnel.total["recordings"]:
        return f"{prefix}the lake holds no recording"
    if not funnel.part("recordings", "kept")[0]:
        return f"{prefix}no recording is kept; {_main_reason(funnel, 'recordings', selection)}"
    if funnel.total["windows"]:
        return f"{prefix}{_main_reason(funnel, 'windows', selection)}"
    if selection.align == "turns":
        return f"{prefix}in no kept recording a turn begins that leaves room for {window}"
    return f"{prefix}every kept recording is shorter than {window}"


def _main_reason(funnel: Funnel, what: str, selection: Selection) -> str:
    """The reason that alone rejects most of the recordings or windows; else the one that rejects most."""
    reasons = funnel.reasons(what)
    name = max(reasons, key=lambda reason: (reasons[reason]["alone_count"], reasons[reason]["count"]))
    count, alone = reasons[name]["count"], reasons[name]["alone_count"]
    rules = getattr(selection, what)
    named = (
        f"the rule select.{what}.{name} = {rules[name]!r} rejects" if name in rules else f"{name!r} is the reason for"
    )
    return f"{named} {count:,} of {funnel.total[what]:,} {what}" + f", {alone:,} of them alone" * bool(alone)


def next_commands(recipe: str, lake: str, overrides: Sequence[str]) -> list[str]:
    """Commands that show and check a finished dataset, to be run in the same folder."""
    kept = [override for override in overrides if override.startswith(("name=", "storage."))]
    changed = [word for override in kept for word in ("--set", override)]
    reached = ["--recipe", recipe] if "://" in lake else []
    return [
        shlex.join(["speechmill", "report", lake, *reached]),
        shlex.join(["speechmill", "tokens", "verify", recipe, "--lake", lake, *changed]),
    ]

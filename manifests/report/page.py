"""Renders the report's page with Jinja2, which escapes all values. Samples are added up to a limit of bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import plotly.offline

from manifests.report.figures import COLORS, GROUND, mel_scale
from manifests.report.flow import plural
from manifests.report.samples import SampledRecordings
from manifests.version import version

LIMIT_BYTES = 20_000_000


def render(page: dict[str, Any], browsed: SampledRecordings, limit_bytes: int = LIMIT_BYTES) -> str:
    """Render the page. Recordings that would exceed `limit_bytes` are left out, and the page says how many."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    parts = resources.files("manifests.report").joinpath("templates")
    environment.filters["breakable"] = breakable
    template = environment.from_string(parts.joinpath("report.html.j2").read_text(encoding="utf-8"))
    own, loader = (parts.joinpath(name).read_text(encoding="utf-8") for name in ("report.js", "load.js"))
    scripts = f"{plotly.offline.get_plotlyjs()}\n{own}"
    verdicts = [name for name in COLORS if name in browsed.verdicts]
    whatif = page.pop("whatif")
    data: dict[str, Any] = {"whatif": whatif, "figures": page["figures"], "melscale": mel_scale(), "mel": browsed.mel}
    passages = [passage.pop("audio") for passage in (page.get("repeated") or {}).get("passages", [])]
    data["passages"] = passages
    data["measures"] = {measure.name: measure.sentence for measure in page["measures"]}
    page |= {
        "css": parts.joinpath("report.css").read_text(encoding="utf-8"),
        "loader": loader,
        "packed": base64.b64encode(gzip.compress(scripts.encode(), mtime=0)).decode(),
        "policy": _policy([loader, scripts]),
        "tones": COLORS,
        "ground": GROUND,
        "verdicts": verdicts,
        "legend": [(name, COLORS[name]) for name in verdicts],
        "whatif_note": _whatif_note(whatif),
        "footer": f"speechmill {version()}. This page contains all that it shows and loads nothing.",
    }
    left = limit_bytes - len(template.render(page, data=data | {"samples": []}, samples=[], samples_note="").encode())
    taken: list[dict[str, Any]] = []
    dropped = 0
    for sample in browsed.samples:
        # Jinja's tojson writes <, >, & and ' as six characters each.
        size = len(jinja2.utils.htmlsafe_json_dumps(sample))
        if size <= left - 4096:
            taken.append(sample)
            left -= size + 2
        else:
            dropped += 1
    note = _samples_note(len(taken), dropped, browsed, limit_bytes)
    return template.render(page, data=data | {"samples": taken}, samples=taken, samples_note=note)


def breakable(name: str) -> markupsafe.Markup:
    """A name that may break into lines after an underscore or bracket and before an inner capital letter.

    >>> breakable("UnreadableAudioError: <b>")
    Markup('Unreadable<wbr>Audio<wbr>Error: &lt;b&gt;')
    """
    parts = re.split(r"(?<=[_(])|(?<=[a-z])(?=[A-Z])", name)
    return markupsafe.Markup("<wbr>").join(parts)


def _policy(scripts: list[str]) -> str:
    """The content security policy: only these scripts run, and nothing is loaded from anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    # Plotly writes style elements and draws pictures on canvases; excerpts of sound play from memory.
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; media-src blob:"


def _whatif_note(whatif: dict[str, Any]) -> str:
    exact, notes = [], []
    for name, level in whatif["levels"].items():
        if level["exact"]:
            exact.append(name)
        else:
            sampled = f"{level['sampled']:,} of {level['count']:,}"
            notes.append(f"{name.capitalize()} are estimated from a sample of {sampled}, with one standard error.")
    return " ".join([f"{' and '.join(exact).capitalize()} are counted exactly."] * bool(exact) + notes)


def _samples_note(taken: int, dropped: int, browsed: SampledRecordings, limit_bytes: int) -> str:
    note = (
        f"A sample of {taken} of {plural(browsed.total, 'recordings')}, from every verdict and combination of reasons"
    )
    if dropped:
        note += f"; {dropped} more were left out to keep this file under {limit_bytes / 1e6:g} MB"
    return f"{note}. {browsed.sound}"

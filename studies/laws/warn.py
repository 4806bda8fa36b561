"""Warnings about a fit, derived from its document."""

from __future__ import annotations

from typing import Any

import numpy as np

from manifests.output import counted
from studies.laws import judge

DISAGREEMENT = 0.05
"""Difference between the exponents of D* of parabolas and law that causes a warning, whatever their intervals."""
NAMES = {"alpha": "alpha", "beta": "beta", "tokens_exponent": "the exponent of D*"}
WORST = 0.02
"""Largest share of resamples at a bound of the search without a warning."""


def warnings(document: dict[str, Any]) -> list[str]:
    """Return the warnings, a sentence each."""
    sentences: list[str] = []
    outliers, misfits, parabolas = document["outliers"], document["misfits"], document["isoflop"]
    for what, found in (("with extreme tokens per parameter", outliers), ("with large errors", misfits)):
        if found["influence"] and (moved := judge.shifts(found["influence"])):
            changes = ", ".join(f"{NAMES[name]} by {change:+.3f}" for name, change in moved.items())
            inside = found is misfits or found["kept"]
            stay = "kept; they change" if inside else "left out; in the fit they would change"
            sentences.append(f"{counted(len(found['runs']), 'run')} {what}: {stay} {changes}")
    for one in document["unidentified"]:
        sentences.append(f"{one['constant']} is not identified: {one['reason']}")
    if no_optimum(document["unidentified"]):
        sentences.append("N* and D* are not computed: these runs do not identify the exponent of D*")
    if parabolas["tokens_exponent"] is None:
        sentences.append(f"there are no isoFLOP parabolas to compare with: {parabolas['refused']}")
    else:
        sentences += _disagreement(document, parabolas)
    sentences += _other_form(document)
    method = document["method"]
    for name, count in method["resamples_at_bound"].items():
        if count > WORST * method["resamples"][name]:
            sentences.append(
                f"{count} of {method['resamples'][name]} resamples of {name} ended at a bound of the search"
            )
    if method["reached"] < 2:
        sentences.append(f"only 1 of {method['starts']} starts reached the best optimum: there may be a better one")
    if "refused" in document["held_out"]:
        sentences.append(f"no budget was held out: {document['held_out']['refused']}")
    elif document["held_out"]["runs"] < judge.LEAST_HELD:
        sentences.append(
            f"the held-out budget has only {counted(document['held_out']['runs'], 'run')}: its error is uncertain"
        )
    return sentences


def _disagreement(document: dict[str, Any], parabolas: dict[str, Any]) -> list[str]:
    law, other = document["tokens_exponent"], parabolas["tokens_exponent"]
    apart = abs(law - other)
    halves = [
        (ends[1] - ends[0]) / 2
        for ends in (document["intervals"]["tokens_exponent"]["runs"], parabolas["interval"] or [0.0, 0.0])
    ]
    if apart <= DISAGREEMENT and apart <= float(np.hypot(*halves)):
        return []
    expected = parabolas["expected_from_law"]
    bias = f"; were the law true, parabolas over these sizes would give {expected:.3f}" if expected is not None else ""
    return [
        f"the two methods disagree by {apart:.3f} in the exponent of D*: the law says {law:.3f}, isoFLOP parabolas "
        f"{other:.3f}{bias}"
    ]


def _other_form(document: dict[str, Any]) -> list[str]:
    """Warn if a law with free gamma fits significantly better than the chosen one."""
    fixed, free = (document["forms"][name] for name in ("gamma_fixed", "gamma_free"))
    (low, high), gamma = free["profile"]["gamma"], fixed["huber"]["gamma"]
    excluded = (low is not None and low > gamma) or (high is not None and high < gamma)
    if document["gamma_choice"]["free"] or free["huber"]["at_bound"] or not excluded:
        return []
    gain = 1 - free["huber"]["objective"] / fixed["huber"]["objective"]
    return [
        f"a free gamma is {free['huber']['gamma']:.3g}, its profile interval excludes {gamma:g}, and the objective is "
        f"{gain:.1%} lower: --gamma free prints that law"
    ]


def no_optimum(unidentified: list[dict[str, str]]) -> bool:
    """Return whether N* and D* are meaningless: an exponent is at a bound, or that of D* has no interval at all."""
    for one in unidentified:
        if one["constant"] in ("alpha", "beta") and "bound of the search" in one["reason"]:
            return True
        if one["constant"] == "tokens_exponent" and "both sides" in one["reason"]:
            return True
    return False

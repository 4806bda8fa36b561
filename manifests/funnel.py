"""The funnel: how many recordings and windows, and how many hours, came in, were kept, rejected by which rules, or
failed, and the proof that nothing of what came in is missing from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.output import one_line

LEAST_BYTES_PER_S = 1.0
"""The fewest bytes that any codec takes for a second, of silence. A header that claims more sound than a file of its
size could hold at this rate is not believed."""


def credible_s(recordings: pa.Table) -> pa.ChunkedArray:
    """Durations that headers claim, in seconds, null where they claim more than `size_bytes` could hold."""
    claimed, size = recordings["claimed_duration_s"], recordings["size_bytes"]
    most = pc.divide(size.cast(pa.float64()), LEAST_BYTES_PER_S)
    return pc.if_else(pc.fill_null(pc.less_equal(claimed, most), True), claimed, None)


class Funnel:
    """Counts that grow while verdicts and windows are added. Memory grows with the number of different combinations of
    reasons, not with the number of rows.

    `count` and `seconds` hold, for "recordings" and "windows", a number by verdict and all its reasons, as a tuple;
    `total` and `total_s` hold what came in. `windowed_s` and `remainder_s` are seconds of kept recordings inside and
    outside any window.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count: dict[str, Counter[tuple[str, ...]]] = {"recordings": Counter(), "windows": Counter()}
        self.seconds: dict[str, Counter[tuple[str, ...]]] = {"recordings": Counter(), "windows": Counter()}
        self.total = {"recordings": 0, "windows": 0}
        self.total_s = {"recordings": 0.0, "windows": 0.0}
        self.remainder_s = 0.0
        self.windowed_s = 0.0

    def add(self, verdicts: pa.Table, windows: pa.Table) -> None:
        """Count some batches (VERDICTS and WINDOWS schemas)."""
        self._add("recordings", verdicts["verdict"], verdicts)
        self.remainder_s += pc.sum(verdicts["remainder_s"]).as_py() or 0.0
        self.windowed_s += pc.sum(verdicts["windowed_s"]).as_py() or 0.0
        self.add_windows(windows)

    def add_windows(self, windows: pa.Table) -> None:
        self._add("windows", pc.if_else(windows["kept"], "kept", "rejected"), windows)

    def _add(self, what: str, verdicts: pa.ChunkedArray, rows: pa.Table) -> None:
        """Count rows with `reasons` and `duration_s`."""
        verdicts_and_reasons = pc.binary_join_element_wise(verdicts, pc.binary_join(rows["reasons"], "\n"), "\n")
        alike = verdicts_and_reasons.combine_chunks().dictionary_encode().indices.to_numpy()
        seconds = np.bincount(alike, rows["duration_s"].to_numpy())
        _, firsts, counts = np.unique(alike, return_index=True, return_counts=True)
        for first, count, sum_s in zip(firsts.tolist(), counts.tolist(), seconds.tolist(), strict=True):
            self.tally(what, verdicts[first].as_py(), rows["reasons"][first].as_py(), count, sum_s)

    def tally(self, what: str, verdict: str, reasons: Sequence[str], count: int, seconds: float) -> None:
        """Count `count` 'recordings' or 'windows' that share a verdict and all their reasons."""
        self.total[what] += count
        self.total_s[what] += seconds
        self.count[what][(verdict, *reasons)] += count
        self.seconds[what][(verdict, *reasons)] += seconds  # type: ignore[assignment]

    def merge(self, part: Funnel, weight: float = 1.0) -> None:
        """Add what another funnel counted `weight` times: a funnel of a sample stands for more than it counted. Counts
        are rounded."""
        for what in self.total:
            for key, count in part.count[what].items():
                self.tally(what, key[0], key[1:], round(count * weight), part.seconds[what][key] * weight)
        self.remainder_s += part.remainder_s * weight
        self.windowed_s += part.windowed_s * weight

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Funnel:
        """The funnel that `as_dict` described."""
        funnel = cls(stored["selection"])
        for what in funnel.total:
            for row in stored[what]["jointly"]:
                funnel.tally(what, row["verdict"], row["reasons"], row["count"], row["hours"] * 3600)
        funnel.remainder_s = stored["remainder_hours"] * 3600
        return funnel

    def part(self, what: str, verdict: str) -> tuple[int, float]:
        """Count and seconds of a verdict among 'recordings' or 'windows'."""
        keys = [key for key in self.count[what] if key[0] == verdict]
        return sum(self.count[what][key] for key in keys), sum(self.seconds[what][key] for key in keys)

    def reasons(self, what: str) -> dict[str, dict[str, float]]:
        """By reason: how many were rejected, or failed, for it, and how many of these for no other reason."""
        rows: dict[str, dict[str, float]] = {}
        for key, count in self.count[what].items():
            for reason in key[1:]:
                row = rows.setdefault(reason, {"count": 0, "hours": 0.0, "alone_count": 0, "alone_hours": 0.0})
                hours = _hours(self.seconds[what][key])
                row["count"] += count
                row["hours"] += hours
                if len(key) == 2:
                    row["alone_count"] += count
                    row["alone_hours"] += hours
        return dict(sorted(rows.items(), key=lambda item: (-item[1]["count"], item[0])))

    def check(self) -> None:
        """Assert that in = kept + rejected + failed, in counts and in hours: anything else is a programmer's error."""
        for what in ("recordings", "windows"):
            parts = [self.part(what, verdict) for verdict in ("kept", "rejected", "failed")]
            assert sum(count for count, _ in parts) == self.total[what]
            assert abs(sum(seconds for _, seconds in parts) - self.total_s[what]) <= 1e-6 * max(1, self.total_s[what])
        kept_s = self.part("recordings", "kept")[1]
        assert abs(self.windowed_s + self.remainder_s - kept_s) <= 1e-6 * max(1.0, kept_s)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it; `jointly` lists each combination of reasons with its count and hours."""
        result: dict[str, Any] = {"selection": self.name, "remainder_hours": _hours(self.remainder_s)}
        for what in ("recordings", "windows"):
            verdicts = {}
            for verdict in ("kept", "rejected", "failed"):
                count, seconds = self.part(what, verdict)
                verdicts[verdict] = {"count": count, "hours": _hours(seconds)}
            jointly = [
                {"verdict": key[0], "reasons": list(key[1:]), "count": count, "hours": _hours(self.seconds[what][key])}
                for key, count in sorted(self.count[what].items(), key=lambda item: (-item[1], item[0]))
            ]
            result[what] = {
                "in": {"count": self.total[what], "hours": _hours(self.total_s[what])},
                **verdicts,
                "reasons": self.reasons(what),
                "jointly": jointly,
            }
        return result

    def render(self) -> str:
        """The funnel for a terminal, within 80 columns unless the name of a rule has more than 28 characters."""
        lines = []
        wide = max([28, *(len(one_line(reason)) for what in self.total for reason in self.reasons(what))])
        for what in ("recordings", "windows"):
            lines.append(f"{what:<{wide + 4}}{'count':>12}{'hours':>12}{'alone':>12}{'hours':>12}")
            rows: list[tuple[str, int, float]] = [("in", self.total[what], self.total_s[what])]
            rows += [(verdict, *self.part(what, verdict)) for verdict in ("kept", "rejected", "failed")]
            lines += [f"  {name:<{wide + 2}}{count:>12,}{seconds / 3600:>12,.3f}" for name, count, seconds in rows]
            for reason, row in self.reasons(what).items():
                lines.append(
                    f"    {one_line(reason):<{wide}}{row['count']:>12,}{row['hours']:>12,.3f}"
                    f"{row['alone_count']:>12,}{row['alone_hours']:>12,.3f}"
                )
        lines.append(f"  {'outside any window':<{wide + 14}}{self.remainder_s / 3600:>12,.3f}")
        return "\n".join(lines)


def _hours(seconds: float) -> float:
    """Hours to some microseconds: the last bits of a sum depend on its order, and a funnel is stored and read back."""
    return round(seconds / 3600, 9)

"""The table [decode] of a recipe.

It is not in the decoder's module, so that reading a recipe loads no audio library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeConfig:
    """How recordings are decoded, and what one of them may cost: the table [decode] of a recipe."""

    fill_gaps: bool = False
    """Whether sound that is missing by the container's times is replaced by silence. This keeps the tracks of a meeting
    aligned if its participants send nothing while they are silent."""
    max_hours: float = 100.0
    """Longer recordings are refused: a small file may claim, or expand to, any length."""
    stall_s: float = 120.0
    """Seconds of CPU time that decoding may take without yielding any new sound."""
    memory_gb: float = 4.0
    """Address space of the process that decodes, in 10^9 bytes."""
    probe_s: float = 30.0
    """Seconds of CPU time that reading a header may take."""

    def __post_init__(self) -> None:
        for name in ("max_hours", "stall_s", "memory_gb", "probe_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"decode.{name} must be above 0")
        if self.memory_gb < 0.4:
            raise ValueError("decode.memory_gb must be at least 0.4: about as much is taken before anything is decoded")

    def changes(self) -> dict[str, bool]:
        """Return the settings that change the decoded samples, for fingerprints."""
        return {"fill_gaps": True} if self.fill_gaps else {}


DECODE = DecodeConfig()
"""The defaults."""

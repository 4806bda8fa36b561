"""Names of licences and classes of size on the Hugging Face Hub."""

from __future__ import annotations

HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "bsd-3-clause", "odc-by", "odbl",
}  # fmt: skip
"""The Hub's names of licences that are common for speech. Any other licence is 'other' on the Hub."""

SIZES = {
    1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M", 1e7: "1M<n<10M", 1e8: "10M<n<100M",
    1e9: "100M<n<1B", 1e10: "1B<n<10B", 1e11: "10B<n<100B", 1e12: "100B<n<1T",
}  # fmt: skip
"""The Hub's classes of size, by the number of windows below which each applies."""


def hub_licence(licence: str | None) -> str:
    """The Hub's name for a licence.

    >>> hub_licence("CC BY 4.0"), hub_licence("see the site"), hub_licence(None)
    ('cc-by-4.0', 'other', 'unknown')
    """
    if not licence:
        return "unknown"
    name = licence.strip().lower().replace(" ", "-")
    return name if name in HUB_LICENCES else "other"

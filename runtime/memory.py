"""Memory of this process: what was freed is given back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release() -> None:
    """Give freed memory back to the system, so that resident memory does not grow with the work done.

    The allocator of glibc keeps what was freed, and arrays of ever different sizes leave gaps that it cannot use again.
    Elsewhere nothing is done. It takes some milliseconds, and what is used next must be mapped again.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found

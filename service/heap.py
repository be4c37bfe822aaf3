"""heap: glibc's malloc told to keep one heap and to give back what it no longer needs.

By default every thread may open a heap of its own, and the top of each is kept for as much as was
once freed there. A service whose looks and snapshots take large arrays for a moment, on several
threads, so holds tens of megabytes that nothing uses. Python's threads take turns anyway.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # malloc.h
M_ARENA_MAX: Final = -8
TRIM_BYTES: Final = 1 << 20  # free at the top of the heap before it is given back


def hold_less() -> bool:
    """Set both for this process, before it starts threads; False where malloc is not glibc's.

    What the environment says of malloc stands: nothing is set then.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_ARENA_MAX, 1)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))

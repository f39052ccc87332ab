"""Give freed memory back to the system between the phases of a run.

Decoding and updating allocate blocks of different sizes, and glibc keeps what one frees in holes that the other cannot
use: on two CPU cores the main job grew to 10 GB so, twice what is alive at any time. Invariant: this changes where
freed memory waits, never a number.
"""

from __future__ import annotations

import ctypes
import gc


def release_freed_memory() -> None:
    """Return every free page of the C heap; without effect where the C library is not glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

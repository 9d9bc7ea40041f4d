"""Whether memory that is freed stays with the process.

glibc gives large blocks back to the system when they are freed, and every tensor of that size then waits for pages that
are cleared anew: on networks with large images that takes longer than what is computed. Allocators that people run
PyTorch with for speed (jemalloc, tcmalloc) keep it, and glibc does when it is told to.
"""

from __future__ import annotations

import ctypes
import sys

KEEPING, PLAIN = "keeping", "plain"
TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The parameters of mallopt(3)."""


def choose(allocator: str) -> str:
    """Makes this process keep what it frees, if that is asked for and there is a way; gives what was chosen in
    the end.
    """
    if allocator == PLAIN or not sys.platform.startswith("linux"):
        return PLAIN
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    kept = mallopt is not None and mallopt(TRIM_THRESHOLD, -1) == 1 and mallopt(MMAP_MAX, 0) == 1
    return KEEPING if kept else PLAIN

"""What the C library does with memory that was freed: keep it for the next layer instead of giving it back.

By default glibc takes every large tensor fresh from the system and returns it at once. The system must then clear each
page again, layer after layer: more than half the time of a network that works on whole pictures
(``benchmarks/allocator.py``).
"""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of mallopt(3) in <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

_KEPT = 2**31 - 1
"""Bytes at the end of the heap from which on they go back to the system; mallopt takes no larger number."""

_PAD = 64 * 2**20
"""Bytes by which the heap grows beyond what is asked."""

_OWN_CHOICE = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables by which a user has chosen otherwise, or another allocator."""


class _Account(ctypes.Structure):
    """``struct mallinfo2`` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def keep_freed_memory() -> bool:
    """Let this process's C library reuse freed memory of any size; False where that is not to be had or not wanted.

    What is free at the end of the heap stays with the process up to 2 GiB; all threads share one heap, since another
    one's would hold no block above 64 MiB. For commands, not for libraries: it decides for the whole
    process. A user who has set variables for the allocator keeps his choice.
    """
    if any(name in os.environ for name in _OWN_CHOICE):
        return False
    library = _glibc()
    if library is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _PAD), (_ARENA_MAX, 1))
    # All of them, whatever the first ones answer.
    answers = [library.mallopt(number, value) for number, value in settings]
    return all(answer == 1 for answer in answers)


def idle_memory() -> int:
    """Bytes that are free inside the heap: the system counts them as used, the next tensor can have them."""
    library = _glibc()
    if library is None or not hasattr(library, "mallinfo2"):
        return 0
    account = library.mallinfo2
    account.restype = _Account
    return int(account().fordblks)


def _glibc() -> ctypes.CDLL | None:
    """The C library where it is GNU's; others have no such settings, or ignore them."""
    if sys.platform != "linux":
        return None
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None
    return ctypes.CDLL(None) if version and version.startswith("glibc") else None

"""How this process takes memory from the system; it changes nothing that is computed."""

from __future__ import annotations

import ctypes
import logging
import os

__all__ = ["keep_memory"]

log = logging.getLogger(__name__)

# <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _GROW_BY = -1, 64 << 20


def keep_memory() -> bool:
    """Keep freed memory for the next step, and use huge pages for large tensors.

    By default the C library gives large blocks back when they are freed, so that each step of a training on a CPU
    touches, and the kernel clears, all of its memory anew, 4 KiB at a time. Call it before the first tensor is made:
    torch asks for huge pages only if it was told so by then.

    Returns:
        Whether the C library is one that can be told (glibc).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch; without effect where the system has none
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        log.info("this C library has no mallopt: freed memory goes back to the system")
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BY))
    taken = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in settings]
    return all(taken)

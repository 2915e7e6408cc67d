"""What the GNU C library does with memory; elsewhere these functions do nothing."""

import ctypes
import os
import sys
from typing import Any


def share_heap() -> None:
    """Lets all threads take memory from one heap; call it before any thread is started.

    By itself the library gives threads heaps of their own, and each keeps what was freed in it.
    Does what MALLOC_ARENA_MAX=1 does, see mallopt(3); a value in the environment stands.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    arena_max = -8  # M_ARENA_MAX of malloc.h
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(arena_max, 1)


def give_back() -> None:
    """Returns memory that was freed to the system, see malloc_trim(3).

    By itself the library keeps holes between what is in use, and they grow over a long run.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of the C library, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)

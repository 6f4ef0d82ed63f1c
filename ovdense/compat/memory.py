"""The memory that a process holds but does not use."""
import ctypes
from functools import cache


@cache
def _malloc_trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library than glibc, or another system
        return None


def return_memory() -> bool:
    """Give free memory back to the system; return whether there was any to give.

    glibc raises the size from which it gives memory back at once as larger blocks are freed, so that images of many sizes leave gigabytes of free
    memory behind. A process that serves for days calls this between its answers. Elsewhere than on glibc nothing happens.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))

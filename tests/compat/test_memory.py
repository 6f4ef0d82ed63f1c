"""Free memory that the C library keeps goes back to the system when it is asked."""
import os
import sys
from pathlib import Path

import pytest

from ovdense.compat.memory import return_memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="only glibc can be asked")
def test_return_memory__gives_back_what_is_free_below_what_is_used():
    blocks = [bytes(60_000) for _ in range(3000)]  # 180 MB on the heap
    last = [bytes(60_000) for _ in range(3)]  # above them, so that the heap's end cannot come down by itself
    for n in range(len(blocks)):
        if n % 100:
            blocks[n] = None
    before = resident_bytes()
    assert return_memory()
    assert before - resident_bytes() > 90e6 and len(last) == 3


def test_return_memory__elsewhere_does_nothing(monkeypatch):
    monkeypatch.setattr("ovdense.compat.memory._malloc_trim", lambda: None)
    assert return_memory() is False

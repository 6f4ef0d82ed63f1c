"""Free memory that the C library keeps goes back to the system when it is asked."""
import os
import subprocess
import sys

import pytest

from ovdense.compat.memory import return_memory

FREED = """
import os
from pathlib import Path
from ovdense.compat.memory import return_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [bytes(60_000) for _ in range(3000)]  # 180 MB on the heap
last = [bytes(60_000) for _ in range(3)]  # above them, so that the heap's end cannot come down by itself
for n in range(len(blocks)):
    if n % 100:
        blocks[n] = None
before = resident_bytes()
assert return_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="only glibc can be asked")
def test_return_memory__gives_back_what_is_free_below_what_is_used():
    """In a process of its own: what is free, and where, in this one depends on the tests before."""
    assert int(subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout) > 90e6


def test_return_memory__elsewhere_does_nothing(monkeypatch):
    monkeypatch.setattr("ovdense.compat.memory._malloc_trim", lambda: None)
    assert return_memory() is False

"""What ovdense.measure says of a process."""
import subprocess
import sys

import pytest

from ovdense.measure import PeakMemory

ASK = "from ovdense.measure import process_peak_mib; print(process_peak_mib())"
HOLD = "held = b'1' * (1 << 30); del held; "
START = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}])"

reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; elsewhere the system's own count is given")


@pytest.mark.parametrize(
    "code, least, most",
    [(ASK, 5, 512), (HOLD + ASK, 1024, 1536), pytest.param(HOLD + START, 5, 512, marks=reads_proc)],
    ids=["holds little", "held a GiB", "was started by one that held a GiB"],
)
def test_process_peak__is_its_own(code, least, most):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert least < float(found.stdout) < most


@reads_proc
def test_peak_memory__of_a_step_that_ends_before_anything_watches_it(monkeypatch):
    monkeypatch.setattr(PeakMemory, "_watch", lambda memory: None)  # on a busy machine the thread's turn comes too late
    with PeakMemory() as memory:
        held = b"1" * (64 << 20)
    assert len(held) / 2**20 < memory.mib < 2**20
    with PeakMemory() as later:
        pass
    assert later.mib > 5

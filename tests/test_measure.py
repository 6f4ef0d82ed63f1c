"""What ovdense.measure says of a process."""
import subprocess
import sys

import pytest

ASK = "from ovdense.measure import process_peak_mib; print(process_peak_mib())"
HOLD = "held = b'1' * (1 << 30); del held; "
START = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}])"


@pytest.mark.parametrize(
    "code, least, most",
    [(ASK, 5, 512), (HOLD + ASK, 1024, 1536), (HOLD + START, 5, 512)],
    ids=["holds little", "held a GiB", "was started by one that held a GiB"],
)
def test_process_peak__is_its_own(code, least, most):
    if "subprocess" in code and sys.platform != "linux":
        pytest.skip("reads /proc; elsewhere the system's own count is given")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert least < float(found.stdout) < most

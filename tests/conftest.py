"""Where tests find parity cases and real photos; a missing folder fails, it never skips."""
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.fail(f"{variable} must name an existing folder, got {path}; set it or put the data there", pytrace=False)
    return path


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Folder of the parity cases."""
    return _folder("OVDENSE_GOLDEN", _SHARED / "golden")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real photos."""
    return _folder("OVDENSE_DATA", _SHARED / "data")

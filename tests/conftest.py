"""Where tests find parity cases and real photos (a missing folder fails, it never skips); and what no test leaves behind for the next one."""
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@contextmanager
def undone() -> Iterator[None]:
    """Undo what is done in the block to what a process has once: environment variables (tools set OVDENSE_DATA), working folder, torch's threads."""
    environment, folder = dict(os.environ), os.getcwd()
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)
        if threads is not None and sys.modules["torch"].get_num_threads() != threads:
            sys.modules["torch"].set_num_threads(threads)


def seed_all() -> None:
    """Let what is drawn without a seed be the same whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _undone_after_each_file() -> Iterator[None]:
    seed_all()
    with undone():
        yield


def forget_loggers() -> None:
    """Let MMEngine's current logger be one of this test's output: an earlier test's writes to what was captured then."""
    if "mmengine.logging.logger" in sys.modules:
        sys.modules["mmengine.logging.logger"].MMLogger._instance_dict.clear()


@pytest.fixture(autouse=True)
def _undone_after_each_test() -> Iterator[None]:
    seed_all()
    forget_loggers()
    with undone():
        yield


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

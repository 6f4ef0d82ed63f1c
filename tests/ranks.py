"""Runs of a few processes that talk through gloo, for tests: every rank calls one function of a module."""
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900.0  # seconds until a process is taken for stuck: a machine may be busy, and no test is about its speed
_SCRIPT = '''
import importlib, sys
from torch import distributed
module, function, meet, rank, world, *arguments = sys.argv[1:]
distributed.init_process_group("gloo", init_method="file://" + meet, rank=int(rank), world_size=int(world))
getattr(importlib.import_module(module), function)(*arguments)
from ovdense.cli.program import end
end(0)
'''


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that finds the project's modules, with one thread."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    return kept | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"} | more


def wait_all(running: Sequence[subprocess.Popen], patience: float = PATIENCE) -> None:
    """Wait until all processes have ended well; as soon as one has not, or after `patience` seconds, the others are killed and the test fails."""
    end = time.monotonic() + patience
    try:
        while None in (codes := [p.poll() for p in running]):
            assert not any(codes), f"one failed, the others would wait for it: exit codes {codes}"
            assert time.monotonic() < end, f"still running after {patience:.0f} s: exit codes {codes}"
            time.sleep(0.05)
        assert codes == [0] * len(running)
    finally:
        for process in running:
            with suppress(OSError):
                process.kill()
            process.wait()


def call_on_ranks(function, *arguments: str, folder: Path, world: int = 2, patience: float = PATIENCE) -> None:
    """Let `world` processes call `function(*arguments)`, a function of a module of tests; all must end well. They meet in a file of `folder`."""
    command = [sys.executable, "-c", _SCRIPT, function.__module__, function.__name__, str(folder / f"meet-{uuid4().hex}")]
    wait_all([subprocess.Popen([*command, str(rank), str(world), *arguments], env=environment(), cwd=ROOT) for rank in range(world)], patience)

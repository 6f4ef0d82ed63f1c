"""Runs of a few processes that talk through gloo, for tests: every rank calls one function of a module."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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


def call_on_ranks(function, *arguments: str, folder: Path, world: int = 2, timeout: float = 280) -> None:
    """Let `world` processes call `function(*arguments)`, a function of a module of tests; all must end well."""
    command = [sys.executable, "-c", _SCRIPT, function.__module__, function.__name__, str(folder / "meet")]
    running = [subprocess.Popen([*command, str(rank), str(world), *arguments], env=environment(), cwd=ROOT) for rank in range(world)]
    assert [p.wait(timeout=timeout) for p in running] == [0] * world

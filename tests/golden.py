"""Reading parity cases: weights and inputs that a formula makes."""
import importlib.util
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch


def load_fill(golden_root: Path):
    """Return the module that fills a published state dict by formula."""
    spec = importlib.util.spec_from_file_location("golden_fill", golden_root / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rnd(name: str, shape, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Return the case's random tensor called `name`."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    return torch.from_numpy((rng.standard_normal(tuple(shape)) * scale + shift).astype(np.float32))


def seeds_of(golden_root: Path, method: str, case: str) -> list[int]:
    """Return the seeds that a case may be made with: its own file's "seed", or both of the README's row "| case | 0 / 1000 ..."."""
    for path in sorted((golden_root / method / case).glob("case*.json")):
        about = json.loads(path.read_text())
        if "seed" in about:
            return [int(about["seed"])]
    readme = golden_root / method / "README.md"
    row = re.search(rf"^\|\s*{re.escape(case)}\s*\|\s*(\d+)\s*/\s*(\d+)", readme.read_text(), re.MULTILINE)
    assert row, f"{readme} must have a row '| {case} | seed / seed ...'"
    return [int(seed) for seed in row.groups()]


def matching_seed(seeds: Sequence[int], error: Callable[[int], float]) -> int:
    """Return the seed that the case was made with: the one whose error is smallest (another one's is hundreds of times larger)."""
    return min(seeds, key=error)


def stated(folder: Path, what: str) -> int:
    """Return the number that the README of a case states after the word `what` ("seed 0", "heads 3")."""
    found = re.search(rf"\b{re.escape(what)} (\d+)", (folder / "README.md").read_text())
    assert found, f"{folder / 'README.md'} must state {what!r} and a number"
    return int(found.group(1))

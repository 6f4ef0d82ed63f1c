"""The records of all processes on the main one, through files of plain arrays: no object is pickled, uneven and empty shards are fine."""
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch
from mmengine import dist

_LONGEST_PATH = 1024
OUTCOME = "outcome.json"


def write_records(path: Path, records: Sequence[dict]) -> None:
    """Write records of the same keys as one .npz of a few long arrays; values are integers, floats or arrays of one number of dimensions and dtype a key."""
    arrays: dict[str, np.ndarray] = {}
    for key in records[0] if records else ():
        values = [r[key] for r in records]
        if isinstance(values[0], np.ndarray):
            arrays[f"values/{key}"] = np.concatenate([v.ravel() for v in values])
            arrays[f"shapes/{key}"] = np.array([v.shape for v in values], dtype=np.int64)
        else:
            arrays[f"scalars/{key}"] = np.array(values)
    with path.open("wb") as file:
        np.savez(file, count=np.array(len(records)), **arrays)


def read_records(path: Path) -> list[dict]:
    """Return the records of a file that `write_records` wrote; scalars come back as Python's, arrays with their shapes."""
    with np.load(path, allow_pickle=False) as file:
        records: list[dict] = [{} for _ in range(int(file["count"]))]
        for name in file.files:
            kind, _, key = name.partition("/")
            if kind == "scalars":
                for record, value in zip(records, file[name].tolist()):
                    record[key] = value
            elif kind == "values":
                shapes = file[f"shapes/{key}"]
                ends = np.cumsum(shapes.prod(1, dtype=np.int64))
                for record, part, shape in zip(records, np.split(file[name], ends[:-1]), shapes):
                    record[key] = part.reshape(shape)
    return records


def in_order(parts: Sequence[Sequence[dict]], size: int) -> list[dict]:
    """Return the records of the processes as a data set shared out in turn had them, without what was padded past `size`."""
    missing = object()
    return [r for r in chain.from_iterable(zip_longest(*parts, fillvalue=missing)) if r is not missing][:size]


def evaluate_together(records: list[dict], size: int, compute: Callable[[list[dict]], dict[str, float]], folder: str | None = None) -> dict[str, float]:
    """Return, on every process, what `compute` makes of the records of all on the main one.

    With several processes the records go through files in a new folder below `folder` (default: the working directory), which all must
    see. An error of `compute` ends all of them, instead of leaving the others to wait.
    """
    rank, world = dist.get_dist_info()
    if world == 1:
        return compute(records[:size])
    shared = _shared_folder(folder, rank)
    write_records(shared / f"{rank}.npz", records)
    dist.barrier()
    failure: Exception | None = None
    if rank == 0:
        try:
            missing = [r for r in range(world) if not (shared / f"{r}.npz").is_file()]
            if missing:
                raise FileNotFoundError(f"{shared} must be seen by all processes, those of ranks {missing} wrote elsewhere; set collect_dir to a shared folder")
            outcome = {"metrics": compute(in_order([read_records(shared / f"{r}.npz") for r in range(world)], size))}
        except Exception as error:  # told to all below
            failure, outcome = error, {"error": f"{type(error).__name__}: {error}"}
        (shared / OUTCOME).write_text(json.dumps(outcome))
    dist.barrier()
    outcome = json.loads((shared / OUTCOME).read_text())
    dist.barrier()
    if rank == 0:
        shutil.rmtree(shared)
    if failure is not None:
        raise failure
    if "error" in outcome:
        raise RuntimeError(f"the main process could not compute the metric: {outcome['error']}")
    return outcome["metrics"]


def _shared_folder(folder: str | None, rank: int) -> Path:
    """Return a folder that the main process has made; the others are told its name."""
    name = torch.zeros(_LONGEST_PATH, dtype=torch.uint8)
    if rank == 0:
        base = Path(folder or ".").resolve()
        base.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=base, prefix=".gather_").encode()
        name[: len(made)] = torch.tensor(list(made), dtype=torch.uint8)
    dist.broadcast(name, 0)
    return Path(bytes(name.tolist()).rstrip(b"\0").decode())

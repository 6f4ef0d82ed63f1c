"""The tensors of a TorchScript archive (OpenAI's CLIP files), read as data: the program that is stored with them is never loaded.

Such an archive is a zip whose data.pkl rebuilds a tree of module objects. Here every class in it becomes an empty holder of
attributes; only tensors, and the containers around them, are made. Anything else is a ValueError.
"""
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovdense.compat.tensor_files import require_honest_zip

_DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "DoubleStorage": torch.float64, "LongStorage": torch.int64,
    "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "BFloat16Storage": torch.bfloat16,
}  # fmt: skip


class _Holder:
    """Stands for a module of the archive: takes any attributes, runs nothing."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if not size:
        return storage[offset].clone()
    need = offset + sum((n - 1) * s for n, s in zip(size, stride)) + 1 if 0 not in size else 0
    if need > len(storage) or offset < 0 or min(stride) < 0:
        raise ValueError(f"a tensor of size {size} must fit its {len(storage)} stored numbers")
    return storage.as_strided(size, stride, offset)


def _nothing(*_: Any) -> None:
    return None


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Holder
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _nothing if name == "restore_type_tag" else list
        raise ValueError(f"an archive of weights must hold tensors only, got {module}.{name}")

    def persistent_load(self, pid: tuple) -> Tensor:
        _, kind, key, _, count = pid
        data = self.archive.read(f"{self.folder}/data/{key}")
        return torch.frombuffer(bytearray(data), dtype=_DTYPES[kind]) if count else torch.empty(0, dtype=_DTYPES[kind])


def is_torchscript(path: Path) -> bool:
    """Return whether the file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist())


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of the archive by dotted name, as `torch.jit.load(path).state_dict()` has them (and plain tensor attributes)."""
    require_honest_zip(path)
    with zipfile.ZipFile(path) as archive:
        folder = next((name.partition("/")[0] for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")), None)
        if folder is None:
            raise ValueError(f"{path} must be a TorchScript archive with data.pkl")
        try:
            return dict(_walk(_Reader(archive, folder).load(), ""))
        except Exception as error:  # a broken pickle raises almost anything
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise ValueError(f"{path} could not be read as an archive of weights: {said}") from None


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Holder):
            yield from _walk(value, f"{prefix}{name}.")

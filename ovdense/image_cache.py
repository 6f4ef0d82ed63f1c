"""Features of the images that were looked at last, so that another question about the same image costs only the text and what follows it.

    predictor.remember_images()            # for interactive use: the web page, a notebook
    predictor("photo.jpg", ["cat"])
    predictor("photo.jpg", ["dog"])        # the backbone does not run again; the result is the same as without
"""
import dataclasses
import hashlib
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MIB = 2**20
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers of a float's size


class ImageFeatureCache:
    """What `encode_image` gave for the images that were asked about last: at most `max_images` of them and `max_mib` MiB; the oldest go first.

    Decoded and resized images are kept beside them, by the same two limits.

    The key is all that features depend on: the pixels as the model gets them, the model's weights, and the autocast type. Weights are told
    apart by where they lie, how often they were written to, and the sums of their bits, which takes milliseconds; parts that `encode_image` does not
    read (`OpenVocabModel.apart_from_images`) do not count. Features are not copied: who reads them must not write to them.
    """

    def __init__(self, *, max_mib: float = 512.0, max_images: int = 16) -> None:
        if max_mib <= 0 or max_images < 1:
            raise ValueError(f"there must be room for an image: max_mib above 0 and max_images at least 1, got {max_mib} and {max_images}")
        self.max_bytes, self.max_images = int(max_mib * _MIB), max_images
        self.hits = self.misses = 0
        self.seconds = 0.0  # spent on encoding images so far
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._prepared: OrderedDict[Any, tuple[Any, Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self._kept.values())

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self._prepared.clear()

    def features(self, model: nn.Module, images: Tensor, args: tuple[Any, ...]) -> Any:
        """Return `model.encode_image(images, *args)` for normalised images (B, 3, H, W), computed or remembered; `args` are told apart by their repr."""
        key = _key(model, images, args)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                return self._kept[key][0]
        began = time.perf_counter()
        found = model.encode_image(images, *args)
        spent = time.perf_counter() - began
        size = _num_bytes(found)
        with self._lock:
            self.misses += 1
            self.seconds += spent
            if size <= self.max_bytes:
                self._kept[key] = (found, size)
            while len(self._kept) > self.max_images or self.num_bytes > self.max_bytes:
                self._kept.popitem(last=False)
        return found

    def prepared(self, source: Any, prepare: Callable[[], Any], about: Any = None) -> Any:
        """Return what `prepare` makes of an image (decoded, resized), remembered where it cannot have changed.

        That is: a file of the same path, size and time of writing, or the same array, which must own its pixels and be read-only. `about`: what else
        the outcome depends on.
        """
        key = _identity(source)
        if key is None:
            return prepare()
        with self._lock:
            if (key, about) in self._prepared and self._prepared[key, about][0]() is not None:
                self._prepared.move_to_end((key, about))
                return self._prepared[key, about][1]
        made = prepare()
        alive = weakref.ref(source) if isinstance(source, np.ndarray) else bool  # a number of an array that has gone may come again
        with self._lock:
            self._prepared[key, about] = (alive, made, _num_bytes(made))
            while len(self._prepared) > self.max_images or sum(size for *_, size in self._prepared.values()) > self.max_bytes:
                self._prepared.popitem(last=False)
        return made


def _identity(source: Any) -> Any:
    """Return what an image is known by while it cannot change, None where it can."""
    if isinstance(source, np.ndarray):
        return ("array", id(source)) if source.flags.owndata and not source.flags.writeable else None
    if isinstance(source, str | Path):
        try:
            stat = Path(source).expanduser().stat()
        except OSError:
            return None
        return ("file", str(Path(source).expanduser().absolute()), stat.st_size, stat.st_mtime_ns)
    return None


def _key(model: nn.Module, images: Tensor, args: tuple[Any, ...]) -> bytes:
    digest = hashlib.blake2b(digest_size=20)
    device = images.device.type
    about = (tuple(images.shape), images.dtype, str(images.device), args, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
    digest.update(repr(about).encode())
    digest.update(images.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(_stamp(model))
    return digest.digest()


def _stamp(model: nn.Module) -> bytes:
    """Return what tells apart the weights that images are encoded with."""
    digest = hashlib.blake2b(f"{id(model)}".encode(), digest_size=20)
    sums, about = [], []
    for tensor in _image_tensors(model, getattr(model, "apart_from_images", ())):
        about.append((tensor.data_ptr(), tensor._version, tuple(tensor.shape), str(tensor.dtype)))
        sums.append(_bit_sum(tensor.detach()))
    digest.update(repr(about).encode())
    if sums:
        digest.update(torch.stack([s.to(sums[0]) for s in sums]).cpu().numpy())
    return digest.digest()


def _image_tensors(model: nn.Module, apart: Sequence[str]) -> Iterator[Tensor]:
    """Yield parameters and buffers, those of the parts named in `apart` (paths with dots) left out."""
    yield from _held(model)
    for name, part in model.named_children():
        inner = [path.removeprefix(f"{name}.") for path in apart if path.startswith(f"{name}.")]
        if inner:
            yield from _image_tensors(part, inner)
        elif name not in apart:
            for module in part.modules():
                yield from _held(module)


def _held(module: nn.Module) -> Iterator[Tensor]:
    for tensors in (module._parameters, module._buffers):
        yield from (tensor for tensor in tensors.values() if tensor is not None)


def _bit_sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bit patterns, which any single change changes, and which costs less than a sum of floats in double precision."""
    kind = _BITS.get(tensor.element_size()) if tensor.is_floating_point() else None
    return tensor.sum(dtype=torch.int64) if kind is None else tensor.view(kind).sum(dtype=kind)


def _num_bytes(value: Any) -> int:
    """Return the bytes of the tensors and arrays inside lists, tuples, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(_num_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0

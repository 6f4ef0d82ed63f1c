"""A frozen encoder that remembers: what an image that comes back in training gave is not computed twice.

Worth it where few images are seen for many epochs on a slow machine, with augmentations that repeat (a flip).
"""
import hashlib
from collections.abc import Callable, Sequence

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.feature_files import FeatureFiles
from ovdense.compat.weights import call_after_load
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap

_GIB = 2**30


class ImageMemory:
    """Up to `max_gib` GiB of what an `encoder` gave for images, in the machine's memory; when it is full, what came first stays.

    The key is the content of the normalised image and its size, so nothing else has to be known about it. Everything is
    computed image by image and rounded to float16, remembered or not: a run that starts with an empty memory (after a
    resume) sees the same numbers. `on_disk` keeps it in the cache folder as well (`compat.feature_files`), under a hash of the
    encoder's weights and `about`: another run reads it.
    """

    def __init__(self, encoder: nn.Module, *, max_gib: float = 2.0, on_disk: bool = False, about: str = "") -> None:
        self.max_gib, self.on_disk, self.about = max_gib, on_disk, about
        self._encoder = (encoder,)  # not a part of this module
        self.forget()

    def forget(self) -> None:
        """Drop everything: the encoder has other weights now."""
        self.kept: dict[bytes, list[Tensor]] = {}
        self._room, self._files = int(self.max_gib * _GIB), None

    @torch.no_grad()
    def recall(self, images_BCHW: Tensor, compute: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        """Return the tensors that `compute` gives for each image (1, C, H, W), stacked over the batch."""
        rows = [self._of_image(image, compute) for image in images_BCHW]
        return [torch.stack([tensor.to(images_BCHW) for tensor in column]) for column in zip(*rows)]

    def _of_image(self, image: Tensor, compute: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        content = image.detach().cpu().contiguous()
        key = hashlib.sha1(repr(tuple(content.shape)).encode() + content.numpy().tobytes(), usedforsecurity=False).digest()
        if key not in self.kept:
            found = self._disk().get(key) if self.on_disk else None
            if found is None:
                with torch.autocast(image.device.type, enabled=False):
                    found = [tensor[0].half().cpu().contiguous() for tensor in compute(image[None].float())]
                if self.on_disk:
                    self._disk().put(key, found)
            size = sum(f.nbytes for f in found)
            if size > self._room:
                return found
            self._room -= size
            self.kept[key] = found
        return self.kept[key]

    def _disk(self) -> FeatureFiles:
        if self._files is None:
            encoder = self._encoder[0]
            digest = hashlib.sha256(f"{type(encoder).__name__} {self.about}".encode())
            for name, value in encoder.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            self._files = FeatureFiles(digest.hexdigest())
        return self._files


@MODELS.register_module()
class RememberingBackbone(nn.Module):
    """Wrap a wholly frozen `backbone`; in training, its features are kept (`ImageMemory`: `max_gib`, `on_disk`). Test time passes through."""

    def __init__(self, backbone: dict | nn.Module, *, max_gib: float = 2.0, on_disk: bool = False) -> None:
        super().__init__()
        self.backbone = backbone if isinstance(backbone, nn.Module) else build_from_cfg(backbone, MODELS)
        trained = [n for n, p in self.backbone.named_parameters() if p.requires_grad]
        if trained:
            raise ValueError(
                f"only a wholly frozen backbone can be remembered, but {len(trained)} parameters are trained, the first: {trained[0]}; raise frozen_stages"
            )
        self.channels, self.strides = self.backbone.channels, self.backbone.strides
        self.mean, self.std = self.backbone.mean, self.backbone.std
        self.memory = ImageMemory(self.backbone, max_gib=max_gib, on_disk=on_disk, about=f"{self.strides} {self.backbone!r}")  # eps and the like
        call_after_load(self, "forget")

    def forget(self) -> None:
        """Drop all features: the backbone has other weights now."""
        self.memory.forget()

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return the backbone's features of normalised images.

        In training each image is read without the padding that its batch gave it (up to the coarsest stride), so that it is found again in
        any batch; its maps are padded with zeros. Where images are padded this differs from a pass over the padded batch, at the borders.
        """
        if not self.training:
            return self.backbone(images_BCHW)
        rows = [self._of_image(image) for image in images_BCHW]
        sizes = [tuple(-(-side // stride) for side in images_BCHW.shape[-2:]) for stride in self.strides]
        levels = [torch.stack([padded_map(row[n], size) for row in rows]) for n, size in enumerate(sizes)]
        return [FeatureMap(tensor_BCHW=level, stride=s) for level, s in zip(levels, self.strides)]

    def _of_image(self, image_CHW: Tensor) -> list[Tensor]:
        levels = self.memory.recall(without_batch_padding(image_CHW, self.strides[-1])[None], lambda image: [f.tensor_BCHW for f in self.backbone(image)])
        return [level[0] for level in levels]


def without_batch_padding(image_CHW: Tensor, multiple: int) -> Tensor:
    """Return the image without the zeros that its batch added to it, its sides rounded up to multiples of `multiple` as far as it goes."""
    height, width = (-(-n // multiple) * multiple for n in unpadded_size(image_CHW))
    return image_CHW[:, :height, :width]


def unpadded_size(image_CHW: Tensor) -> tuple[int, int]:
    """Return height and width up to the last row and column that are not all exactly zero, what padding is; at least 1."""
    there_HW = (image_CHW != 0).any(0)
    last = [int(lines.nonzero()[-1]) + 1 if bool(lines.any()) else 1 for lines in (there_HW.any(1), there_HW.any(0))]
    return last[0], last[1]


def padded_map(map_CHW: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Return the map with zeros right and below, up to `size_hw`."""
    return F.pad(map_CHW, (0, size_hw[1] - map_CHW.shape[2], 0, size_hw[0] - map_CHW.shape[1]))

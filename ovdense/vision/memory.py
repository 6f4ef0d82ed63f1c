"""A frozen backbone that remembers: the features of an image that comes back in training are not computed twice.

Worth it where few images are seen for many epochs on a slow machine, with augmentations that repeat (a flip).
"""
import hashlib

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.compat.feature_files import FeatureFiles
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap

_GIB = 2**30


@MODELS.register_module()
class RememberingBackbone(nn.Module):
    """Wrap a wholly frozen `backbone`; in training, keep up to `max_gib` GiB of its features in the machine's memory.

    The key is the content of the normalised image and its size, so nothing else has to be known about it. Features are
    computed image by image and rounded to float16, remembered or not: a run that starts with an empty memory (after a
    resume) sees the same numbers. When the memory is full, what came first stays. Test time passes through.
    `on_disk` keeps them in the cache folder as well (`compat.feature_files`), under a hash of the weights: another run reads them.
    """

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
        self._room = int(max_gib * _GIB)
        self._features: dict[bytes, list[Tensor]] = {}
        self._max_bytes = self._room
        self._on_disk, self._files = on_disk, None
        self.register_load_state_dict_post_hook(lambda module, keys: module.forget())

    def forget(self) -> None:
        """Drop all features: the backbone has other weights now."""
        self._features, self._room, self._files = {}, self._max_bytes, None

    def _disk(self) -> FeatureFiles:
        if self._files is None:
            digest = hashlib.sha256(repr((type(self.backbone).__name__, self.strides)).encode())
            for name, value in self.backbone.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            self._files = FeatureFiles(digest.hexdigest())
        return self._files

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return the backbone's features of normalised images."""
        if not self.training:
            return self.backbone(images_BCHW)
        rows = [self._recall(image) for image in images_BCHW]
        return [FeatureMap(tensor_BCHW=torch.stack([f.to(images_BCHW) for f in level]), stride=s) for level, s in zip(zip(*rows), self.strides)]

    @torch.no_grad()
    def _recall(self, image: Tensor) -> list[Tensor]:
        content = image.detach().cpu().contiguous()
        key = hashlib.sha1(repr(tuple(content.shape)).encode() + content.numpy().tobytes(), usedforsecurity=False).digest()
        if key not in self._features:
            features = self._disk().get(key) if self._on_disk else None
            if features is None:
                features = self._compute(image)
                if self._on_disk:
                    self._disk().put(key, features)
            size = sum(f.nbytes for f in features)
            if size > self._room:
                return features
            self._room -= size
            self._features[key] = features
        return self._features[key]

    def _compute(self, image: Tensor) -> list[Tensor]:
        with torch.autocast(image.device.type, enabled=False):
            return [f.tensor_BCHW[0].half().cpu().contiguous() for f in self.backbone(image[None].float())]

"""Local vectors for any backbone: by a learned attention pool, or from a frozen dual encoder beside it.

CLIP's towers have vectors in the text's space of their own (`vision/clip.py`); these two give them to others.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovdense.compat.weights import call_after_load
from ovdense.heads.segment import resized
from ovdense.methods.base import built
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap
from ovdense.vision.clip import dense_attention_pool, new_attention_pool
from ovdense.vision.dense import DenseImageEncoder
from ovdense.vision.dense_features import DenseFeatures
from ovdense.vision.memory import ImageMemory, padded_map, without_batch_padding
from ovdense.vision.positions import FitPositions


@MODELS.register_module()
class PooledBackbone(nn.Module):
    """Any backbone with a learned attention pool over its last map: DenseCLIP without CLIP's image tower (arXiv 2112.01518, Sec. 3.4).

    `embed_width`: width of the text's space; `heads` must divide the last map's channels; `table_size`: side of the table of positions.
    """

    def __init__(self, backbone: dict | nn.Module, *, embed_width: int, heads: int = 32, table_size: int = 16, positions: FitPositions = "interpolate") -> None:
        super().__init__()
        self.backbone = built(backbone)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        self.channels, self.strides = self.backbone.channels, self.backbone.strides
        if self.channels[-1] % heads:
            raise ValueError(f"heads must divide the last map's {self.channels[-1]} channels, got {heads}")
        self.embed_width, self.positions = embed_width, positions
        self.attnpool = new_attention_pool(table_size, self.channels[-1], heads, embed_width)

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        return self.backbone(images_BCHW)

    def dense(self, images_BCHW: Tensor) -> DenseFeatures:
        """Return the maps with the pool's vectors."""
        maps = self(images_BCHW)
        pooled_BC, local_BCHW = dense_attention_pool(self.attnpool, maps[-1].tensor_BCHW, self.positions)
        return DenseFeatures(maps=tuple(maps), global_BC=pooled_BC, local=FeatureMap(tensor_BCHW=local_BCHW, stride=self.strides[-1]))


class PairedBackbone(nn.Module):
    """Maps of one backbone, vectors of a frozen dense encoder, resized to the map of `stride` (bilinear).

    In training they are those of each image without the padding that its batch gave it, up to the coarsest stride, as they are at test time; beyond it
    they are zero. Where the backbone remembers (`RememberingBackbone`), so do they.
    """

    def __init__(self, backbone: nn.Module, places: DenseImageEncoder, *, stride: int) -> None:
        super().__init__()
        if (places.mean, places.std) != (backbone.mean, backbone.std):
            raise ValueError(f"both encoders must want the same mean and std, got {places.mean}, {places.std} and {backbone.mean}, {backbone.std}")
        if stride not in backbone.strides:
            raise ValueError(f"stride must be one of the backbone's {backbone.strides}, got {stride}")
        self.backbone, self.places, self.stride = backbone, places, stride
        self.mean, self.std, self.channels, self.strides = backbone.mean, backbone.std, backbone.channels, backbone.strides
        self.embed_width = places.width
        memory = getattr(backbone, "memory", None)
        self.memory = None
        if memory is not None:
            self.memory = ImageMemory(places, max_gib=memory.max_gib, on_disk=memory.on_disk, about=places.fingerprint())
        call_after_load(self, "forget")

    def forget(self) -> None:
        """Drop what is remembered: the encoder has other weights now."""
        if self.memory is not None:
            self.memory.forget()

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        return self.backbone(images_BCHW)

    def dense(self, images_BCHW: Tensor) -> DenseFeatures:
        """Return the maps with the places' vectors."""
        maps = self(images_BCHW)
        size_hw = maps[self.strides.index(self.stride)].tensor_BCHW.shape[2:]
        if self.training:
            local_BCHW, global_BC = (torch.stack(rows) for rows in zip(*(self._of_image(image, size_hw) for image in images_BCHW)))
        else:
            local_BCHW, global_BC = self._vectors(images_BCHW)
        return DenseFeatures(maps=tuple(maps), global_BC=global_BC, local=FeatureMap(tensor_BCHW=resized(local_BCHW, size_hw), stride=self.stride))

    def _of_image(self, image_CHW: Tensor, size_hw: Sequence[int]) -> tuple[Tensor, Tensor]:
        image_1CHW = without_batch_padding(image_CHW, self.strides[-1])[None]
        local_1CHW, global_1C = self.memory.recall(image_1CHW, self._vectors) if self.memory else self._vectors(image_1CHW)
        own_hw = [-(-side // self.stride) for side in image_1CHW.shape[2:]]
        return padded_map(resized(local_1CHW, own_hw)[0], size_hw), global_1C[0]

    @torch.no_grad()
    def _vectors(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        local, global_BC = self.places.encode_places(images_BCHW)
        return local.tensor_BCHW, global_BC

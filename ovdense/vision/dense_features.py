"""What a dense vision-language encoder gives for an image: maps for a pyramid, and vectors in the text's space.

B images, C width of the text's space.
"""
from dataclasses import dataclass

from torch import Tensor

from ovdense.structures import FeatureMap


@dataclass(frozen=True, kw_only=True)
class DenseFeatures:
    """`maps` finest first; `global_BC` one vector an image and `local` one a place (B, C, h, w), neither of unit length."""

    maps: tuple[FeatureMap, ...]
    global_BC: Tensor
    local: FeatureMap

    def __post_init__(self) -> None:
        batch, width = self.local.tensor_BCHW.shape[:2]
        if self.global_BC.shape != (batch, width):
            raise ValueError(f"global_BC must have shape {(batch, width)}, as the local vectors, got {tuple(self.global_BC.shape)}")

    @property
    def level(self) -> int:
        """Return the index of the map that has the stride of the local vectors."""
        return [m.stride for m in self.maps].index(self.local.stride)

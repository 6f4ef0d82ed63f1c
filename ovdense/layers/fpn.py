"""Feature pyramid on top of a backbone's maps (arXiv 1612.03144; P6 and P7 as in arXiv 1708.02002)."""
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.registry import MODELS
from ovdense.structures import FeatureMap


@MODELS.register_module()
class FeaturePyramid(nn.Module):
    """Turn C3..C5 into P3..P(3 + num_extra + len - 1), all with `out_channels`.

    Top-down steps are nearest-neighbour, as in the releases of GLIP and DesCo. Each extra level is a stride-2
    convolution of the one before; the first takes P5, the later ones a rectified input.
    """

    def __init__(self, in_channels: Sequence[int], *, out_channels: int = 256, num_extra: int = 2) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) for _ in range(num_extra))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)
        self.out_channels = out_channels

    def forward(self, features: Sequence[FeatureMap]) -> list[FeatureMap]:
        """Return the pyramid, finest first; `features` finest first, as many as `in_channels`."""
        if len(features) != len(self.lateral):
            raise ValueError(f"the pyramid was built for {len(self.lateral)} feature maps, got {len(features)}")
        merged: Tensor | None = None
        maps: list[Tensor] = []
        for feature, lateral, output in zip(reversed(features), reversed(self.lateral), reversed(self.output)):
            side = lateral(feature.tensor_BCHW)
            merged = side if merged is None else side + F.interpolate(merged, size=side.shape[-2:], mode="nearest")
            maps.insert(0, output(merged))
        strides = [f.stride for f in features]
        for i, conv in enumerate(self.extra):
            maps.append(conv(maps[-1] if i == 0 else F.relu(maps[-1])))
            strides.append(strides[-1] * 2)
        return [FeatureMap(tensor_BCHW=t, stride=s) for t, s in zip(maps, strides)]

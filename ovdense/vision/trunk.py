"""The last feature map of a timm classifier, just before it is pooled: what its classifier sees, place by place."""
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap
from ovdense.vision.embedded import embedded_state_dict


@MODELS.register_module()
class TimmTrunk(nn.Module):
    """timm's `forward_features` as a backbone of one map, frozen: for an EfficientNet the 1,280 channels after its last convolution.

    `weights`: "embedded" (they come with pip, see `vision/embedded.py`), a path with timm's names, or None for random ones.
    """

    def __init__(self, name: str = "tf_efficientnet_lite0", *, weights: str | Path | None = "embedded") -> None:
        super().__init__()
        self.net = timm.create_model(name, pretrained=False)
        if weights == "embedded":
            self.net.load_state_dict(embedded_state_dict(name, self.net))
        elif weights is not None:
            load_checked(self.net, read_state_dict(weights), str(weights), may_miss=lambda key: key.startswith(("classifier", "fc", "head")))
        with torch.no_grad():
            probe = self.net.eval().forward_features(torch.zeros(1, 3, 64, 64))
        if probe.ndim != 4:
            raise ValueError(f"name must be a convolutional classifier of timm, but {name!r} gives shape {tuple(probe.shape)}; see VitBackbone")
        self.net.reset_classifier(0)
        config = timm.get_pretrained_cfg(name)
        self.mean, self.std = (tuple(round(255 * v, 3) for v in values) for values in (config.mean, config.std))
        self.channels, self.strides = (probe.shape[1],), (64 // probe.shape[2],)
        self.requires_grad_(False).train(False)

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return one FeatureMap of normalised images."""
        return [FeatureMap(tensor_BCHW=self.net.forward_features(images_BCHW), stride=self.strides[0])]

    def train(self, mode: bool = True) -> "TimmTrunk":
        """Stay in evaluation mode."""
        return super().train(False)

"""A method of one's own in 80 lines: label maps by the colour words of the classes ("a red chair": where is it red?).

Text and pixels meet in one space, that of colours, so that the shared head does the rest. Nothing is trained.
"""
import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.heads.similarity import pool_rows, row_logits
from ovdense.methods.dense_model import TrainingFreeSegmenter
from ovdense.registry import MODELS
from ovdense.structures import ClassBank, FeatureMap, Vocabulary

COLOURS = {  # RGB in 0..1
    "red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9), "yellow": (0.95, 0.9, 0.1), "orange": (1.0, 0.55, 0.0),
    "purple": (0.55, 0.1, 0.7), "brown": (0.45, 0.3, 0.15), "black": (0.0, 0.0, 0.0), "grey": (0.5, 0.5, 0.5), "white": (1.0, 1.0, 1.0),
}


def colour_vector(rgb: Tensor, grey_weight: float) -> Tensor:
    """Return unit vectors (..., 4) of colours (..., 3) in 0..1: what is off the middle, and a constant, so that grey has a direction too."""
    return F.normalize(torch.cat([rgb - 0.5, torch.full_like(rgb[..., :1], grey_weight)], dim=-1), dim=-1)


def colours_said(name: str) -> list[str]:
    """Return the colour words of a class's name; ValueError where there is none."""
    said = [word for word in name.casefold().replace("_", " ").split() if word in COLOURS]
    if not said:
        raise ValueError(f"every class must say a colour ({', '.join(COLOURS)}), {name!r} says none; ask for 'a red {name}'")
    return said


@MODELS.register_module()
class ColourWords(TrainingFreeSegmenter):
    """The class whose colour is most like the pixel's. `stride`: side in pixels of the squares whose mean colour is compared."""

    def __init__(self, *, stride: int = 4, grey_weight: float = 0.3) -> None:
        super().__init__(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))  # images come in 0..1
        if stride < 1 or grey_weight <= 0:
            raise ValueError(f"stride must be at least 1 and grey_weight positive, got {stride} and {grey_weight}")
        self.stride, self.grey_weight = stride, grey_weight

    def encode_image(self, images: Tensor) -> FeatureMap:
        """Return (B, 4, h, w), a unit vector a square; called once an image."""
        mean = F.avg_pool2d(images, self.stride, ceil_mode=True, count_include_pad=False)
        unit = colour_vector(mean.permute(0, 2, 3, 1), self.grey_weight)
        return FeatureMap(tensor_BCHW=unit.permute(0, 3, 1, 2), stride=self.stride)

    def encode_text(self, vocabulary: Vocabulary) -> ClassBank:
        """Return a row for each colour word of each class; called once a vocabulary."""
        rows, owner = [], []
        for k, entry in enumerate(vocabulary):
            for word in colours_said(entry.noun):
                rows.append(colour_vector(torch.tensor(COLOURS[word]), self.grey_weight))
                owner.append(k)
        background_K = torch.tensor([entry.is_background for entry in vocabulary])
        return ClassBank(rows_MD=torch.stack(rows), class_of_row_M=torch.tensor(owner), num_classes=len(vocabulary), background_K=background_K)

    def score(self, features: FeatureMap, text: ClassBank) -> Tensor:
        """Return (K, h, w) of one image: the cosine with the best of each class's rows."""
        unit_HWD = features.tensor_BCHW[0].permute(1, 2, 0)
        return pool_rows(row_logits(unit_HWD, text, 1.0), text).permute(2, 0, 1)

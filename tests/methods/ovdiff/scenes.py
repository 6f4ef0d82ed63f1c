"""Pictures of coloured boxes, an extractor that is right about them by construction, and the segmenter on them."""
import numpy as np
import torch

from ovdense.methods.ovdiff.model import OVDiff
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.vision.extractors import FeatureExtractor

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 230)}
GREY = (128, 128, 128)
VOCABULARY = Vocabulary((ClassEntry(name="background", is_background=True), *(ClassEntry(name=n) for n in COLOURS)))


class MeanColours(FeatureExtractor):
    """Colour less grey, of cells of 4 pixels: features that are right by construction."""

    calls = 0

    def features(self, image_BCHW):
        type(self).calls += 1
        pooled = torch.nn.functional.avg_pool2d(image_BCHW, 4) - 0.5
        return torch.cat([pooled, torch.full_like(pooled[:, :1], 0.05)], 1)

    def settings(self):
        return {}


def scene(boxes, size=(64, 80)):
    """Return a grey picture (H, W, 3) with coloured boxes, and its true label map."""
    image, label = np.full((*size, 3), GREY, np.uint8), np.zeros(size, np.int64)
    for name, (y1, x1, y2, x2) in boxes.items():
        image[y1:y2, x1:x2] = COLOURS[name]
        label[y1:y2, x1:x2] = VOCABULARY.index(name)
    return image, label


def model_of(support, tmp_path, **kwargs):
    settings = dict(extractors=[MeanColours()], prototypes=dict(num_parts=2), test=dict(crops=((48, 24),)), prototype_folder=tmp_path / "prototypes")
    return OVDiff(support=support, **{**settings, **kwargs})


def predict(model, *images, vocabulary=VOCABULARY, pad=0):
    model.set_vocabulary(vocabulary)
    targets = [ImageTarget(image_id=n, file_name="", size_hw=i.shape[:2], original_size_hw=i.shape[:2], boxes_xyxy=torch.zeros(0, 4),
                           labels=torch.zeros(0, dtype=torch.int64)) for n, i in enumerate(images)]
    data = model.data_preprocessor({"images": [torch.from_numpy(i.transpose(2, 0, 1).copy()) for i in images], "targets": targets})
    return [r.label_map_HW.numpy() for r in model.predict(torch.nn.functional.pad(data["images"], (0, pad, 0, pad)), targets)]

"""What was found in one image, with the image: to look at, to cut out, to save, to hand on."""
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovdense import structures
from ovdense.compat.atomic import replace_file
from ovdense.compat.images import ImageLike, load_image, write_picture

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class Results(structures.Results):
    """The detections, or the label map, of one image: what `ovdense.load(...)(image, texts)` returns.

    Detections, best first: `boxes_xyxy` (N, 4) in pixels of the upright image (x2 = x1 + width), `scores` (N,) in 0..1, `labels` (N,), which index
    `names`, and `masks_NHW` (N, H, W) bool where there are masks. A segmenter's answer is `label_map_HW` (H, W) int64 instead, and no boxes.
    `source` is the image itself: a path, an array or a PIL image; `background`: the names that are background.

    >>> import numpy as np, torch
    >>> found = Results(boxes_xyxy=torch.tensor([[10.0, 20, 60, 80]]), scores=torch.tensor([0.9]), labels=torch.tensor([1]),
    ...                 names=("dog", "cat"), size_hw=(96, 128), source=np.zeros((96, 128, 3), np.uint8))
    >>> len(found), found.phrases, found.crop()[0].shape
    (1, ('cat',), (60, 50, 3))
    >>> found.to_coco()[0]["bbox"]
    [10.0, 20.0, 50.0, 60.0]
    """

    source: ImageLike | None = field(default=None, compare=False, repr=False)
    background: tuple[str, ...] = ("background",)

    @property
    def image(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8 RGB, read again where it is a file; ValueError if it did not come along or has changed its size."""
        if self.source is None:
            raise ValueError("these results do not know their image; give it when they are made: source=")
        image = load_image(self.source)
        if image.shape[:2] != tuple(self.size_hw):
            raise ValueError(f"the image must be of {self.size_hw[0]} x {self.size_hw[1]} (height x width) as it was, got {image.shape[:2]}; has it changed?")
        return image

    @property
    def file_name(self) -> str:
        """Return the name of the image's file, "" for an image that came without one."""
        if isinstance(self.source, str | Path):
            return Path(self.source).name
        return Path(getattr(self.source, "filename", "") or "").name

    @property
    def phrases(self) -> tuple[str, ...]:
        """Return the class name, or the caption's phrase, of each detection; of a label map those of the classes that it holds."""
        if self.label_map_HW is not None:
            return tuple(self.names[k] for k in self.label_map_HW.unique().tolist() if self.names[k] not in self.background)
        return tuple(self.names[k] for k in self.labels.tolist())

    def draw(self, *, score_thr: float = 0.0, max_labels: int = 40) -> np.ndarray:
        """Return the image with what was found drawn on it, (H, W, 3) uint8 RGB; small images are enlarged (see `drawing.draw_results`)."""
        from ovdense.drawing import draw_label_map, draw_results

        if self.label_map_HW is not None:
            return draw_label_map(self.image, self.label_map_HW.cpu().numpy(), self.names, background=self.background, max_labels=max_labels)
        return draw_results(self.image, self, score_thr=score_thr, max_labels=max_labels)

    def show(self, *, score_thr: float = 0.0) -> None:
        """Show the drawn image: in a notebook below the cell, else in the system's image viewer."""
        picture = Image.fromarray(self.draw(score_thr=score_thr))
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            picture.show()
            return
        display(picture) if get_ipython() is not None else picture.show()

    def save(self, path: str | Path, *, score_thr: float = 0.0) -> Path:
        """Write the drawn image (.jpg, .png, .webp) or what was found (.json, COCO's form) and return the path; missing folders are made.

        ValueError where the path is the image's own: it would be lost.
        """
        path = Path(path).expanduser()
        suffix = path.suffix.lower()
        if suffix not in (*PICTURES, ".json"):
            raise ValueError(f"results are saved as a picture ({', '.join(PICTURES)}) or as .json, got {path.name!r}")
        own = Path(self.source).expanduser() if isinstance(self.source, str | Path) else None
        if own is not None and own.exists() and path.exists() and path.samefile(own):
            raise ValueError(f"what was found must be saved beside the image, not over it, got {path}; give another name")
        if suffix == ".json":
            return replace_file(path, json.dumps(coco_content([self.above(score_thr)]), indent=1, ensure_ascii=False))
        return write_picture(path, self.draw(score_thr=score_thr), quality=92)

    def crop(self, *, margin: float = 0.0, score_thr: float = 0.0) -> list[np.ndarray]:
        """Return what lies in each box, best first, cut out of the image; `margin` widens it on every side by a share of the box.

        Of a label map: what lies in the box of each class that it holds, in the order of `phrases`. A box that lies outside the image has no pixels.
        """
        image, (height, width) = self.image, self.size_hw
        boxes = self.above(score_thr).boxes_xyxy.tolist() if self.label_map_HW is None else [_box_of(m) for _, m in self._regions()]
        cut = []
        for x1, y1, x2, y2 in boxes:
            dx, dy = margin * (x2 - x1), margin * (y2 - y1)
            left, right = (int(np.clip(v, 0, width)) for v in (np.floor(x1 - dx), np.ceil(x2 + dx)))
            top, bottom = (int(np.clip(v, 0, height)) for v in (np.floor(y1 - dy), np.ceil(y2 + dy)))
            cut.append(image[top:bottom, left:right].copy())
        return cut

    def _regions(self) -> list[tuple[int, np.ndarray]]:
        """Return (class, its pixels) of a label map, background left out."""
        label = self.label_map_HW.cpu().numpy()
        return [(k, label == k) for k in np.unique(label).tolist() if self.names[k] not in self.background]

    def to_coco(self) -> list[dict[str, Any]]:
        """Return COCO's result form: one dict a detection with xywh box and score, masks as compressed RLE.

        Of a label map: one dict a class that it holds, background left out, with its box and its pixels; without a score.
        """
        if self.label_map_HW is None:
            return super().to_coco()
        from pycocotools import mask as coco_mask

        rows = []
        for k, region in self._regions():
            rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
            x1, y1, x2, y2 = _box_of(region)
            rows.append({"image_id": self.image_id, "category_id": k, "category_name": self.names[k], "bbox": [x1, y1, x2 - x1, y2 - y1],
                         "area": int(region.sum()), "segmentation": {"size": list(region.shape), "counts": rle["counts"].decode("ascii")}})  # fmt: skip
        return rows

    def to_supervision(self) -> Any:
        """Return roboflow's `supervision.Detections` (needs `pip install "ovdense[supervision]"`), class names under `data["class_name"]`.

        Of a label map: one detection a class that it holds, with its mask; confidence is None.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError('supervision must be installed for this; run: pip install "ovdense[supervision]"') from error
        if self.label_map_HW is not None:
            regions = self._regions()
            boxes = np.array([_box_of(m) for _, m in regions], dtype=np.float32).reshape(-1, 4)
            labels, scores = np.array([k for k, _ in regions], dtype=np.int64), None
            masks = np.stack([m for _, m in regions]) if regions else None
        else:
            boxes, scores = (v.float().cpu().numpy() for v in (self.boxes_xyxy, self.scores))
            labels, masks = self.labels.cpu().numpy(), None if self.masks_NHW is None else self.masks_NHW.cpu().numpy()
        return Detections(xyxy=boxes, mask=masks, confidence=scores, class_id=labels, data={"class_name": np.array([self.names[k] for k in labels], dtype=str)})

    def to_labelme(self) -> dict[str, Any]:
        """Return LabelMe's JSON of the image, to be corrected there: boxes as rectangles, masks and the regions of a label map as masks.

        Write it beside the picture, under its name with .json; `imagePath` is the picture's file name.
        """
        from ovdense.interchange import record_of_results, to_labelme

        return to_labelme(record_of_results(self, self.file_name))

    def to(self, device: torch.device | str) -> "Results":
        """Return the results with their tensors on `device`."""
        fields = ("boxes_xyxy", "scores", "labels", "masks_NHW", "label_map_HW")
        return replace(self, **{k: None if (v := getattr(self, k)) is None else v.to(device) for k in fields})


def _box_of(region: np.ndarray) -> tuple[float, float, float, float]:
    """Return the xyxy box of an (H, W) bool mask with at least one pixel."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def of_image(found: structures.Results, source: ImageLike | None, background: Sequence[str]) -> Results:
    """Return a model's results on the CPU, with the image that they are of."""
    fields = {name: getattr(found, name) for name in structures.Results.__dataclass_fields__}
    on_cpu = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in fields.items()}
    return Results(**on_cpu, source=source, background=tuple(background))


def coco_content(results: Sequence[Results], info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return COCO's annotation form of the results of several images that share their names: images, annotations with scores, categories."""
    images, annotations = [], []
    for image_id, found in enumerate(results, start=1):
        images.append({"id": image_id, "file_name": found.file_name, "height": int(found.size_hw[0]), "width": int(found.size_hw[1])})
        annotations += [{"id": len(annotations) + n, **row, "image_id": image_id} for n, row in enumerate(found.to_coco(), start=1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(results[0].names)] if results else []
    return {"info": info or {}, "images": images, "annotations": annotations, "categories": categories}

"""Segment Anything (arXiv 2304.02643) by the package segment-anything: masks for boxes of any detector, refinement of any label map.

The image encoder runs once an image (the last few are kept), the small mask decoder once a batch of boxes. Boxes are xyxy in pixels of the
image (H, W, 3), which is uint8 RGB; masks are bool at its size.
"""
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.structures import Results

SIZES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # width of the image encoder -> published model
FILES = {"vit_b": "sam_vit_b_01ec64.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_h": "sam_vit_h_4b8939.pth"}
MOST_NUMBERS = 32 * 2**20  # of mask logits at the image's size held at a time
MOST_BOXES = 64
SURE = 8.0  # logit of a region that is given as mask prompt, as sure as SAM's own masks are
SAME_REGION_IOU = 0.5
LEAST_SHARE = 0.001  # of the image's pixels: smaller regions are left as they are


def load_sam(weights: str | Path, device: str | torch.device | None = None) -> nn.Module:
    """Return the network of a published file, vit_b, vit_l or vit_h by the shapes in it; nothing in the file can run code.

    ImportError when the package is missing; FileNotFoundError or ValueError says what the file must be.
    """
    registry = _package().sam_model_registry
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"SAM's weights must be a local file, got {path}; nothing is fetched: take {', '.join(FILES.values())} from "
                                "github.com/facebookresearch/segment-anything")
    state = read_state_dict(path)
    positions = state.get("image_encoder.pos_embed")
    kind = None if positions is None or positions.ndim != 4 else SIZES.get(positions.shape[-1])
    if kind is None:
        got = "no image_encoder.pos_embed" if positions is None else f"image_encoder.pos_embed of shape {tuple(positions.shape)}"
        raise ValueError(f"{path} must be a published file of SAM ({', '.join(FILES.values())}), got {got}")
    network = registry[kind]()
    load_checked(network, state, str(path))
    if device is None:
        from mmengine.device import get_device

        device = get_device()
    return network.to(device).eval()


def _package() -> Any:
    try:
        import segment_anything
    except ImportError as error:
        raise ImportError('masks by SAM need the package segment-anything; run: pip install "ovdense[sam]"') from error
    return segment_anything


class _Embedded(NamedTuple):
    """What the image encoder gave for one image, and the sizes (h, w) of its input and of the file."""

    features: Tensor
    input_hw: tuple[int, int]
    size_hw: tuple[int, int]


class SamMasks:
    """Masks by SAM: `sam(image, results)` gives detections masks, and refines a label map.

    `weights`: a published file (see `load_sam`), or a network that is there already. `keep_images`: how many images' embeddings are kept (4 MB each).
    """

    def __init__(self, weights: str | Path | nn.Module, *, device: str | torch.device | None = None, keep_images: int = 4) -> None:
        self.network = weights.eval() if isinstance(weights, nn.Module) else load_sam(weights, device)
        self._predictor = _package().SamPredictor(self.network)
        self.keep_images = keep_images
        self._kept: OrderedDict[str, _Embedded] = OrderedDict()

    def __call__(self, image: np.ndarray, results: Results, background: Sequence[str] = ("background",)) -> Results:
        """Return the results with a mask for each detection, or with their label map refined; `background`: names that are not looked at."""
        if results.label_map_HW is not None:
            stays = [k for k, name in enumerate(results.names) if name in background]
            return replace(results, label_map_HW=self.refine(image, results.label_map_HW, stays))
        return replace(results, masks_NHW=self.of_boxes(image, results.boxes_xyxy)[0])

    def of_boxes(self, image: np.ndarray, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, H, W) bool, one mask a box, and (N,) the IoU that SAM expects of each; on the boxes' device."""
        if not len(boxes_xyxy):
            return torch.zeros(0, *image.shape[:2], dtype=torch.bool, device=boxes_xyxy.device), boxes_xyxy.new_zeros(0)
        self._embed(image)
        return self._masks(boxes_xyxy)

    @torch.no_grad()
    def _masks(self, boxes_xyxy: Tensor, points_N12: Tensor | None = None, mask_N1hw: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return masks and their expected IoU for the image that is embedded, prompt batch by prompt batch."""
        predictor, device, size_hw = self._predictor, self._predictor.device, self._predictor.original_size
        boxes = predictor.transform.apply_boxes_torch(boxes_xyxy.to(device).float(), size_hw)
        points = None if points_N12 is None else predictor.transform.apply_coords_torch(points_N12.to(device).float(), size_hw)
        step = max(1, min(MOST_BOXES, MOST_NUMBERS // (size_hw[0] * size_hw[1])))
        masks, expected = [], []
        for start in range(0, len(boxes), step):
            part = slice(start, start + step)
            coords = None if points is None else points[part]
            labels = None if points is None else torch.ones(coords.shape[:2], dtype=torch.int, device=device)
            dense = None if mask_N1hw is None else mask_N1hw[part].to(device)
            mask, iou, _ = predictor.predict_torch(coords, labels, boxes[part], dense, multimask_output=False)
            masks.append(mask[:, 0].to(boxes_xyxy.device))
            expected.append(iou[:, 0].to(boxes_xyxy.device))
        return torch.cat(masks), torch.cat(expected)

    def _embed(self, image: np.ndarray) -> None:
        """Make `image` the one that prompts are about; its embedding is taken from the last few where it is among them."""
        predictor = self._predictor
        key = hashlib.sha256(np.ascontiguousarray(image)).hexdigest() + str(image.shape)
        kept = self._kept.pop(key, None)
        if kept is None:
            with torch.no_grad():
                predictor.set_image(np.ascontiguousarray(image))
            kept = _Embedded(predictor.features, predictor.input_size, predictor.original_size)
        predictor.features, predictor.input_size, predictor.original_size, predictor.is_image_set = *kept, True
        self._kept[key] = kept
        while len(self._kept) > self.keep_images:
            self._kept.popitem(last=False)

    def refine(self, image: np.ndarray, label_HW: Tensor, background: Sequence[int] = ()) -> Tensor:
        """Return the label map (H, W) with the borders that SAM sees.

        Each connected region of a class (not of `background`, not below a thousandth of the image) is shown to SAM as a box, its innermost point and a
        mask. Where SAM's mask is the same region (IoU of at least 0.5) it takes the region's place, those that SAM is surest of on top; what it gives up
        becomes the first background class, or stays where there is none. A rule of ours.
        """
        regions = _regions(label_HW.cpu().numpy(), background)
        if not regions:
            return label_HW
        self._embed(image)
        old_NHW = torch.from_numpy(np.stack([r.mask for r in regions]))
        boxes, points = torch.tensor([r.box for r in regions]), torch.tensor([[r.point] for r in regions])
        masks, expected = self._masks(boxes, points, self._mask_prompts(old_NHW))
        both, either = ((op(masks, old_NHW)).flatten(1).sum(1) for op in (torch.logical_and, torch.logical_or))
        accepted = both >= SAME_REGION_IOU * either
        out, old = label_HW.clone(), old_NHW.to(label_HW.device)
        if len(background):
            for n in accepted.nonzero().flatten().tolist():
                out[old[n]] = background[0]
        for n in expected.argsort().tolist():
            if accepted[n]:
                out[masks[n].to(out.device)] = regions[n].label
        return out

    def _mask_prompts(self, mask_NHW: Tensor) -> Tensor:
        """Return regions as logits (N, 1, h, w) in the frame of the network's padded input, at the size of its mask prompts."""
        encoder, (height, width) = self.network.prompt_encoder, self._predictor.input_size
        side = self.network.image_encoder.img_size
        prompts = []
        for mask in mask_NHW:  # one by one: at the input's size they are large
            share = F.interpolate(mask[None, None].float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True)
            padded = F.pad(share, (0, side - width, 0, side - height))
            prompts.append(F.interpolate(padded, size=encoder.mask_input_size, mode="bilinear", align_corners=False, antialias=True)[0])
        return SURE * (2 * torch.stack(prompts) - 1)


class _Region(NamedTuple):
    label: int
    mask: np.ndarray
    box: tuple[float, float, float, float]
    point: tuple[float, float]


def _regions(label_HW: np.ndarray, background: Sequence[int]) -> list[_Region]:
    """Return the connected regions of a label map that are worth a prompt; `point` (x, y) is the innermost pixel's centre."""
    import cv2

    found = []
    for k in np.unique(label_HW).tolist():
        if k in background:
            continue
        count, number, stats, _ = cv2.connectedComponentsWithStats((label_HW == k).astype(np.uint8), connectivity=8)
        for r in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[r])
            if area < LEAST_SHARE * label_HW.size:
                continue
            mask = number == r
            distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)
            row, column = np.unravel_index(distance.argmax(), distance.shape)
            found.append(_Region(k, mask, (x, y, x + w, y + h), (column - 0.5, row - 0.5)))
    return found

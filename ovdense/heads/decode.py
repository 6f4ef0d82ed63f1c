"""From class scores and boxes at places to the detections of an image."""
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def select_detections(score_QK: Tensor, centerness_Q: Tensor, boxes_Q4: Tensor, num_per_level: Sequence[int], size_hw: tuple[int, int], *,
                      score_thr: float = 0.05, pre_nms: int = 1000, nms_iou: float = 0.6, max_dets: int = 300,
                      published: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (N, 4), scores (N,) and labels (N,), best first: the published ATSS post-processing.

    Scores (in 0..1) above `score_thr` are multiplied by centerness (0..1); per level the best `pre_nms` (place, class)
    pairs stay; score = square root of the product; boxes are clipped to `size_hw`; NMS per class at `nms_iou`; the best
    `max_dets` of all classes are kept. `published` repeats two quirks of the release: a box that lies outside the image
    is not dropped but clipped to a sliver of one pixel at the border, and detections that tie with the last one stay too.
    """
    boxes, scores, labels, start = [], [], [], 0
    product = score_QK * centerness_Q[:, None]
    num_classes = score_QK.shape[1]
    for count in num_per_level:
        inside = slice(start, start + count)
        flat = torch.where(score_QK[inside] > score_thr, product[inside], product.new_tensor(-1.0)).flatten()
        value, index = flat.topk(min(pre_nms, len(flat)))
        keep = value >= 0
        value, index = value[keep], index[keep]
        boxes.append(boxes_Q4[inside][index // num_classes])
        scores.append(value.sqrt())
        labels.append(index % num_classes)
        start += count
    box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    h, w = size_hw
    sliver = 1 if published else 0
    x1, y1, x2, y2 = box.unbind(-1)
    box = torch.stack([x1.clamp(0, w - sliver), y1.clamp(0, h - sliver), x2.clamp(sliver, w), y2.clamp(sliver, h)], dim=-1)
    solid = ((box[:, 2:] - box[:, :2]) > 0).all(-1)
    box, score, label = box[solid], score[solid], label[solid]
    keep = batched_nms(box.float(), score.float(), label, nms_iou)
    if published and len(keep) > max_dets:
        keep = keep[score[keep] >= score[keep[max_dets - 1]]]
    else:
        keep = keep[:max_dets]
    return box[keep], score[keep], label[keep]

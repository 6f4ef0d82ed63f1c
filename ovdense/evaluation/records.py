"""The detections of one image as a few small arrays, and those of all images as one."""
from collections.abc import Sequence

import numpy as np

from ovdense.evaluation.masks import Rle, encode_masks, pack, unpack


def detection_record(
    image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, num_predicted: int, masks: np.ndarray | None = None
) -> dict:
    """Return what metrics keep of an image; `masks` (N, H, W) bool are held as run lengths. `num_predicted`: how many came in."""
    record = {"image_id": image_id, "boxes": boxes_xyxy, "scores": scores, "labels": labels, "num_predicted": num_predicted}
    if masks is not None:
        data, lengths = pack(encode_masks(masks))
        record |= {"mask_bytes": data, "mask_lengths": lengths, "height": masks.shape[1], "width": masks.shape[2]}
    return record


def keep_only(record: dict, keep: np.ndarray) -> None:
    """Drop the detections of a record for which `keep` (N,) is False."""
    if "mask_bytes" in record:
        of_byte = np.repeat(keep, record["mask_lengths"])
        record.update(mask_bytes=record["mask_bytes"][of_byte], mask_lengths=record["mask_lengths"][keep])
    record.update({k: record[k][keep] for k in ("boxes", "scores", "labels")})


def as_detections(records: Sequence[dict], category_ids: np.ndarray) -> np.ndarray:
    """Return (N, 7) float64: image id, x, y, width, height, score, category id."""
    counts = [len(r["scores"]) for r in records]
    boxes = np.concatenate([r["boxes"] for r in records]).astype(np.float64)
    out = np.empty((sum(counts), 7))
    out[:, 0] = np.repeat([r["image_id"] for r in records], counts)
    out[:, 1:3] = boxes[:, :2]
    out[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
    out[:, 5] = np.concatenate([r["scores"] for r in records])
    out[:, 6] = category_ids[np.concatenate([r["labels"] for r in records])]
    return out


def masks_of(records: Sequence[dict]) -> list[Rle]:
    """Return the RLEs of all detections, in the order of `as_detections`."""
    return [rle for r in records for rle in unpack(r["mask_bytes"], r["mask_lengths"], (r["height"], r["width"]))]

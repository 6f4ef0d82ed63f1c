"""The detections of one image as a few small arrays, and those of all images as one."""
from collections.abc import Iterable, Sequence

import numpy as np

from ovdense.evaluation.masks import Rle, encode_masks, pack, unpack

LARGEST_ID = 2**53  # arrays of detections are of float64, as pycocotools' are: beyond, ids would become others


def require_exact(ids: Iterable[int], what: str) -> None:
    """Raise ValueError for an id that a float64 does not hold as it is."""
    large = next((i for i in ids if abs(i) > LARGEST_ID), None)
    if large is not None:
        raise ValueError(f"{what} must be integers of at most 53 bits to be measured, since results hold them as floats, got {large}; number them anew")


def detection_record(
    image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, num_predicted: int, masks: np.ndarray | None = None,
    size_hw: tuple[int, int] = (0, 0),
) -> dict:  # fmt: skip
    """Return what metrics keep of an image; `masks`, (N, H, W) bool or (N,) RLEs, are held as run lengths. `num_predicted`: how many came in."""
    require_exact((image_id,), "ids of images")
    record = {"image_id": image_id, "boxes": boxes_xyxy, "scores": scores, "labels": labels, "num_predicted": num_predicted}
    if masks is not None:
        data, lengths = pack(masks.tolist() if masks.dtype == object else encode_masks(masks))
        record |= {"mask_bytes": data, "mask_lengths": lengths, "height": int(size_hw[0]), "width": int(size_hw[1])}
    return record


def keep_only(record: dict, keep: np.ndarray) -> None:
    """Drop the detections of a record for which `keep` (N,) is False."""
    if "mask_bytes" in record:
        of_byte = np.repeat(keep, record["mask_lengths"])
        record.update(mask_bytes=record["mask_bytes"][of_byte], mask_lengths=record["mask_lengths"][keep])
    record.update({k: record[k][keep] for k in ("boxes", "scores", "labels")})


def as_detections(records: Sequence[dict], category_ids: np.ndarray) -> np.ndarray:
    """Return (N, 7) float64: image id, x, y, width, height, score, category id."""
    out = np.empty((sum(len(r["scores"]) for r in records), 7))
    end = 0
    for r in records:
        start, end = end, end + len(r["scores"])
        rows, boxes = out[start:end], r["boxes"].astype(np.float64)
        rows[:, 0] = r["image_id"]
        rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        rows[:, 5], rows[:, 6] = r["scores"], category_ids[r["labels"]]
    return out


def masks_of(records: Sequence[dict]) -> list[Rle]:
    """Return the RLEs of all detections, in the order of `as_detections`."""
    return [rle for r in records for rle in unpack(r["mask_bytes"], r["mask_lengths"], (r["height"], r["width"]))]

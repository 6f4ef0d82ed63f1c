"""The official evaluators, pycocotools for COCO and lvis for LVIS, as slow references: same input and output as the fast one."""
from collections.abc import Sequence

import numpy as np

from ovdense.evaluation.ground_truth import area_of
from ovdense.evaluation.masks import Rle


def reference_curves(
    backend: str, images: list[dict], categories: list[dict], annotations: list[dict], detections: np.ndarray, rles: Sequence[Rle] | None, order: dict,
    *, federated: bool, iou_type: str,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return precision (T, R, K, A, M) and recall (T, K, A, M) of the official tool `backend`; see `precision_recall` for the arguments."""
    if backend != ("lvis" if federated else "pycocotools"):
        raise ValueError(f"the reference must be {'lvis for LVIS' if federated else 'pycocotools for COCO'}, got {backend!r}")
    truth = {"images": images, "categories": categories, "annotations": [_annotation(n, a) for n, a in enumerate(annotations, 1)]}
    rows = as_results(detections, rles, boxes=rles is None)
    if not rows:  # neither tool takes an empty list; a wrong box of score 0 changes no precision and no recall
        rows = [{"image_id": images[0]["id"], "category_id": order["cat_ids"][0], "score": 0.0, "bbox": [-2.0, -2.0, 1.0, 1.0]}]
    return (_lvis if federated else _pycocotools)(truth, rows, order, iou_type)


def as_results(detections: np.ndarray, rles: Sequence[Rle] | None, *, boxes: bool = True) -> list[dict]:
    """Return detections (N, 7) in COCO's result form, numbers as they are.

    `boxes` False leaves the boxes out: where both are there, the official tools take a mask's size from its box.
    """
    rows = []
    for n, (image_id, x, y, w, h, score, category_id) in enumerate(detections.tolist()):
        row = {"image_id": int(image_id), "category_id": int(category_id), "score": score}
        if boxes:
            row["bbox"] = [x, y, w, h]
        if rles is not None:
            row["segmentation"] = {"size": rles[n]["size"], "counts": rles[n]["counts"].decode()}
        rows.append(row)
    return rows


def _annotation(number: int, a: dict) -> dict:
    row = {"id": number, "image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "area": area_of(a),
           "iscrowd": int(bool(a.get("iscrowd"))), "ignore": int(bool(a.get("ignore")))}  # fmt: skip
    return row | ({"segmentation": a["segmentation"]} if "segmentation" in a else {})


def _pycocotools(truth: dict, rows: list[dict], order: dict, iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = truth
        dataset.createIndex()
        evaluator = COCOeval(dataset, dataset.loadRes(rows), iou_type)
        evaluator.params.imgIds, evaluator.params.catIds, evaluator.params.maxDets = order["img_ids"], order["cat_ids"], order["max_dets"]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def import_lvis():
    """Return the module lvis, with what it needs of numpy before 1.24; ModuleNotFoundError says how to get it."""
    try:
        import lvis
    except ModuleNotFoundError as error:
        if error.name != "lvis":
            raise
        raise ModuleNotFoundError("the reference for LVIS needs the package lvis: pip install 'ovdense[test]', or leave backend='hotcoco'") from None
    if not hasattr(np, "float"):
        np.float = float  # lvis 0.5.3 still asks for it
    return lvis


def _lvis(truth: dict, rows: list[dict], order: dict, iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    import logging

    lvis = import_lvis()
    logging.getLogger("lvis").setLevel(logging.ERROR)
    dataset = lvis.LVIS.__new__(lvis.LVIS)  # its constructor reads a file
    dataset.logger, dataset.dataset = logging.getLogger("lvis.lvis"), truth
    dataset._create_index()
    evaluator = lvis.LVISEval(dataset, lvis.LVISResults(dataset, rows, max_dets=-1), iou_type)
    evaluator.params.img_ids, evaluator.params.cat_ids = order["img_ids"], order["cat_ids"]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][..., None], evaluator.eval["recall"][..., None]

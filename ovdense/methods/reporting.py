"""What a run leaves for people: tables with the protocol, metrics and predictions as JSON, overlays."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from ovdense.compat.images import write_picture
from ovdense.compat.paths import path_below
from ovdense.evaluation.base import ReportedMetric
from ovdense.evaluation.protocol import merged, software, weights_fingerprint
from ovdense.evaluation.records import as_detections, detection_record, masks_of
from ovdense.evaluation.report import format_table, write_json, write_report
from ovdense.evaluation.results_file import write_rows
from ovdense.methods.sharding import whole
from ovdense.registry import HOOKS, METRICS
from ovdense.structures import ImageTarget, Results
from ovdense.text.caption_prompts import caption_prompt


def _results(sample: Any, names: Sequence[str]) -> Results:
    """Return a DetDataSample or SegDataSample, or its dict, as Results."""
    if not isinstance(sample, dict):
        sample = sample.to_dict()
    if "pred_sem_seg" in sample:
        return Results.of_label_map(sample["pred_sem_seg"]["data"][0].cpu(), names, sample["img_id"])
    found = sample["pred_instances"]
    return Results(boxes_xyxy=found["bboxes"].cpu(), scores=found["scores"].cpu(), labels=found["labels"].cpu(), names=tuple(names),
                   size_hw=tuple(sample["ori_shape"][:2]), image_id=sample["img_id"], masks_NHW=_masks(found))  # fmt: skip


def _masks(found: Any) -> Tensor | None:
    return found["masks"].cpu() if "masks" in found else None


@HOOKS.register_module()
class ReportHook(Hook):
    """After each evaluation, print a table of the numbers and their protocol, and write them to val_metrics.json or test_metrics.json.

    The files lie in the run's work_dir; `also` names another file for the test's numbers. The protocol is what the metrics and the model
    say, and the run's: config, weights (a fingerprint of what is tested, after hooks that swap weights), iteration, seed, precision, device,
    versions. `per_class` prints the numbers of each class as well.
    """

    priority = "VERY_LOW"

    def __init__(self, also: str | None = None, per_class: bool = False) -> None:
        self.also, self.per_class = also, per_class
        self._run: dict[str, Any] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        self._run = _run_protocol(runner) | {"iteration": runner.iter}

    def before_test_epoch(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._run = _run_protocol(runner) | {"weights_sha256": weights_fingerprint({k: whole(v) for k, v in model.state_dict().items()})}

    def _report(self, runner: Runner, loop: Any, metrics: dict[str, float] | None, files: Sequence[Path]) -> None:
        if not metrics or not is_main_process():
            return
        per_class: dict[str, Any] = {}
        for metric in loop.evaluator.metrics:
            for name, values in (getattr(metric, "per_class", {}) or getattr(metric, "per_class_ap", {})).items():
                of_metric = values if isinstance(values, dict) else {"AP": values}
                per_class.setdefault(name, {}).update(of_metric)
        stated = [(str(metric.prefix or type(metric).__name__), metric.protocol) for metric in loop.evaluator.metrics if hasattr(metric, "protocol")]
        protocol = merged(stated) | self._run | software()
        runner.logger.info("\n" + format_table(metrics, protocol, per_class=per_class if self.per_class else None))
        for file in files:
            write_report(file, metrics, protocol, per_class or None)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, runner.val_loop, metrics, [Path(runner.work_dir) / "val_metrics.json"])

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        files = [Path(runner.work_dir) / "test_metrics.json"] + ([Path(self.also)] if self.also else [])
        self._report(runner, runner.test_loop, metrics, files)


def _run_protocol(runner: Runner) -> dict[str, Any]:
    """Return what the run itself adds to a number."""
    name = getattr(runner.cfg, "filename", None)
    mixed = bool((runner.cfg.get("test_cfg") or {}).get("fp16"))
    return {"config": Path(name).name if name else "none", "seed": runner.seed, "mixed_precision": mixed, "device": get_device()}


@METRICS.register_module()
class PredictionWriter(ReportedMetric):
    """Write all detections to `path` in COCO's result form, numbers as they are; category_id is the annotation file's id of the class.

    With masks each detection has its box and its mask; the official tools take a mask's size from its box then (LvisMetric and
    CocoMetric write files without, see `results_file`). Label maps are written as PNGs (a number a pixel, the class in the vocabulary)
    into the folder of `path` without its suffix, and `path` lists {image_id, file_name, label_map} and the classes. The records of several
    processes are gathered through files of arrays.
    """

    default_prefix = "predictions"

    def __init__(self, *, path: str, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device)
        self.path = path
        self._written_for: dict[Path, str] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        names = self.dataset_meta["classes"]
        for target, sample in zip(data_batch["targets"], data_samples, strict=True):
            found = _results(sample, names)
            self.results.append(_detections(found) if found.label_map_HW is None else self._written(found, target.file_name))

    def _written(self, found: Results, file_name: str) -> dict[str, Any]:
        """Write a label map and return its record; the name is held as its bytes."""
        label = found.label_map_HW.numpy()
        file = self._png(file_name)
        if self._written_for.setdefault(file, file_name) != file_name:
            raise ValueError(f"{file_name} and {self._written_for[file]} would have the same label map {file}; give images names that differ before the suffix")
        write_picture(file, label.astype(np.uint8 if len(found.names) <= 256 else np.uint16))
        return {"image_id": found.image_id, "file_name": np.frombuffer(file_name.encode(), dtype=np.uint8)}

    def _png(self, file_name: str) -> Path:
        return path_below(Path(self.path).with_suffix(""), file_name).with_suffix(".png")

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        names = self.dataset_meta["classes"]
        if results and "file_name" in results[0]:
            files = [(r["image_id"], r["file_name"].tobytes().decode()) for r in results]
            images = [{"image_id": i, "file_name": f, "label_map": str(self._png(f).relative_to(Path(self.path).parent))} for i, f in files]
            write_json(self.path, {"classes": list(names), "images": images})
            return {}
        ids = np.array(self.dataset_meta.get("category_ids") or range(len(names)), dtype=np.int64)
        rles = masks_of(results) if results and "mask_bytes" in results[0] else None
        name_of = {int(c): n for c, n in zip(ids, names, strict=True)}
        write_rows(Path(self.path), as_detections(results, ids), rles, boxes=True, names=name_of)
        return {}


def _detections(found: Results) -> dict[str, Any]:
    masks = None if found.masks_NHW is None else found.masks_NHW.numpy()
    boxes, scores, labels = (x.float().numpy() if x.is_floating_point() else x.numpy() for x in (found.boxes_xyxy, found.scores, found.labels))
    return detection_record(found.image_id, boxes, scores, labels, len(scores), masks, found.size_hw)


@HOOKS.register_module()
class OverlayHook(Hook):
    """Draw the detections or the label map of every tested image into `folder`, under the image's file name with .jpg.

    Only scores of at least `score_thr` are drawn, and at most `max_labels` of an image. With `truth` the ground truth stands beside them, where the
    data set has any. Images that are asked a caption show it, and name its phrases; a photo may have several,
    so that the names of these pictures end in the image's id. ValueError where `folder` is that of the images themselves.
    """

    def __init__(self, folder: str, score_thr: float = 0.3, max_labels: int = 40, truth: bool = True) -> None:
        self.folder, self.score_thr, self.max_labels, self.truth = Path(folder), score_thr, max_labels, truth

    def before_test_epoch(self, runner: Runner) -> None:
        images = getattr(runner.test_dataloader.dataset, "image_folder", None)
        if images is not None and self.folder.resolve() == Path(images).resolve():
            raise ValueError(f"overlays in {self.folder} (--show-dir) would overwrite the data set's own images; give another folder")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        from ovdense.data.transforms import read_image

        dataset = runner.test_dataloader.dataset
        for n, (target, sample) in enumerate(zip(data_batch["targets"], outputs, strict=True)):
            image = read_image(str(dataset.image_folder / target.file_name))
            if image.shape[:2] != tuple(target.original_size_hw):  # a transform has cut a part out (CenterSquare): results are of that
                image = data_batch["images"][n].permute(1, 2, 0).cpu().numpy()
            path = path_below(self.folder, target.file_name)
            number = f"_{target.image_id}" if hasattr(dataset, "phrases_of_image") else ""
            write_picture(path.with_name(f"{path.stem}{number}.jpg"), self._draw(image, target, sample, dataset), quality=92)

    def _draw(self, image: np.ndarray, target: ImageTarget, sample: Any, dataset: Any) -> np.ndarray:
        from ovdense.drawing import draw_label_map, draw_results, side_by_side, titled

        asked = dataset.phrases_of_image(target.image_id) if hasattr(dataset, "phrases_of_image") else None
        names, background = dataset.vocabulary.names, [e.name for e in dataset.vocabulary if e.is_background]
        if asked is not None and len(asked):
            names = caption_prompt(asked.caption, asked.spans)[0].names
        found = _results(sample, names)
        if found.label_map_HW is None:
            true = _true_boxes(target, names, asked) if self.truth else None
            together = [names[k] for part in (true, found.above(self.score_thr)) if part is not None for k in part.labels.tolist()]
            drawn = draw_results(image, found, score_thr=self.score_thr, max_labels=self.max_labels, together=together)
            beside = None if true is None else draw_results(image, true, max_labels=self.max_labels, same_place_iou=1.0, scores=False, together=together)
        else:
            labels = [None if label is None else label.cpu().numpy() for label in (found.label_map_HW, _true_labels(target) if self.truth else None)]
            there = [k for label in labels[::-1] if label is not None for k in np.unique(label).tolist() if k < len(names)]
            how = dict(background=background, max_labels=self.max_labels, together=[names[k] for k in there if names[k] not in background])
            drawn, beside = (None if label is None else draw_label_map(image, label, names, **how) for label in labels)
        picture = drawn if beside is None else side_by_side(drawn, beside)
        return picture if asked is None else titled(picture, asked.caption)


def _true_labels(target: ImageTarget) -> Tensor | None:
    """Return the true label map where the target has it at the file's size."""
    label = target.label_map_HW
    return label if label is not None and tuple(label.shape) == tuple(target.original_size_hw) else None


def _true_boxes(target: ImageTarget, names: Sequence[str], asked: Any) -> Results | None:
    """Return the true boxes (and masks) in pixels of the file, with scores of 1: of the caption's phrases, or of the target; None where there are none."""
    (h, w), size_hw = target.size_hw, tuple(target.original_size_hw)
    masks = None
    if asked is not None:
        boxes = torch.from_numpy(np.concatenate([np.zeros((0, 4)), *asked.boxes_xyxy])).float()
        labels = torch.tensor([n for n, own in enumerate(asked.boxes_xyxy) for _ in own], dtype=torch.int64)
    else:
        boxes, labels = target.boxes_xyxy.cpu() * torch.tensor([size_hw[1] / w, size_hw[0] / h] * 2), target.labels.cpu()
        if target.masks_NHW is not None and len(labels):
            masks = F.interpolate(target.masks_NHW.cpu()[None].float(), size=size_hw, mode="nearest")[0].bool()
    if not len(boxes):
        return None
    return Results(boxes_xyxy=boxes, scores=torch.ones(len(boxes)), labels=labels, names=tuple(names), size_hw=size_hw, masks_NHW=masks)

"""The border to mmdet's and mmseg's sample types: our `Results` become theirs, so that their metrics, hooks and visualizers work."""
from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ovdense.compat.mmcv_ext import install
from ovdense.structures import ImageTarget, Results


def to_data_sample(results: Results, target: ImageTarget | None = None) -> BaseDataElement:
    """Return `results` as the sample type of its task: SegDataSample where it has a label map, else DetDataSample."""
    return to_det_data_sample(results) if results.label_map_HW is None else to_seg_data_sample(results, target)


def to_seg_data_sample(results: Results, target: ImageTarget | None = None) -> BaseDataElement:
    """Return `results` as a SegDataSample: metainfo img_id, ori_shape (h, w); pred_sem_seg and, with a `target` that has one, gt_sem_seg.

    Both have `data` (1, H, W) int64 at the file's size; 255 in gt_sem_seg counts for nothing.
    """
    install()
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo={"img_id": results.image_id, "ori_shape": tuple(results.size_hw)})
    sample.pred_sem_seg = PixelData(data=results.label_map_HW[None])
    if target is not None and target.label_map_HW is not None:
        if tuple(target.label_map_HW.shape) != tuple(results.size_hw):
            raise ValueError(f"image {results.image_id}: the target's label map must have the file's size {tuple(results.size_hw)} to be measured on, got "
                             f"{tuple(target.label_map_HW.shape)}; put LoadLabelMap after the resize in the test transforms")
        sample.gt_sem_seg = PixelData(data=target.label_map_HW[None].to(results.label_map_HW.device))
    return sample


def to_det_data_sample(results: Results) -> BaseDataElement:
    """Return `results` as a DetDataSample: metainfo img_id, ori_shape (h, w); pred_instances.bboxes (xyxy, file pixels), scores, labels, masks; answers."""
    install()
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo={"img_id": results.image_id, "ori_shape": tuple(results.size_hw)})
    sample.pred_instances = InstanceData(bboxes=results.boxes_xyxy, scores=results.scores, labels=results.labels)
    if results.masks_NHW is not None:
        sample.pred_instances.masks = results.masks_NHW
    if results.answers is not None:
        sample.answers = dict(results.answers)
    return sample


def from_det_data_sample(sample: BaseDataElement, names: Sequence[str]) -> Results:
    """Return the `pred_instances` of a DetDataSample as Results, best first; `names[k]` is the class of label k.

    The boxes are taken as they are: xyxy in pixels of the original file. ValueError when predictions, img_id or
    ori_shape are missing.
    """
    install()
    from mmdet.structures.bbox import BaseBoxes

    if "pred_instances" not in sample:
        raise ValueError(f"the sample must hold pred_instances, got {sample.keys()}; run the model in mode 'predict' first")
    for key in ("img_id", "ori_shape"):
        if key not in sample.metainfo_keys():
            raise ValueError(f"the sample's metainfo must hold {key!r}, got {sample.metainfo_keys()}; add it with set_metainfo")
    instances = sample.pred_instances
    for key in ("bboxes", "scores", "labels"):
        if key not in instances:
            raise ValueError(f"pred_instances must hold bboxes, scores and labels, got {instances.keys()}")
    boxes = instances.bboxes
    if isinstance(boxes, BaseBoxes):
        boxes = boxes.convert_to("hbox").tensor
    order = torch.argsort(instances.scores, descending=True, stable=True)
    return Results(
        boxes_xyxy=boxes[order], scores=instances.scores[order], labels=instances.labels[order],
        names=tuple(names), size_hw=tuple(sample.ori_shape[:2]), image_id=sample.img_id,
        masks_NHW=instances.masks[order] if "masks" in instances else None, answers=sample.answers if "answers" in sample else None,
    )

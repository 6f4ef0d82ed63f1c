"""Parts of mmseg and mmdet that our models are built of: feature pyramids, FPNHead, RetinaNet's and Mask R-CNN's heads.

They come initialised as their libraries do it. Targets go in as mmdet's samples, detections come back as our `Results`.
"""
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ovdense.compat.mmcv_ext import install
from ovdense.compat.ranks import per_rank
from ovdense.structures import ImageTarget, Results


def _positives_of_all_ranks(head: nn.Module) -> nn.Module:
    """Let an anchor head of mmdet divide its losses by the samples of all ranks (mmdet: by the rank's own)."""
    own = head.get_targets

    def get_targets(*args: Any, **kwargs: Any) -> tuple:
        *targets, number = own(*args, **kwargs)
        return (*targets, per_rank(torch.as_tensor(float(number), device=targets[0][0].device)))

    head.get_targets = get_targets
    return head


def _build(library: str, cfg: dict) -> nn.Module:
    """Return a part of "mmseg" or "mmdet" from its config, whatever scope a run is in."""
    install()
    if library == "mmseg":
        from mmseg import models  # noqa: F401  (registers)
        from mmseg.registry import MODELS
    else:
        from mmdet import models  # noqa: F401
        from mmdet.registry import MODELS
    logger = MMLogger.get_current_instance()
    level = logger.level
    with DefaultScope.overwrite_default_scope(library), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*avg_non_ignore.*")  # our own losses say what they divide by
        part = MODELS.build(ConfigDict(cfg))
        logger.setLevel("WARNING")  # mmengine prints a line a parameter
        try:
            if not any(p.is_meta for p in part.parameters()):
                part.init_weights()
        finally:
            logger.setLevel(level)
    return part


def seg_fpn(in_channels: Sequence[int], channels: int) -> nn.Module:
    """Return mmseg's feature pyramid with one output a level."""
    return _build("mmseg", dict(type="FPN", in_channels=list(in_channels), out_channels=channels, num_outs=len(in_channels)))


def seg_fpn_head(num_levels: int, strides: Sequence[int], *, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1) -> nn.Module:
    """Return mmseg's FPNHead (arXiv 1901.02446): logits at the finest level's stride. BatchNorm turns into SyncBatchNorm where a run asks for it."""
    return _build("mmseg", dict(
        type="FPNHead", in_channels=[in_channels] * num_levels, in_index=list(range(num_levels)), feature_strides=list(strides), channels=channels,
        dropout_ratio=dropout, num_classes=num_classes, norm_cfg=dict(type="BN", requires_grad=True), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)))  # fmt: skip


def deeplab_plus_head(in_channels: int, low_channels: int, num_classes: int, *, channels: int = 512, low_out: int = 48,
                      dilations: Sequence[int] = (1, 12, 24, 36), dropout: float = 0.1) -> nn.Module:
    """Return mmseg's DeepLabV3+ head (arXiv 1802.02611), separable convolutions in the pyramid and after it: of (fine map, ..., coarse map)."""
    return _build("mmseg", dict(
        type="DepthwiseSeparableASPPHead", in_channels=in_channels, in_index=-1, channels=channels, dilations=list(dilations), c1_in_channels=low_channels,
        c1_channels=low_out, dropout_ratio=dropout, num_classes=num_classes, norm_cfg=dict(type="BN", requires_grad=True), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)))  # fmt: skip


def seg_resnet(depth: int = 101) -> nn.Module:
    """Return mmseg's ResNet with output stride 8 (dilation 2 and 4 in the last stages); BatchNorm's momentum is 0.01, as in DeepLab's PyTorch ports."""
    return _build("mmseg", dict(
        type="ResNet", depth=depth, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), out_indices=(0, 1, 2, 3), contract_dilation=True,
        norm_cfg=dict(type="BN", requires_grad=True, momentum=0.01)))  # fmt: skip


def det_fpn(in_channels: Sequence[int], channels: int, *, retina: bool) -> nn.Module:
    """Return mmdet's feature pyramid of five outputs: RetinaNet's (from stride 8, two more by convolution of the input) or Mask R-CNN's."""
    more = dict(start_level=1, add_extra_convs="on_input") if retina else {}
    return _build("mmdet", dict(type="FPN", in_channels=list(in_channels), out_channels=channels, num_outs=5, **more))


_NMS = dict(type="nms", iou_threshold=0.5)
_L1 = dict(type="L1Loss", loss_weight=1.0)


def _coder(*stds: float) -> dict:
    return dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=list(stds))


def _assigner(positive: float, negative: float, least: float, **more: Any) -> dict:
    return dict(type="MaxIoUAssigner", pos_iou_thr=positive, neg_iou_thr=negative, min_pos_iou=least, ignore_iof_thr=-1, **more)


def retina_head(num_classes: int, *, channels: int = 256, stacked_convs: int = 4) -> nn.Module:
    """Return mmdet's RetinaNet head (arXiv 1708.02002), anchors, losses and NMS as published for COCO."""
    return _positives_of_all_ranks(_build("mmdet", dict(
        type="RetinaHead", num_classes=num_classes, in_channels=channels, feat_channels=channels, stacked_convs=stacked_convs,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=_coder(1.0, 1.0, 1.0, 1.0), loss_bbox=_L1,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        train_cfg=dict(assigner=_assigner(0.5, 0.4, 0), sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=_NMS, max_per_img=100))))  # fmt: skip


def mask_rcnn_heads(num_classes: int, *, channels: int = 256) -> tuple[nn.Module, nn.Module]:
    """Return mmdet's region proposal head and its box and mask heads (arXiv 1703.06870), as published for COCO."""
    def extractor(size: int) -> dict:
        return dict(type="SingleRoIExtractor", roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=0), out_channels=channels,
                    featmap_strides=[4, 8, 16, 32])

    def sampler(num: int, share: float, **more: Any) -> dict:
        return dict(type="RandomSampler", num=num, pos_fraction=share, neg_pos_ub=-1, **more)

    rpn = _positives_of_all_ranks(_build("mmdet", dict(
        type="RPNHead", in_channels=channels, feat_channels=channels, bbox_coder=_coder(1.0, 1.0, 1.0, 1.0), loss_bbox=_L1,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        train_cfg=dict(assigner=_assigner(0.7, 0.3, 0.3, match_low_quality=True), sampler=sampler(256, 0.5, add_gt_as_proposals=False),
                       allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0))))  # fmt: skip
    roi = _build("mmdet", dict(
        type="StandardRoIHead", bbox_roi_extractor=extractor(7), mask_roi_extractor=extractor(14),
        bbox_head=dict(type="Shared2FCBBoxHead", in_channels=channels, fc_out_channels=4 * channels, roi_feat_size=7, num_classes=num_classes,
                       bbox_coder=_coder(0.1, 0.1, 0.2, 0.2), reg_class_agnostic=False, loss_bbox=_L1,
                       loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)),
        mask_head=dict(type="FCNMaskHead", num_convs=4, in_channels=channels, conv_out_channels=channels, num_classes=num_classes,
                       loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0)),
        train_cfg=dict(assigner=_assigner(0.5, 0.5, 0.5, match_low_quality=True), sampler=sampler(512, 0.25, add_gt_as_proposals=True),
                       mask_size=28, pos_weight=-1, debug=False),
        test_cfg=dict(score_thr=0.05, nms=_NMS, max_per_img=100, mask_thr_binary=0.5)))  # fmt: skip
    return rpn, roi


PROPOSALS = dict(nms_pre=2000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)  # while training


def retina_losses(head: nn.Module, maps: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int]) -> dict[str, Tensor]:
    """Return RetinaNet's losses, each summed over the levels."""
    return _summed(head.loss(tuple(maps), det_samples(targets, input_hw, maps[0].device)))


def retina_detections(head: nn.Module, maps: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int],
                      names: Sequence[str]) -> list[Results]:
    """Return each image's detections, in pixels of its file."""
    found = head.predict(tuple(maps), det_samples(targets, input_hw, maps[0].device, truth=False), rescale=True)
    return [_results(f, t, names) for f, t in zip(found, targets, strict=True)]


def mask_rcnn_losses(rpn: nn.Module, roi: nn.Module, maps: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int]) -> dict[str, Tensor]:
    """Return the losses of proposals, boxes and masks, each summed over the levels. ValueError where a target has no masks."""
    lacking = [t.file_name for t in targets if t.masks_NHW is None]
    if lacking:
        raise ValueError(f"Mask R-CNN must be trained on instance masks, {lacking[0]!r} has none; build the data set with with_masks=True")
    samples = det_samples(targets, input_hw, maps[0].device)
    agnostic = det_samples(targets, input_hw, maps[0].device)
    for sample in agnostic:
        sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
    losses, proposals = rpn.loss_and_predict(tuple(maps), agnostic, proposal_cfg=ConfigDict(PROPOSALS))
    named = {f"loss_rpn_{name.removeprefix('loss_rpn_').removeprefix('loss_')}": value for name, value in losses.items()}
    return _summed(named | roi.loss(tuple(maps), proposals, samples))


def mask_rcnn_detections(rpn: nn.Module, roi: nn.Module, maps: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int],
                         names: Sequence[str]) -> list[Results]:
    """Return each image's detections with their masks, in pixels of its file."""
    samples = det_samples(targets, input_hw, maps[0].device, truth=False)
    found = roi.predict(tuple(maps), rpn.predict(tuple(maps), samples, rescale=False), samples, rescale=True)
    return [_results(f, t, names) for f, t in zip(found, targets, strict=True)]


def det_samples(targets: Sequence[ImageTarget], input_hw: tuple[int, int], device: torch.device, *, truth: bool = True) -> list:
    """Return targets as DetDataSamples whose batch was padded to `input_hw`; with `truth`, their boxes, labels and masks on `device`."""
    install()
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    for target in targets:
        (h, w), (full_h, full_w) = target.size_hw, target.original_size_hw
        sample = DetDataSample(metainfo=dict(img_id=target.image_id, img_shape=(h, w), ori_shape=(full_h, full_w), pad_shape=tuple(input_hw),
                                             batch_input_shape=tuple(input_hw), scale_factor=(w / full_w, h / full_h)))
        if truth:
            sample.gt_instances = InstanceData(bboxes=target.boxes_xyxy.to(device), labels=target.labels.to(device))
            if target.masks_NHW is not None:
                padded = torch.nn.functional.pad(target.masks_NHW, (0, input_hw[1] - w, 0, input_hw[0] - h))
                sample.gt_instances.masks = BitmapMasks(padded.cpu().numpy().astype("uint8"), *input_hw)
        samples.append(sample)
    return samples


def _summed(losses: dict[str, Any]) -> dict[str, Tensor]:
    return {name: sum(value) if isinstance(value, (list, tuple)) else value for name, value in losses.items()}


def _results(found: InstanceData, target: ImageTarget, names: Sequence[str]) -> Results:
    order = torch.argsort(found.scores, descending=True, stable=True)
    masks = found.masks[order].bool() if "masks" in found else None
    return Results(boxes_xyxy=found.bboxes[order], scores=found.scores[order], labels=found.labels[order], names=tuple(names),
                   size_hw=tuple(target.original_size_hw), image_id=target.image_id, masks_NHW=masks)

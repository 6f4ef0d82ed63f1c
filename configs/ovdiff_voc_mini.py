"""OVDiff on 37 photos in Pascal VOC's form, at CPU size: photos that the embedded encoder retrieves, features of embedded networks.

Paper: arXiv 2306.09316, with retrieved photos in place of drawn ones (Sec. 3.1), at our scale. No diffusion model, no download.
Result, 37 photos: mIoU 17.4, without background prototypes 6.7, without pre-filter 19.0; with 1 to 6 photos a class with masks (--exemplars) 23.7.
Train: nothing is trained
Test:  python tools/test.py configs/ovdiff_voc_mini.py --show-dir overlays
"""
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import VocSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric
from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.ovdiff.model import OVDiff
from ovdense.methods.ovdiff.retrieved import RetrievedSupport
from ovdense.support.mask_sources import GrabCutMasks
from ovdense.vision.extractors import BackboneFeatures, DenseEncoderFeatures

model = dict(
    type=OVDiff,
    extractors=[dict(type=DenseEncoderFeatures, encoder=dict(type=ConseDualEncoder)), dict(type=BackboneFeatures, out_strides=(16, 32))],
    support=dict(type=RetrievedSupport, encoder=dict(type=ConseDualEncoder, centering=1.0), archive="coco_mini/train2017", num_images=6),
    masks=dict(type=GrabCutMasks),
    heat_encoder=dict(type=ConseDualEncoder),
    # of 10 classes, as published, there are 1,023 subsets whose prompts the sentence encoder has to read: 10 s a photo on a CPU
    prefilter=dict(encoder=dict(type=ConseDualEncoder), top_k=6),
    stuff=(),
    prototypes=dict(num_parts=4),
    test=dict(crops=()),
)

test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=VocSegmentation,
        split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        image_prefix="coco_mini/val2017",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(320,), max_size=640),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
test_cfg = dict(type=TestLoop)

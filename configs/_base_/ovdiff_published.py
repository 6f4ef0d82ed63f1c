"""OVDiff as published: pictures by Stable Diffusion 1.5, three feature extractors. A config adds the data set, with `whole` as transforms."""
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric
from ovdense.methods.dual_encoder import ClipDualEncoder
from ovdense.methods.ovdiff.model import OVDiff
from ovdense.support.generation import GeneratedSupport
from ovdense.vision.extractors import ClipKeys, DiffusionQueries, VitKeys

pipeline = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # a hub name, or a local folder

model = dict(
    type=OVDiff,
    extractors=[
        dict(type=DiffusionQueries, pipeline=pipeline),
        dict(type=ClipKeys, model_name="ViT-B-16-quickgelu", pretrained="openai"),
        dict(type=VitKeys, name="vit_base_patch8_224.dino", weights="hub"),
    ],
    support=dict(
        type=GeneratedSupport, pipeline=pipeline,
        settings=dict(num_images=32, num_steps=30, guidance=8.0, size_hw=(512, 512)),
    ),
    # masks=dict(type=FolderMasks, folder="data/cutler_masks") once CutLER's are there
    masks=None,
    prefilter=dict(encoder=dict(type=ClipDualEncoder, model_name="ViT-B-16-quickgelu", pretrained="openai"), square_px=224),
    prototypes=dict(num_parts=32),
    test=dict(crops=((448, 224), (336, 224))),
)

whole = [
    dict(type=LoadImage),
    dict(type=ResizeShortestEdge, short_sides=(448,), max_size=4480, resample="lanczos"),
    dict(type=LoadLabelMap),
    dict(type=PackDetection),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
)
test_evaluator = [dict(type=SemanticMetric)]
test_cfg = dict(type=TestLoop)

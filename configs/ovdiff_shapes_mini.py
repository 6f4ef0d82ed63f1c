"""OVDiff on the embedded shapes, at CPU size: support images drawn by the small text-to-image model of configs/ovdiff_diffusion_shapes.py.

Paper: arXiv 2306.09316, at our scale: 20 of the shapes' combinations of noun and attributes (every fourth or fifth that training shows), 8 images each.
Train: python tools/train.py configs/ovdiff_diffusion_shapes.py
Test:  python tools/build_support_set.py configs/ovdiff_shapes_mini.py && python tools/test.py configs/ovdiff_shapes_mini.py --show-dir overlays
"""
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import ShapesSegmentation
from ovdense.data.transforms import LoadImage, PackDetection
from ovdense.evaluation.segmentation import SemanticMetric
from ovdense.methods.ovdiff.model import OVDiff
from ovdense.support.generation import GeneratedSupport
from ovdense.support.mask_sources import GrabCutMasks
from ovdense.vision.extractors import DiffusionQueries

combinations = [
    "circle_(small_red_plain_with_a_tail)", "circle_(small_yellow_plain_with_a_tail)", "circle_(large_purple_dotted_with_an_antenna)",
    "ring_(small_blue_plain_with_a_tail)", "ring_(large_red_plain_with_a_tail)", "square_(small_green_striped)",
    "square_(small_blue_checkered_with_two_handles)", "square_(large_purple_plain_with_a_tail)", "triangle_(small_orange_checkered_with_an_antenna)",
    "triangle_(large_blue_striped_with_two_handles)", "star_(small_red_striped_with_two_handles)", "star_(small_yellow_dotted_with_a_tail)",
    "star_(large_purple_dotted)", "cross_(small_green_checkered_with_two_handles)", "cross_(large_blue_striped_with_two_handles)",
    "heart_(small_green_checkered_with_a_tail)", "heart_(small_yellow_plain_with_an_antenna)", "heart_(large_blue_striped_with_a_tail)",
    "crescent_(small_purple_dotted)", "crescent_(large_yellow_striped_with_two_handles)",
]  # fmt: skip
pipeline = "work_dirs/ovdiff_diffusion_shapes/pipeline"

model = dict(
    type=OVDiff,
    extractors=[
        # of 7 cross-attention layers the first and the last two, as the published choice of Stable Diffusion's 16
        dict(type=DiffusionQueries, pipeline=pipeline, layers=(0, 5, 6), timestep=100),
    ],
    # the small model has not seen words of bad pictures, and says nothing of size: its objects fill their pictures
    support=dict(type=GeneratedSupport, pipeline=pipeline, described=True, silent=("small", "large"), batch_size=8,
                 settings=dict(num_images=8, negative_prompt="", num_steps=15, guidance=3.0)),
    masks=dict(type=GrabCutMasks),
    prototypes=dict(num_parts=8),
    test=dict(crops=((128, 64),)),
)

test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesSegmentation,
        split="val",
        prompt="names",
        vocabulary=["background", *combinations],
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=LoadLabelMap), dict(type=PackDetection)],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
test_cfg = dict(type=TestLoop)

"""The small text-to-image model that draws OVDiff's support images on a machine without a published one: objects of the embedded shapes, 48 pixels.

Paper: none; denoising diffusion as in Stable Diffusion's pipeline, at our scale. Leaves a diffusers pipeline in work_dirs/ovdiff_diffusion_shapes/pipeline.
Train: python tools/train.py configs/ovdiff_diffusion_shapes.py
Test:  python tools/build_support_set.py configs/ovdiff_shapes_mini.py
"""
from mmengine.config import read_base
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer

from ovdense.data.detection import ShapesDetection
from ovdense.data.object_crops import ObjectCrops, collate_captioned
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.ovdiff.diffusion import SavePipelineHook, TextToImage
from ovdense.methods.progress import ProgressHook

model = dict(type=TextToImage, pipeline=dict(image_px=48, patch_size=4, kept=(6, 3), channels=(48, 96), layers_per_block=1, text_layers=0, max_tokens=20))
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_captioned),
    # every object fills its picture, so its size says nothing
    dataset=dict(type=ObjectCrops, dataset=dict(type=ShapesDetection, split="train"), image_px=48, margin=1.5, max_other=0.25, keep=0.7,
                 silent=("small", "large")),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100, end=3600, T_max=3500, eta_min=1e-5),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=3600, val_interval=3600)
custom_hooks = [
    dict(type=EMAHook, momentum=0.004),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=SavePipelineHook),
]

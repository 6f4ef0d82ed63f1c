"""A whole run at the smallest size, for tests of the tools: a config file and eight scenes of shapes."""
import shutil
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_CONFIG = '''
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer

from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import LvisDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.detection import LvisMetric
from ovdense.layers.fpn import FeaturePyramid
from ovdense.methods.desco.model import Desco
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import TimmBackbone

model = dict(
    type=Desco,
    backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=4),
    neck=dict(type=FeaturePyramid, in_channels=(112, 320), out_channels=32, num_extra=1),
    text_encoder=dict(type=BertTextEncoder, weights=None, config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)),
    head=dict(channels=32, num_blocks=1, num_levels=3, embed_width=32, num_heads=2, bert_heads=2, bert_ffn=32, dropout=0.1, deformable=False),
    criterion=dict(anchor_scale=3),
    test=dict(score_thr=0.0, max_dets=20, chunk_batch=4),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=ResumableInfiniteSampler, seed=0), collate_fn=dict(type=collate_detection),
    dataset=dict(type=LvisDetection, ann_file="annotations/shapes_train.json", image_prefix="images", transforms=[
        dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64,), max_size=96), dict(type=DescriptionQueries), dict(type=PackDetection)]))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=collate_detection),
    dataset=dict(type=LvisDetection, ann_file="annotations/shapes_val.json", image_prefix="images", test_mode=True, prompt="names", transforms=[
        dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64,), max_size=96), dict(type=PackDetection)]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=LvisMetric)
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=8)
'''


def write_config(folder: Path, name: str) -> Path:
    """Return the tiny config as a file. Runs of one process need different names: MMEngine keeps its loggers by name and second."""
    (folder / "_base_").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "configs" / "_base_" / "default_runtime.py", folder / "_base_")
    path = folder / f"{name}.py"
    path.write_text(_CONFIG)
    return path


def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 8 training and 4 validation scenes."""
    return _shapes(str(tmp_path_factory.getbasetemp()))


@cache
def _shapes(base: str) -> Path:
    from ovdense.data.shapes import make_shapes

    return make_shapes(Path(base) / "tiny_shapes", seed=0, num_train=8, num_val=4, num_workers=1)


def load_script(relative: str):
    """Return a script of the project as a module."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(Path(relative).stem + "_script", ROOT / relative)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The trainings of all methods at the smallest size, as config files, for tests of runs that are killed and resumed; dropout and augmentation are on."""
import json
import shutil
from pathlib import Path

from tests.tiny_run import ROOT, write_config

METHODS = ("desco", "mdetr", "denseclip", "reco_plus", "diffusion")
_HEAD = '''
from mmengine.config import read_base
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer

from ovdense.data.collate import collate_detection
from ovdense.data.detection import LvisDetection
from ovdense.data.grounding import GroundingDetection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.object_crops import ObjectCrops, collate_captioned
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.segmentation import CocoSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.methods.denseclip.model import DenseClip
from ovdense.methods.denseclip.open_decoder import OpenSemanticFpn
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.mdetr.model import Mdetr
from ovdense.methods.ovdiff.diffusion import SavePipelineHook, TextToImage
from ovdense.methods.reco.plus import RecoPlus
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.clip import ClipResNet

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=2),
                   dict(type=CosineAnnealingLR, by_epoch=False, begin=2, end=6, T_max=4, eta_min=1e-6)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=6, val_interval=100)
custom_hooks = [dict(type=EMAHook, momentum=0.1), dict(type=IterationSeedHook)]
semantic = dict(
    batch_size=2, num_workers=0, sampler=dict(type=ResumableInfiniteSampler, seed=0), collate_fn=dict(type=collate_detection),
    dataset=dict(type=CocoSegmentation, ann_file="annotations/shapes_train.json", image_prefix="images", transforms=[
        dict(type=LoadImage), dict(type=LoadLabelMap), dict(type=ResizeShortestEdge, short_sides=(64, 96), max_size=96), dict(type=RandomFlip, prob=0.5),
        dict(type=PackDetection)]))
'''
_METHOD = {
    "mdetr": '''
model = dict(
    type=Mdetr, backbone=dict(type=TimmBackbone, name="resnet18", weights=None, out_strides=(16, 32), norm_frozen=True),
    text_encoder=dict(type=BertTextEncoder, weights=None, frozen=False,
                      config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)),
    transformer=dict(width=32, num_heads=2, encoder_layers=1, decoder_layers=2, ffn_width=32, dropout=0.1, text_dropout=0.1, num_slots=6),
    head=dict(align_width=16))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=ResumableInfiniteSampler, seed=0), collate_fn=dict(type=collate_detection),
    dataset=dict(type=GroundingDetection, ann_file="captions.json", image_prefix="images", transforms=[
        dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64, 96), max_size=96), dict(type=RandomFlip, prob=0.5, swap_sides=True),
        dict(type=PackDetection)]))
''',
    "denseclip": '''
model = dict(
    type=DenseClip, backbone=dict(type=ClipResNet, layers=(1, 1, 1, 1), width=8, embed_width=12, table_size=3, positions="interpolate"),
    text_encoder=dict(type=ClipContextEncoder, embed_width=12, width=16, heads=2, layers=2),
    pixel_text=dict(prompting="post", num_contexts=4, decoder=dict(width=8, heads=2, num_layers=1, dropout=0.1)),
    decoder=dict(type=OpenSemanticFpn, in_channels=(32, 64, 128, 256), channels=8, embed_width=12, head_channels=8, refine_channels=4))
train_dataloader = semantic
custom_hooks = [dict(type=VocabularyHook), dict(type=EMAHook, momentum=0.1), dict(type=IterationSeedHook)]
''',
    "reco_plus": '''
model = dict(type=RecoPlus, backbone=dict(type=TimmBackbone, name="resnet18", weights=None, out_strides=(4, 32)), classes="classes.txt", channels=16,
             low_channels=8, dilations=(1, 2))
train_dataloader = semantic
''',
    "diffusion": '''
model = dict(type=TextToImage, pipeline=dict(image_px=16, channels=(16, 16), head_dim=8))
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type=ResumableInfiniteSampler, seed=0), collate_fn=dict(type=collate_captioned),
    dataset=dict(type=ObjectCrops, image_px=16, dataset=dict(type=LvisDetection, ann_file="annotations/shapes_train.json", image_prefix="images")))
custom_hooks = [dict(type=EMAHook, momentum=0.1), dict(type=IterationSeedHook), dict(type=SavePipelineHook)]
''',
}


def write_method(folder: Path, method: str, name: str | None = None) -> Path:
    """Return the config of a method's tiny training as a file; its data are `write_data`'s."""
    if method == "desco":
        return write_config(folder, name or method)
    (folder / "_base_").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "configs" / "_base_" / "default_runtime.py", folder / "_base_")
    path = folder / f"{name or method}.py"
    path.write_text(_HEAD + _METHOD[method])
    return path


def write_data(folder: Path) -> Path:
    """Return a new folder of 8 scenes of shapes with boxes, masks, captions and a list of the classes."""
    from ovdense.data.shapes import make_shapes
    from ovdense.data.shapes_captions import grounding_file

    made = make_shapes(folder, seed=0, num_train=8, num_val=4, num_workers=1)
    content = json.loads((made / "annotations" / "shapes_train.json").read_text())
    (made / "captions.json").write_text(json.dumps(grounding_file(content, "train", 0)))
    (made / "classes.txt").write_text("\n".join(["background", *(c["name"] for c in content["categories"])]) + "\n")
    return made


if __name__ == "__main__":  # python -m tests.tiny_methods FOLDER: the data and the configs of all methods, for tools/kill_test.py
    import sys

    root = Path(sys.argv[1])
    print(write_data(root / "data"), *(write_method(root, method) for method in METHODS))

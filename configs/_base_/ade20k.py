"""ADE20K (SceneParse150): ade/ADEChallengeData2016/{images,annotations}/{training,validation} below the data root; 512-pixel crops."""
from mmengine.config import read_base

with read_base():
    from .crops_512 import crops, test_evaluator, train_dataloader, val_dataloader, val_evaluator, whole

from ovdense.data.segmentation import FolderSegmentation

train_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="ADE20K",
    image_prefix="ade/ADEChallengeData2016/images/training",
    label_prefix="ade/ADEChallengeData2016/annotations/training",
    classes="ade150_png",
    transforms=crops,
)
val_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="ADE20K",
    image_prefix="ade/ADEChallengeData2016/images/validation",
    label_prefix="ade/ADEChallengeData2016/annotations/validation",
    classes="ade150_png",
    test_mode=True,
    transforms=whole,
)
test_dataloader = val_dataloader

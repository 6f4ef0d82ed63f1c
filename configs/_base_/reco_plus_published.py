"""ReCo+ as released: DeepLabV3+, ResNet-101, output stride 8, 20,000 iterations of 320-pixel squares. A config adds `model.classes` and data with `squares`.

Differs from the release: the head is mmseg's (512 wide; a 3x3 convolution after the pyramid and two separable ones before the classifier, there
256 wide, a 1x1 and one); labels are of whole photos at the squares' scale, there of the squares; padding has ImageNet's mean colour, there the
image's; val is measured without the CRF, by which the release chooses its checkpoint.
"""
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

from ovdense.data.center_crop import CenterSquare
from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import CropPatch, LoadLabelMap, RandomScale
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.strong_colours import StrongColours
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip
from ovdense.methods.reco.plus import DilatedResNet, RecoPlus

model = dict(type=RecoPlus, backbone=dict(type=DilatedResNet, depth=101, weights=None))
squares = [
    dict(type=LoadImage),
    dict(type=LoadLabelMap),
    dict(type=CenterSquare, size=320, interpolation="bilinear"),  # the release takes nearest to test, not to train
    dict(type=RandomScale, scale=(320, 320), ratio_range=(0.5, 2.0)),
    dict(type=CropPatch, size_hw=(320, 320)),
    dict(type=RandomFlip, prob=0.5),
    dict(type=StrongColours),
    dict(type=PackDetection),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=Adam, lr=5e-4, betas=(0.9, 0.999), weight_decay=2e-4),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=20000)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=20000, val_interval=1000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

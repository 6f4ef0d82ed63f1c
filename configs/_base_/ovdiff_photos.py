"""OVDiff at CPU size, from embedded weights: retrieved photos below the data root, cut out by GrabCut. The data set is lacking; `whole` are its transforms."""
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
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
    prototypes=dict(num_parts=4),
    test=dict(crops=()),
)

whole = [
    dict(type=LoadImage),
    dict(type=ResizeShortestEdge, short_sides=(320,), max_size=640),
    dict(type=LoadLabelMap),
    dict(type=PackDetection),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
)
test_evaluator = [dict(type=SemanticMetric)]
test_cfg = dict(type=TestLoop)

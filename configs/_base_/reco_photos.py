"""ReCo from weights that come with pip, with an archive of 178 photos below the data root. Import names with `read_base`."""
from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.vision.trunk import TimmTrunk

model = dict(
    type=ReCo,
    encoder=dict(type=TimmTrunk, name="tf_efficientnet_lite0"),
    dense=dict(type=ConseDualEncoder),
    retriever=dict(type=ConseDualEncoder, centering=1.0),
    retrieval=dict(archive="coco_mini/train2017", k=10, px=384, index_px=384, index_square=False, use_synonyms=True),
    # the dense encoder's cosines are far larger than CLIP's: with the published attention, sigmoid(10 cos), everything is attended to
    cosegmentation=dict(window="image", context_elimination=False, temperature=20.0, centre=0.7),
    inference=dict(dense=True, background_thr=0.2, crf=None),
)

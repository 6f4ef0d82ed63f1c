"""ReCo as released: ImageNet as the archive, CLIP ViT-L/14@336 to retrieve, RN50x16 for text attention, DeiT-S/16-SIN to co-segment."""
from ovdense.methods.dual_encoder import ClipDualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.vision.vit import VitBackbone

model = dict(
    type=ReCo,
    encoder=dict(type=VitBackbone, name="deit_small_distilled_patch16_224", weights=None),
    # both towers see images normalised as for ImageNet, as in the release
    dense=dict(
        type=ClipDualEncoder, model_name="RN50x16-quickgelu", pretrained=None, templates="imagenet_scene", mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    retriever=dict(type=ClipDualEncoder, model_name="ViT-L-14-336-quickgelu", pretrained=None, templates="imagenet_scene"),
    retrieval=dict(archive="ImageNet2012/train", k=50, px=224, index_px=336, deduplicate=False),
    cosegmentation=dict(window="published", contexts=("tree", "sky", "building", "road", "person")),
    inference=dict(dense=True, background_thr=None, crf=None),
)

"""Tiny DenseCLIP models for tests: built in milliseconds, random weights."""
import torch

from ovdense.methods.denseclip.decoders import MaskRcnnDecoder, RetinaNetDecoder, SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.methods.denseclip.open_decoder import OpenSemanticFpn
from ovdense.structures import ImageTarget, Vocabulary
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipResNet

NAMES = ["cat", "sofa", "potted plant"]
CHANNELS = (32, 64, 128, 256)


def make(decoder="semantic", *, seed=0, prompting="post", vocabulary=NAMES, **more) -> DenseClip:
    torch.manual_seed(seed)
    backbone = ClipResNet((1, 1, 1, 1), width=8, embed_width=12, table_size=3, positions="interpolate" if "semantic" in decoder else "crop")
    encoder = ClipContextEncoder(embed_width=12, width=16, heads=2, layers=2)
    own = dict(in_channels=CHANNELS, channels=8)
    parts = {
        "semantic": lambda: SemanticFpn(len(vocabulary), head_channels=8, **own),
        "open_semantic": lambda: OpenSemanticFpn(embed_width=12, head_channels=8, refine_channels=4, **own),
        "retina": lambda: RetinaNetDecoder(len(vocabulary), stacked_convs=1, **own),
        "mask_rcnn": lambda: MaskRcnnDecoder(len(vocabulary), **own),
    }
    pixel_text = dict(prompting=prompting, num_contexts=4, **({} if prompting == "none" else {"decoder": dict(width=8, heads=2, num_layers=1, dropout=0.0)}))
    pixel_text |= more.pop("pixel_text", {})
    model = DenseClip(backbone=backbone, decoder=parts[decoder](), text_encoder=encoder, pixel_text=pixel_text, vocabulary=vocabulary, **more)
    with torch.no_grad():  # fresh blocks end in zeros: nothing of what is compared would show
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight") or "refine.2" in name or name.endswith("gamma"):
                parameter.normal_(std=0.5)
    model.set_vocabulary(Vocabulary.of(list(vocabulary)))
    return model.eval()


def images(count=2, height=64, width=96, seed=0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def targets(batch: torch.Tensor, *, boxes=(), classes=(), label=None, masks=False) -> list[ImageTarget]:
    size = tuple(batch.shape[-2:])
    found = []
    for b in range(len(batch)):
        xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        filled = torch.zeros(len(xyxy), *size, dtype=torch.bool)
        for n, (x1, y1, x2, y2) in enumerate(xyxy.long().tolist()):
            filled[n, y1:y2, x1:x2] = True
        found.append(ImageTarget(image_id=b, file_name=f"{b}.jpg", size_hw=size, original_size_hw=size, boxes_xyxy=xyxy,
                                 labels=torch.tensor(classes, dtype=torch.long), masks_NHW=filled if masks else None,
                                 label_map_HW=None if label is None else label[b]))  # fmt: skip
    return found

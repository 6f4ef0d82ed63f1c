"""MDETR at the smallest size, for tests."""
import torch

from ovdense.methods.mdetr.model import Mdetr
from ovdense.structures import ImageTarget, Results
from ovdense.text.caption_prompts import caption_prompt
from ovdense.text.encoders import BertTextEncoder
from ovdense.text.phrases import find_phrases
from ovdense.vision.backbones import TimmBackbone


def tiny(*, slots_from="learned", tokens="position", masks=False, mask_boxes=False, joined=None, criterion=None, head=None, **test) -> Mdetr:
    torch.manual_seed(0)
    model = Mdetr(
        backbone=TimmBackbone("resnet18", out_strides=(4, 8, 16, 32) if masks else (16, 32), norm_frozen=True),
        text_encoder=BertTextEncoder(weights=None, frozen=False, config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                                                             hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)),
        transformer=dict(width=128 if masks else 32, num_heads=8 if masks else 2, encoder_layers=1, decoder_layers=2, ffn_width=32, dropout=0.0,
                         text_dropout=0.0, num_slots=6, slots_from=slots_from, joined=joined or (1 if masks else 2)),
        head=dict(align_width=16, tokens=tokens) | (head or {}), masks=masks, mask_boxes=mask_boxes, criterion=criterion, test=test,
    )
    return model.eval()


def image(seed, size=(64, 96)):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def target(n=0, size=(64, 96), caption=None, phrases=(), boxes=(), masks=None, **more) -> ImageTarget:
    """Return a target: `boxes[k]` is that of `phrases[k]`."""
    spans = tuple(tuple(s) for s in find_phrases(caption, phrases)) if phrases else ()
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return ImageTarget(image_id=n, file_name=f"{n}.jpg", size_hw=size, original_size_hw=size, boxes_xyxy=xyxy,
                       labels=torch.zeros(len(boxes), dtype=torch.int64), caption=caption, positive_spans=spans, masks_NHW=masks, **more)


DOG = dict(caption="a red dog and two small cats", phrases=["a red dog", "two small cats"], boxes=[(4, 4, 40, 50), (50, 10, 90, 60)])
BIRD = dict(caption="a bird", phrases=["a bird"], boxes=[(10, 20, 60, 60)])


def batch(model, targets, images=None):
    """Return the preprocessed batch."""
    images = images or [image(n, t.size_hw) for n, t in enumerate(targets)]
    return model.data_preprocessor({"images": images, "targets": targets}, True)


def losses(model, targets, images=None):
    return model(**batch(model, targets, images), mode="loss")


def total(found) -> torch.Tensor:
    return sum(v for k, v in found.items() if k.startswith("loss"))


def ask(model, caption, phrases, images=None, targets=None) -> list[Results]:
    vocabulary, prompt = caption_prompt(caption, find_phrases(caption, phrases))
    model.ask([prompt], vocabulary)
    targets = targets or [target()]
    return model.predict(*batch(model, targets, images).values())

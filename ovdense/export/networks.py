"""What of a model goes into a file: one image of a fixed size in, scores (and boxes) out, everything the text gives as constants or as an input.

Each network takes (1, 3, H, W) float32 RGB of 0..255 and normalises itself. K classes, G captions, Q places or slots, C text width.
"""
import copy
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.heads.anchors import decode_deltas, grid_anchors
from ovdense.methods.base import OpenVocabModel


class CannotExport(ValueError):
    """This model, or the way it is asked, has no form that another runtime can run; the message says why and what can be done."""


class _Network(nn.Module):
    """`outputs`: their names; `about`: what the file says of the model beside its names and sizes; `text`: (K, C), the text input's value, or None."""

    outputs: tuple[str, ...] = ("scores",)

    def __init__(self, model: OpenVocabModel) -> None:
        super().__init__()
        self.model = model
        self.about: dict[str, Any] = {}
        self.text: Tensor | None = None

    def _normal(self, images: Tensor) -> Tensor:
        return (images - self.model.data_preprocessor.mean) / self.model.data_preprocessor.std


def _without(model: nn.Module, *names: str) -> nn.Module:
    """Return the module with these parts left out (its language model, whose weights would fill the file); the one given is as before."""
    bare = copy.copy(model)
    bare._modules = {name: nn.Identity() if name in names and part is not None else part for name, part in model._modules.items()}
    return bare


class MaskClipNetwork(_Network):
    """MaskCLIP: cosines of places and the whole image with a row a class (`text`), or with all rows, backgrounds and contexts folded in."""

    def __init__(self, model: Any, fold: bool) -> None:
        bare = copy.copy(model)
        bare._modules = {**model._modules, "encoder": _without(model.encoder, "text")}
        super().__init__(bare)
        text = model.text()
        bank, context = text.bank, text.context
        owner = bank.class_of_row_M.tolist()
        self.rows_of = [[m for m, k in enumerate(owner) if k == wanted] for wanted in range(bank.num_classes)]
        self.background = bank.background_K.tolist()
        self.register_buffer("rows_MD", bank.rows_MD.detach().clone(), persistent=False)
        self.register_buffer("context_MD", None if context is None else context.rows_MD.detach().clone(), persistent=False)
        if not fold:
            if any(len(rows) != 1 for rows in self.rows_of) or context is not None:
                raise CannotExport("text as an input has one row a class and no contexts; this model has several rows for a class (synonyms, pictures) or "
                                   "contexts: export it with fold=True")
            self.text = self.rows_MD[[rows[0] for rows in self.rows_of]]
            self.about["background_thr"] = model.background_thr
        self.about |= {"activation": "identity", "image_weight": model.image_weight}

    def forward(self, images: Tensor, text: Tensor | None = None) -> Tensor:
        places, image_BD = self.model.encoder.encode_places(self._normal(images))
        if text is not None:
            return self._cosines(places.tensor_BCHW, image_BD, text)
        logit_BMHW = self._cosines(places.tensor_BCHW, image_BD, self.rows_MD)
        score = torch.stack([logit_BMHW[:, rows].amax(1) for rows in self.rows_of], 1)
        if not any(self.background):
            return score
        raised = None if self.context_MD is None else self._cosines(places.tensor_BCHW, image_BD, self.context_MD).amax(1, keepdim=True)
        floor = score if self.model.background_thr is None else torch.full_like(score, self.model.background_thr)
        if raised is not None:
            floor = raised.expand_as(score) if self.model.background_thr is None else torch.maximum(floor, raised)
        keep = torch.tensor(self.background)[None, :, None, None].to(score)
        return score * (1 - keep) + floor * keep

    def _cosines(self, places_BDHW: Tensor, image_BD: Tensor, rows_MD: Tensor) -> Tensor:
        flat = rows_MD @ places_BDHW.flatten(2)  # (B, M, HW)
        score = flat + self.model.image_weight * (image_BD @ rows_MD.T)[:, :, None]
        return score.unflatten(2, tuple(places_BDHW.shape[2:]))


class DenseClipNetwork(_Network):
    """DenseCLIP's segmenters: the published form folded; the open form folded or with the classes' vectors as `text`."""

    def __init__(self, model: Any, fold: bool) -> None:
        from ovdense.methods.denseclip.pixel_text import ClassText

        super().__init__(_without(model, "text_encoder"))
        if model.decoder.task != "semantic":
            raise CannotExport("DenseCLIP's detectors choose boxes by mmdet's own heads, whose NMS is no part of a network; its segmenters can be exported")
        if not fold and not model.decoder.is_open:
            raise CannotExport("the published form's score maps are channels of its pyramid, so its classes cannot be an input; export it with fold=True")
        said = model.text()
        if said is not None and said.rows_1KC is None:
            raise CannotExport("with pre-model prompting the text is encoded for each image, so the language model would have to go along; "
                               'take prompting="post" or "none"')
        self.about["activation"] = "softmax"
        self.language = said is not None
        if not self.language:
            return
        rows_KC = model.pixel_text._with_background(said.rows_1KC, said)[0].detach().clone()
        self._class_text = ClassText
        if fold:
            self.register_buffer("rows_KC", rows_KC, persistent=False)
        else:
            self.text = rows_KC

    def forward(self, images: Tensor, text: Tensor | None = None) -> Tensor:
        features = self.model.encode_image(self._normal(images))
        if not self.language:
            return self.model.score(features, None).logit_BKHW
        rows = self.rows_KC if text is None else text
        none = torch.zeros_like(rows[:, 0], dtype=torch.bool)  # the background's vector is among the rows already
        said = self._class_text(rows_1KC=rows[None], tokens=None, class_of_sentence_S=torch.zeros_like(none, dtype=torch.int64), background_K=none)
        return self.model.score(features, said).logit_BKHW


class DescoNetwork(_Network):
    """DesCo with its captions folded in: a score a place and class, and of each caption boxes and centerness (as the head refines them by the text)."""

    outputs = ("scores", "boxes", "centerness")

    def __init__(self, model: Any, fold: bool, size_hw: tuple[int, int]) -> None:
        from ovdense.methods.desco.chunks import chunk_rows

        super().__init__(_without(model, "text_encoder"))
        if not fold:
            raise CannotExport("DesCo's text goes through the head together with the image; export it with fold=True")
        if model.test.pool == "max":
            raise CannotExport('pool="max" looks at the tokens one by one; take pool="mean" or "power"')
        chunks = model.text()
        self.chunks = chunks
        hidden, valid, together = chunk_rows(chunks, 1)
        for name, value in (("hidden", hidden), ("valid", valid), ("together", together)):
            self.register_buffer(name, value if value is None else value.detach().clone(), persistent=False)
        self.order = torch.cat([c.classes for c in chunks]).argsort().tolist()
        shown = torch.zeros(1, 3, *size_hw, device=hidden.device)
        with torch.no_grad():
            features = model.encode_image(shown)
        sizes = [tuple(f.tensor_BCHW.shape[-2:]) for f in features]
        anchors = grid_anchors(sizes, [f.stride for f in features], scale=model.criterion.anchor_scale, device=hidden.device)
        self.register_buffer("anchors", anchors, persistent=False)
        group = {int(k): g for g, c in enumerate(chunks) for k in c.classes}
        asked = sorted(group)
        decode = {k: v for k, v in asdict(model.test).items() if k in ("score_thr", "pre_nms", "nms_iou", "chunk_dets", "max_dets", "published")}
        self.about = {"group_of_class": [group[k] for k in asked], "classes": asked, "num_per_level": [h * w for h, w in sizes], "decode": decode}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = [f.tensor_BCHW for f in self.model.encode_image(self._normal(images))]
        out = self.model.head(maps, self.hidden, self.valid, self.together)
        score_GQL = out.tokens.logit_BQL.float().sigmoid()
        per_chunk = [self.model._class_scores(score_GQL[g:g + 1, :, : len(c.hidden_LD)], c)[0] for g, c in enumerate(self.chunks)]
        return torch.cat(per_chunk, 1)[:, self.order], decode_deltas(out.delta_BQ4, self.anchors), out.centerness_BQ.float().sigmoid()


class MdetrNetwork(_Network):
    """MDETR with its captions folded in: a score a slot and class, and of each caption the slots' boxes in pixels of the input."""

    outputs = ("scores", "boxes")

    def __init__(self, model: Any, fold: bool, size_hw: tuple[int, int]) -> None:
        super().__init__(_without(model, "text_encoder", "mask_head", "early_head"))
        if not fold:
            raise CannotExport("MDETR's text goes through the transformer together with the image; export it with fold=True")
        self.prompts = model.text()
        self.size_hw = size_hw
        text = nn.utils.rnn.pad_sequence([p.text_LC for p in self.prompts], batch_first=True)
        lengths = torch.tensor([len(p.text_LC) for p in self.prompts], device=text.device)
        valid = torch.arange(text.shape[1], device=text.device)[None] < lengths[:, None]
        with torch.no_grad():
            image = model.encode_image(torch.zeros(1, 3, *size_hw, device=text.device))
        places = image.valid_BHW.flatten(1).expand(len(text), -1)
        every = torch.cat([places, valid], 1)
        for name, value in (("text_GLC", text), ("valid_GL", valid), ("inside", image.valid_BHW), ("codes", image.positions_BPC),
                            ("counts", None if bool(every.all()) else every)):
            self.register_buffer(name, value if value is None else value.detach().clone(), persistent=False)
        self.order = torch.cat([p.classes for p in self.prompts]).argsort().tolist()
        group = {int(k): g for g, p in enumerate(self.prompts) for k in p.classes}
        asked = sorted(group)
        self.about = {"group_of_class": [group[k] for k in asked], "classes": asked,
                      "decode": {"score_thr": model.test.score_thr, "max_dets": model.test.max_dets}}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        from ovdense.methods.mdetr.decode import object_scores, phrase_scores, pixel_boxes
        from ovdense.methods.mdetr.transformer import ImageTokens, Memory

        model, transformer, count = self.model, self.model.transformer, len(self.text_GLC)
        maps = [m.tensor_BCHW for m in model.backbone(self._normal(images))]
        source = self._source(maps)
        image = ImageTokens(source_BCHW=source.expand(count, -1, -1, -1), valid_BHW=self.inside.expand(count, -1, -1), positions_BPC=self.codes)
        tokens = torch.cat([image.source_BCHW.flatten(2).transpose(1, 2), self.text_GLC], 1)
        positions = F.pad(self.codes.expand(count, -1, -1), (0, 0, 0, self.text_GLC.shape[1]))
        memory = Memory(tokens_BLC=transformer.encoder(tokens, positions, self.counts), positions_BLC=positions, valid_BL=self.counts,
                        num_places=self.codes.shape[1])

        def propose(slots: Tensor, starts: Tensor) -> Any:
            return model.proposal_head(slots, memory.text_BLC, self.valid_GL, starts)

        states, reference, _ = transformer.decode(memory, image, propose, None, last_only=True)
        out = model.head(states, memory.text_BLC, self.valid_GL, reference)
        logit_GQT, how = out.logit_NBQT[-1], model.test.phrase_score
        final_GQ = [None] * count if out.final_NBQ is None else out.final_NBQ[-1]
        per_prompt = [object_scores(logit_GQT[g])[:, None] if p.alone else phrase_scores(logit_GQT[g], p.tokens_KL, how, final_GQ[g])
                      for g, p in enumerate(self.prompts)]  # fmt: skip
        return torch.cat(per_prompt, 1)[:, self.order], pixel_boxes(out.boxes_NBQ4[-1], self.size_hw)

    def _source(self, maps: Sequence[Tensor]) -> Tensor:
        from ovdense.methods.mdetr.transformer import _gathered

        part = self.model.transformer
        size = maps[-1].shape[-2:]
        joined = [_gathered(m, k, size) for m, k in zip(maps[-len(part.shrinks):], part.shrinks)]
        return part.image_projection(part.image_norm(torch.cat(joined, 1) if len(joined) > 1 else joined[0]))


def network_of(model: OpenVocabModel, fold: bool, size_hw: tuple[int, int]) -> tuple[_Network, str]:
    """Return the network of a model whose vocabulary is set, and its task: "label map", "desco" or "mdetr". CannotExport for other models."""
    from ovdense.methods.denseclip.model import DenseClip
    from ovdense.methods.desco.model import Desco
    from ovdense.methods.maskclip import MaskClip
    from ovdense.methods.mdetr.model import Mdetr

    if isinstance(model, MaskClip):
        return MaskClipNetwork(model, fold), "label map"
    if isinstance(model, DenseClip):
        return DenseClipNetwork(model, fold), "label map"
    if isinstance(model, Desco):
        return DescoNetwork(model, fold, size_hw), "desco"
    if isinstance(model, Mdetr):
        if model.head.answers is not None:
            raise CannotExport("MDETR that answers questions is not exported; export a model without answers in its head")
        return MdetrNetwork(model, fold, size_hw), "mdetr"
    raise CannotExport(f"{type(model).__name__} cannot be exported; MaskClip, DenseClip's segmenters, Desco and Mdetr can. ReCo, ReCo+ and "
                       "OVDiff cannot; train an open DenseClip on labels that tools/pseudo_label.py makes with them, and export that")


class _FixedResize(nn.Module):
    """ConSE's resize (bicubic, antialiased, the range kept) of one size as two matrices: the same arithmetic in every runtime."""

    def __init__(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> None:
        super().__init__()
        for name, have, want in (("rows", from_hw[0], to_hw[0]), ("columns", from_hw[1], to_hw[1])):
            eye = torch.eye(have)[None, None]
            self.register_buffer(name, F.interpolate(eye, size=(want, have), mode="bicubic", antialias=True)[0, 0], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        out = self.rows @ images @ self.columns.T
        return torch.minimum(torch.maximum(out, low), high)


@contextmanager
def fixed_sizes(model: nn.Module, size_hw: tuple[int, int]):
    """While it is open, encoders that resize by the image's size do so for this one size."""
    from ovdense.vision.dense import ConseEncoder

    found = [m for m in model.modules() if isinstance(m, ConseEncoder)]
    for encoder in found:
        encoder._resized = _resizer(encoder, size_hw)
    try:
        yield
    finally:
        for encoder in found:
            del encoder._resized


def _resizer(encoder: Any, size_hw: tuple[int, int]):
    made: dict[int, nn.Module | None] = {}
    for side in encoder.short_sides:
        size = tuple(encoder.size_at(size_hw, side))
        made[side] = None if size == tuple(size_hw) else _FixedResize(size_hw, size).to(encoder.anchors_MD)
    return lambda images, short_side: images if made[short_side] is None else made[short_side](images)

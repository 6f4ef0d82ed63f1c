"""MDETR (arXiv 2104.12763): a detector that is asked with a caption and says which box each phrase means.

The backbone runs once an image and the text encoder once a vocabulary; encoder and decoder run for each pair of an image and a caption.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovdense.compat.weights import call_after_load, weights_state
from ovdense.heads.embedding_head import AlignmentHead
from ovdense.methods.base import OpenVocabModel, built
from ovdense.methods.mdetr.criterion import ImageTruth, MdetrCriterion
from ovdense.methods.mdetr.decode import PHRASE_SCORES, object_scores, phrase_results, phrase_scores, pixel_boxes
from ovdense.methods.mdetr.head import MdetrHead, MdetrOutputs
from ovdense.methods.mdetr.mask_head import MaskHead, file_masks
from ovdense.methods.mdetr.prompts import many_class_prompts, one_class_prompts
from ovdense.methods.mdetr.transformer import ImageTokens, MdetrTransformer, Memory
from ovdense.methods.mdetr.truth import image_answers, image_truths
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap, ImageTarget, Results, TokenizedText, Vocabulary
from ovdense.text.phrases import phrase_map
from ovdense.text.prompts import PromptChunk, require_all_asked


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One caption, encoded and projected: `text_LC` without padding; `tokens_KL` bool, those of its classes; `classes` (K,) their indices.

    `alone`: the caption is one class and nothing else, so that any object is that class.
    """

    text_LC: Tensor
    tokens_KL: Tensor
    classes: Tensor
    alone: bool

    def to(self, device: torch.device) -> "EncodedPrompt":
        return EncodedPrompt(text_LC=self.text_LC.to(device), tokens_KL=self.tokens_KL.to(device), classes=self.classes.to(device), alone=self.alone)


@dataclass(frozen=True, kw_only=True)
class TestSettings:
    """How predictions are made.

    `prompts`: "one" class a caption, scored 1 - P(no object) (the published LVIS protocol), or "many", as many classes as fit, at most
    `max_classes`, scored as phrases by `phrase_score` (see `decode.phrase_scores`). `pairs`: pairs of an image and a caption that are computed together.
    `score_thr`: pairs of a slot and a phrase at or below it are dropped (0: none). `max_dets` an image (None: all, for fixed AP). `clip`: cut boxes at the
    image's border. `masks`: predict masks where there is a mask head and a caption is asked. `mask_thr`. `published`: names as the release asks them.
    """

    __test__ = False  # not a test case, whatever a collector thinks of the name

    prompts: str = "one"
    max_classes: int | None = None
    phrase_score: str = "sum"
    pairs: int = 4
    score_thr: float = 0.0
    max_dets: int | None = None
    clip: bool = True
    masks: bool = True
    mask_thr: float = 0.5
    published: bool = False

    def __post_init__(self) -> None:
        if self.prompts not in ("one", "many"):
            raise ValueError(f'prompts must be "one" or "many" (classes a caption), got {self.prompts!r}')
        if self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {self.pairs}")
        if self.phrase_score not in PHRASE_SCORES:
            raise ValueError(f"phrase_score must be one of {', '.join(PHRASE_SCORES)}, got {self.phrase_score!r}")
        if self.prompts == "many" and self.phrase_score == "object":
            raise ValueError('phrase_score="object" scores all classes of a caption alike: take "sum" or "max" with prompts="many"')
        for name in ("max_classes", "max_dets"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {value}")


@MODELS.register_module()
class Mdetr(OpenVocabModel):
    """MDETR: `backbone`, `text_encoder`, and `transformer` (`MdetrTransformer`), `head` (`MdetrHead`), `criterion`, `test` by their settings.

    `masks` adds the mask head on the backbone's finer maps; "only" trains it alone with all the rest frozen (the published second
    stage for PhraseCut; here without dropout in what is frozen, which the release leaves on). `mask_boxes`: the mask head sees the slots'
    boxes, too (ours, see `MaskHead`). `early` also aligns places and tokens before they meet (ours, for short trainings). `divisor`: images are
    padded to a multiple of it (1 as published; padding is masked, yet border convolutions see it).
    """

    def __init__(self, *, backbone: dict | nn.Module, text_encoder: dict | nn.Module, transformer: dict | None = None, head: dict | None = None,
                 masks: bool | str = False, mask_boxes: bool = False, early: bool = False, criterion: dict | None = None, test: dict | None = None,
                 divisor: int = 1) -> None:
        backbone = built(backbone)
        super().__init__(mean=backbone.mean, std=backbone.std, divisor=divisor)
        self.backbone, self.text_encoder = backbone, built(text_encoder)
        if not hasattr(self.text_encoder, "max_tokens"):
            raise ValueError(f"text_encoder must read whole captions of at most max_tokens, {type(self.text_encoder).__name__} does not; "
                             "give a BertTextEncoder or a RobertaTextEncoder")  # fmt: skip
        self.transformer = MdetrTransformer(backbone.channels, backbone.strides, self.text_encoder.width, **(transformer or {}))
        self.head = MdetrHead(self.transformer.width, **(head or {}))
        proposals = self.transformer.slots_from == "proposals"
        plain = {k: v for k, v in (head or {}).items() if k not in ("final", "answers")}
        self.proposal_head = MdetrHead(self.transformer.width, **plain) if proposals else None
        # what projects places and tokens is trained directly as well, see `MdetrCriterion.early_loss`
        self.early_head = AlignmentHead(self.transformer.width, self.transformer.width) if early else None
        self.masks = masks
        self.mask_head = None
        if masks:
            heads = -(-self.transformer.num_heads // 8) * 8  # 8 as published; what the head's group norms can divide
            self.mask_head = MaskHead(self.transformer.width, heads, backbone.channels[-2::-1], boxes=mask_boxes)
        if masks == "only":
            for part in (self.backbone, self.text_encoder, self.transformer, self.head, self.proposal_head, self.early_head):
                if part is not None:
                    part.requires_grad_(False)
        self.criterion = MdetrCriterion(**(criterion or {}))
        self.test = TestSettings(**(test or {}))
        self._prompts: tuple[Any, list[EncodedPrompt]] | None = None
        call_after_load(self, "_forget")

    @property
    def device(self) -> torch.device:
        return self.transformer.image_projection.weight.device

    @property
    def max_tokens(self) -> int:
        """The most tokens of a caption, special ones included: one column is "no object" (the release lets a token have it too)."""
        return min(self.text_encoder.max_tokens, self.text_encoder.max_tokens if self.criterion.published else self.head.columns - 1)

    def train(self, mode: bool = True) -> "Mdetr":
        self._forget()  # the language model may change: text is encoded anew at the next prediction
        super().train(mode)
        if mode and self.masks == "only":
            for part in (self.backbone, self.text_encoder, self.transformer, self.head):
                part.eval()
        return self

    def _forget(self) -> None:
        self._prompts = None

    def protocol(self) -> dict[str, Any]:
        test, asked = self.test, self.asked is not None
        alone = test.prompts == "one" and not asked
        return super().protocol() | {
            "classes_per_caption": 1 if alone else "the caption's phrases" if asked else f"as many as fit {self.max_tokens} tokens"
            + (f", at most {test.max_classes}" if test.max_classes else ""),
            "captions": len(self.text()) if self.vocabulary else 0,
            "score": self._score_rule(alone),
            "model_detections": f"{test.max_dets or 'all'} per image",
            "score_thr": test.score_thr,
            "boxes": "cut at the image's border" if test.clip else "not cut",
        } | ({"published_names": True} if test.published else {})

    def _score_rule(self, alone: bool) -> str:
        if not alone and self.test.phrase_score != "object":
            return f"{self.test.phrase_score} over the phrase's tokens"
        return "1 - P(no object)" + ("" if alone or self.head.final is None else " x P(final)")

    # the four verbs

    def encode_image(self, images: Tensor, sizes_hw: Sequence[tuple[int, int]] | None = None) -> ImageTokens:
        """Return the image tokens; `sizes_hw` are the images' sizes before padding (None: nothing is padding)."""
        valid = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=images.device)
        for b, (h, w) in enumerate(sizes_hw or [tuple(images.shape[-2:])] * len(images)):
            valid[b, :h, :w] = True
        maps: list[FeatureMap] = self.backbone(images)
        return self.transformer.image_tokens(maps, valid, fine=0 if self.mask_head is None else len(maps) - 1)

    def encode_text(self, vocabulary: Vocabulary) -> list[EncodedPrompt]:
        if self.test.prompts == "one":
            return self.encode_prompts(one_class_prompts(vocabulary, prompt=self.prompt, published=self.test.published), alone=True)
        room = self.max_tokens - self.text_encoder.tokenizer.num_special
        tokenizer, most = self.text_encoder.tokenizer, self.test.max_classes
        return self.encode_prompts(many_class_prompts(vocabulary, tokenizer, prompt=self.prompt, max_classes=most, max_tokens=room))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[PromptChunk], *, alone: bool = False) -> list[EncodedPrompt]:
        """Return the captions encoded, in full precision; ValueError names one that has too many tokens."""
        encoded = []
        for start in range(0, len(prompts), 32):
            group = prompts[start : start + 32]
            tokenized = self.text_encoder.tokenizer.encode([p.caption for p in group], max_tokens=self.max_tokens).to(self.device)
            with torch.autocast(self.device.type, enabled=False):  # it is kept: whoever asks first does not decide the precision
                text = self.transformer.text_projection(self.text_encoder.encode(tokenized))
            for b, prompt in enumerate(group):
                length = int(tokenized.valid_BL[b].sum())
                tokens = phrase_map(tokenized, b, prompt.spans_per_class).tokens_PL[:, :length]
                encoded.append(EncodedPrompt(text_LC=text[b, :length], tokens_KL=tokens.to(self.device),
                                             classes=torch.tensor(prompt.class_indices, device=self.device), alone=alone))
        return encoded

    def run(self, image: ImageTokens, text_BLC: Tensor, valid_BL: Tensor, *, last_only: bool = False) -> tuple[MdetrOutputs, Tensor, Memory]:
        """Return the predictions, the slots' last states (B, Q, C) and the encoder's memory of pairs of an image and a caption."""
        memory = self.transformer.encode(image, text_BLC, valid_BL)
        text = memory.text_BLC

        def propose(tokens: Tensor, starts: Tensor) -> MdetrOutputs:
            return self.proposal_head(tokens, text, valid_BL, starts)

        answers = self.head.answers
        extra = None if answers is None else answers.slots.weight
        states, reference, proposals = self.transformer.decode(memory, image, propose, extra, last_only=last_only and answers is None)
        out = self.head(states, text, valid_BL, reference, last_only=last_only)
        slots = states[-1] if answers is None else states[-1][:, : -len(extra)]
        if proposals is not None:
            out = MdetrOutputs(**{**vars(out), "proposals": proposals})
        return out, slots, memory

    def score(self, features: ImageTokens, text: Sequence[EncodedPrompt]) -> Iterator[tuple[list[tuple[int, EncodedPrompt]], MdetrOutputs, Tensor, Memory]]:
        """Yield predictions for pairs of an image and a caption, `test.pairs` of them at a time: memory does not grow with the vocabulary."""
        pairs = [(b, prompt) for b in range(len(features.source_BCHW)) for prompt in text]
        for start in range(0, len(pairs), self.test.pairs):
            group = pairs[start : start + self.test.pairs]
            rows = [prompt.text_LC for _, prompt in group]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(r) for r in rows], device=padded.device)
            valid = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
            image = features.take(torch.tensor([b for b, _ in group], device=padded.device))
            yield group, *self.run(image, padded, valid, last_only=True)

    def decode(
        self, scored: Iterator[Any], targets: Sequence[ImageTarget], features: ImageTokens | None = None, padded_hw: tuple[int, int] | None = None
    ) -> list[Results]:
        """Return each image's results; with `features` and the padded size `padded_hw` of the batch their masks too."""
        found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in targets]
        slots: list[list[Tensor]] = [[] for _ in targets]
        answers: list[dict[str, int] | None] = [None] * len(targets)
        for group, out, states, memory in scored:
            for n, (b, prompt) in enumerate(group):
                logit, target = out.logit_NBQT[-1, n], targets[b]
                final = None if out.final_NBQ is None else out.final_NBQ[-1, n]
                score = object_scores(logit)[:, None] if prompt.alone else phrase_scores(logit, prompt.tokens_KL, self.test.phrase_score, final)
                boxes = pixel_boxes(out.boxes_NBQ4[-1, n], target.original_size_hw, clip=self.test.clip)
                part, slot = phrase_results(score, boxes, prompt.classes, score_thr=self.test.score_thr, max_dets=self.test.max_dets,
                                            names=self.vocabulary.names, size_hw=target.original_size_hw, image_id=target.image_id)
                found[b].append((part.boxes_xyxy, part.scores, part.labels))
                answers[b] = self.head.answers.read(out.answers, n) if out.answers and self.asked is not None else None  # one caption, one question
                if features is not None and self.mask_head is not None:
                    slots[b].append(self._masks(features, b, n, slot, states, out.boxes_NBQ4[-1, n], memory, target, padded_hw))
        return [self._result(parts, masks, target, said) for parts, masks, target, said in zip(found, slots, targets, answers)]

    def _masks(
        self, features: ImageTokens, b: int, n: int, slot: Tensor, states: Tensor, boxes_Q4: Tensor, memory: Memory, target: ImageTarget,
        padded_hw: tuple[int, int],
    ) -> Tensor:
        """Return (N, H, W) bool masks of the file's size for detections made by `slot` (N,) of pair n, which is of image b."""
        wanted, which = slot.unique(return_inverse=True)
        one, own = torch.zeros(len(wanted), dtype=torch.int64, device=slot.device), slice(b, b + 1)
        logit = self.mask_head(states[n, wanted], one, features.source_BCHW[own], memory.image_BPC[n : n + 1], features.valid_BHW[own].flatten(1),
                               [f[own] for f in features.fine], self._mask_boxes(boxes_Q4[wanted], one, [target], padded_hw))
        return file_masks(logit, padded_hw, target.size_hw, target.original_size_hw, threshold=self.test.mask_thr)[which]

    def _mask_boxes(self, boxes_N4: Tensor, image_N: Tensor, targets: Sequence[ImageTarget], padded_hw: tuple[int, int]) -> Tensor | None:
        """Return the boxes in shares of the padded input, without a gradient, where the mask head sees boxes."""
        if self.mask_head.places is None:
            return None
        (height, width), sizes = padded_hw, [t.size_hw for t in targets]
        share = boxes_N4.new_tensor([[w / width, h / height] * 2 for h, w in sizes])
        return boxes_N4.detach() * share[image_N]

    def _result(self, parts: Sequence[tuple[Tensor, Tensor, Tensor]], masks: Sequence[Tensor], target: ImageTarget, answers: dict[str, int] | None) -> Results:
        """Merge the captions of an image (no NMS, as published), best first."""
        boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
        order = scores.argsort(descending=True, stable=True)[: self.test.max_dets] if len(parts) > 1 else torch.arange(len(scores), device=scores.device)
        extra = {"masks_NHW": torch.cat(list(masks))[order]} if masks else {}
        return Results(boxes_xyxy=boxes[order], scores=scores[order], labels=labels[order], names=self.vocabulary.names, size_hw=target.original_size_hw,
                       image_id=target.image_id, answers=answers, **extra)

    # modes

    def ask(self, prompts: Sequence[PromptChunk], vocabulary: Vocabulary) -> None:
        require_all_asked(prompts, vocabulary)
        encoded = self.encode_prompts(prompts)  # what does not fit is said before anything changes
        self.vocabulary, self.prompt, self.asked = vocabulary, "captions", tuple(prompts)
        self._prompts = (self._text_key(), encoded)

    def text(self) -> list[EncodedPrompt]:
        """Return the encoded captions of the vocabulary: made at the first call after it was set, then reused."""
        if self.vocabulary is None:
            raise ValueError("the model must know its classes first; call set_vocabulary(vocabulary)")
        key = self._text_key()
        if self._prompts is None or self._prompts[0] != key:
            self._prompts = (key, self.encode_text(self.vocabulary) if self.asked is None else self.encode_prompts(self.asked))
        elif self._prompts[1][0].text_LC.device != self.device:
            self._prompts = (key, [prompt.to(self.device) for prompt in self._prompts[1]])
        return self._prompts[1]

    def _text_key(self) -> tuple[Any, ...]:
        """Return all that the encoded captions depend on."""
        asked = (self.prompt, self.test) if self.asked is None else self.asked
        return self.vocabulary, asked, weights_state(self.text_encoder), weights_state(self.transformer.text_projection)

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        text = self.text()
        features = self.features(images, [tuple(t.size_hw) for t in targets])
        with_masks = self.mask_head is not None and self.test.masks and self.asked is not None
        return self.decode(self.score(features, text), targets, features if with_masks else None, tuple(images.shape[-2:]))

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        captions = [t.caption for t in targets]
        if None in captions:
            name = targets[captions.index(None)].file_name
            raise ValueError(f"training images must carry a caption, image {name} has none; take a data set with captions, or add a step that writes them")
        # what does not fit is cut off: boxes whose phrase is cut have no tokens and train their place only
        tokenized = self.text_encoder.tokenizer.encode(captions, max_tokens=self.max_tokens, on_overflow="truncate").to(self.device)
        text = self.transformer.text_projection(self.text_encoder.encode(tokenized))
        image = self.encode_image(images, [t.size_hw for t in targets])
        out, states, memory = self.run(image, text, tokenized.valid_BL, last_only=not self.criterion.auxiliary)
        truth = image_truths(tokenized, targets, self.device, published=self.criterion.published, final=self.head.final is not None)
        matches = self.criterion.match(out, truth)
        losses = {} if self.masks == "only" else self.criterion(out, truth, matches)
        if self.early_head is not None and self.masks != "only":
            places = image.source_BCHW.flatten(2).transpose(1, 2)
            losses |= self.criterion.early_loss(self.early_head(places, text), tokenized.valid_BL, self.transformer.starts(image.valid_BHW)[..., :2], truth)
        if self.mask_head is not None:
            losses |= self._mask_losses(image, targets, truth, matches.of_layer(len(out.logit_NBQT) - 1), states, out.boxes_NBQ4[-1], memory,
                                        tuple(images.shape[-2:]))
        if out.answers:
            losses |= self.criterion.answer_losses(out.answers, image_answers(targets, self.head.answers.kind), self.head.answers.kind)
        return losses

    def _mask_losses(self, image: ImageTokens, targets: Sequence[ImageTarget], truth: Sequence[ImageTruth], pairs: Any, states: Tensor,
                     boxes_BQ4: Tensor, memory: Memory, padded_hw: tuple[int, int]) -> dict[str, Tensor]:
        lacking = [t.file_name for t in targets if t.masks_NHW is None]
        if lacking:
            raise ValueError(f"masks are trained, but image {lacking[0]} has none; set with_masks=True in its data set, or masks=False in the model")
        mine = self._mask_boxes(boxes_BQ4[pairs.image, pairs.slot], pairs.image, targets, padded_hw)
        logit = self.mask_head(states[pairs.image, pairs.slot], pairs.image, image.source_BCHW, memory.image_BPC, image.valid_BHW.flatten(1), image.fine, mine)
        return self.criterion.mask_losses(logit, [t.masks_NHW.to(self.device) for t in targets], pairs, truth, padded_hw)

    def tokenize(self, captions: Sequence[str]) -> TokenizedText:
        """Return captions as this model reads them; ValueError for one that is too long."""
        return self.text_encoder.tokenizer.encode(captions, max_tokens=self.max_tokens)

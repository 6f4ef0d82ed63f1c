"""DesCo on the GLIP architecture (arXiv 2306.14060, 2112.03857): a detector that is asked with descriptions.

Backbone and pyramid run once an image, the language model once a vocabulary; then the head scores every chunk of the
vocabulary (a caption of several classes) on the image's features.
"""
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import call_after_load, weights_state
from ovdense.heads.anchors import decode_deltas, grid_anchors
from ovdense.heads.decode import select_detections
from ovdense.heads.segment import without_padding
from ovdense.heads.similarity import pool_tokens
from ovdense.methods.base import OpenVocabModel, built
from ovdense.methods.desco.chunks import EncodedChunk, chunk_rows, class_tokens, looks_at
from ovdense.methods.desco.criterion import DescoCriterion
from ovdense.methods.desco.head import DescoHead
from ovdense.methods.desco.settings import TestSettings
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap, ImageTarget, Results, TokenizedText, Vocabulary
from ovdense.text.evaluation_prompts import text_chunks
from ovdense.text.phrases import phrase_map
from ovdense.text.piecewise import PiecewiseTextEncoder, piece_of_token
from ovdense.text.prompts import PromptChunk, chunk_vocabulary, require_all_asked


@dataclass(frozen=True, kw_only=True)
class ChunkScores:
    """The head's outputs for one image and one chunk: scores (Q, K of the chunk) and boxes (Q, 4) in input pixels."""

    score_QK: Tensor
    centerness_Q: Tensor
    boxes_Q4: Tensor
    num_per_level: tuple[int, ...]
    classes: Tensor


@MODELS.register_module()
class Desco(OpenVocabModel):
    """The detector; every part is given, at any size.

    `head` and `criterion` are the arguments of `DescoHead` and `DescoCriterion`. Test time: `max_classes` and
    `max_tokens` bound a chunk; `chunk_batch` chunks are scored at a time ("fill": as many as `chunk_memory_gib` holds); `score_thr`, `nms_iou`, `pre_nms` and
    `chunk_dets` (detections a chunk) as published; `max_dets` a whole image (None: all, for fixed AP). `pool`: mean, max or power over a class's
    tokens. `published`: the release's quirks of `select_detections`. `prefilter_keep`: the share of chunks
    that are scored, see `promising` (1: all). As in the release, the fusion attends to all places of the padded input: in a batch of several sizes
    a smaller image's scores differ a little from those it has by itself.
    """

    rivals_within = True
    apart_from_images = ("text_encoder", "head", "criterion")

    def __init__(self, *, backbone: dict | nn.Module, neck: dict | nn.Module, text_encoder: dict | nn.Module, head: dict, criterion: dict | None = None,
                 test: dict | None = None) -> None:
        backbone = built(backbone)
        super().__init__(mean=backbone.mean, std=backbone.std)
        self.backbone, self.neck, self.text_encoder = backbone, built(neck), built(text_encoder)
        self.head = DescoHead(text_width=self.text_encoder.width, **head)
        self.criterion = DescoCriterion(**(criterion or {}))
        self.test = TestSettings(**(test or {}))
        self._chunks: tuple[Any, list[EncodedChunk]] | None = None
        self._told_of_cut_text = False
        call_after_load(self, "_forget")

    def train(self, mode: bool = True) -> "Desco":
        if mode:
            self._forget()  # the language model may change: text is encoded anew at the next prediction
        return super().train(mode)

    def _forget(self) -> None:
        if next(self.text_encoder.parameters(), None) is not None:  # one without weights cannot have changed
            self._chunks = None

    def protocol(self) -> dict[str, Any]:
        test = self.test
        return super().protocol() | {
            "classes_per_chunk": f"at most {test.max_classes}",
            "chunks": len(self.text()) if self.vocabulary else 0,
            "tokens_per_chunk": f"at most {test.max_tokens}",
            "model_detections": f"{test.chunk_dets} per chunk, {test.max_dets or 'all'} per image",
            "score_thr": test.score_thr,
            "nms_iou": test.nms_iou,
            "pre_nms": f"{test.pre_nms} per level",
            "phrase_score": f"{test.pool} over the tokens",
            "published_quirks": test.published,
        } | ({} if test.prefilter_keep == 1 else {"prefilter": f"{test.prefilter_keep:.0%} of the chunks, maps pooled by {test.prefilter_pool}"})

    # the four verbs

    def encode_image(self, images: Tensor) -> list[FeatureMap]:
        return self.neck(self.backbone(images))

    def encode_text(self, vocabulary: Vocabulary) -> list[EncodedChunk]:
        return self.encode_prompts(self._prompts(vocabulary))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[PromptChunk]) -> list[EncodedChunk]:
        """Return the captions encoded, one chunk each, in full precision; ValueError names one that is over `max_tokens`, and text without a token."""
        tokenizer, chunks = self.text_encoder.tokenizer, []
        for start in range(0, len(prompts), 16):
            group = prompts[start : start + 16]
            tokenized = tokenizer.encode([p.caption for p in group], max_tokens=self.test.max_tokens).to(self.device)
            with torch.autocast(self.device.type, enabled=False):  # it is kept: whoever asks first does not decide the precision
                hidden, pieces = self.text_encoder.encode(tokenized), self._pieces(tokenized)
            for b, p in enumerate(group):
                length = int(tokenized.valid_BL[b].sum())
                tokens, background = (class_tokens(tokenized, b, spans)[:, :length] for spans in (p.spans_per_class, p.background_spans))
                chunks.append(
                    EncodedChunk(
                        hidden_LD=hidden[b, :length],
                        piece_L=None if pieces is None else pieces[b, :length],
                        tokens_KL=tokens.to(self.device),
                        background_NL=background.to(self.device),
                        classes=torch.tensor(p.class_indices, device=self.device),
                    )
                )
        return chunks

    def _prompts(self, vocabulary: Vocabulary) -> list[PromptChunk]:
        most = self.test.max_classes
        if self.prompt == "texts":
            return text_chunks(vocabulary, self.text_encoder.tokenizer, max_texts=most, max_tokens=self.test.max_tokens - 2)
        return chunk_vocabulary(vocabulary, self.text_encoder.tokenizer, prompt=self.prompt, max_classes=most, max_tokens=self.test.max_tokens - 2)

    def score(self, features: list[FeatureMap], text: Sequence[EncodedChunk]) -> Iterator[list[ChunkScores]]:
        """Yield, chunk by chunk, the scores of each image: memory does not grow with the vocabulary."""
        maps, strides = [f.tensor_BCHW for f in features], [f.stride for f in features]
        batch = len(maps[0])
        anchors = None
        step = self.test.chunks_at_a_time(maps, self.head.embed_width)
        for start in range(0, len(text), step):
            group = text[start : start + step]
            # rows ordered chunk by chunk, the images of a chunk together; the head projects each image once for all of them
            hidden, valid, together = chunk_rows(group, batch)
            out = self.head(maps, hidden, valid, together)
            if anchors is None:
                anchors = grid_anchors(out.sizes_hw, strides, scale=self.criterion.anchor_scale, device=hidden.device)
            boxes, centerness = decode_deltas(out.delta_BQ4, anchors), out.centerness_BQ.float().sigmoid()
            for g, chunk in enumerate(group):
                rows = slice(g * batch, (g + 1) * batch)
                logit = out.tokens.logit_BQL[rows, :, : len(chunk.hidden_LD)]
                score_BQK = self._class_scores(logit.float().sigmoid(), chunk)
                yield [
                    ChunkScores(score_QK=s, centerness_Q=c, boxes_Q4=b, num_per_level=tuple(h * w for h, w in out.sizes_hw), classes=chunk.classes)
                    for s, c, b in zip(score_BQK, centerness[rows], boxes[rows])
                ]

    def _class_scores(self, score_BQL: Tensor, chunk: EncodedChunk) -> Tensor:
        """Return (B, Q, K); 0 where a place is more like one of the background classes."""
        score_BQK = pool_tokens(score_BQL, chunk.tokens_KL, self.test.pool)
        if not len(chunk.background_NL):
            return score_BQK
        rival_BQ1 = pool_tokens(score_BQL, chunk.background_NL, self.test.pool).amax(-1, keepdim=True)
        return score_BQK * (score_BQK >= rival_BQ1)

    def decode(self, scored: Iterator[list[ChunkScores]], targets: Sequence[ImageTarget]) -> list[Results]:
        found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in targets]
        for chunk in scored:
            for image, (scores, target) in enumerate(zip(chunk, targets, strict=True)):
                box, score, label = select_detections(
                    scores.score_QK, scores.centerness_Q, scores.boxes_Q4, scores.num_per_level, target.size_hw, score_thr=self.test.score_thr,
                    pre_nms=self.test.pre_nms, nms_iou=self.test.nms_iou, max_dets=self.test.chunk_dets, published=self.test.published,
                )
                found[image].append((box, score, scores.classes[label]))
        return [self._result(parts, target) for parts, target in zip(found, targets)]

    def _result(self, parts: Sequence[tuple[Tensor, Tensor, Tensor]], target: ImageTarget) -> Results:
        """Merge the chunks of an image (no NMS between chunks, as published) and scale boxes to the file's size."""
        boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
        order = scores.argsort(descending=True, stable=True)[: self.test.max_dets]
        (h, w), (full_h, full_w) = target.size_hw, target.original_size_hw
        boxes = boxes[order] * boxes.new_tensor([full_w / w, full_h / h] * 2)
        return Results(boxes_xyxy=boxes, scores=scores[order], labels=labels[order], names=self.vocabulary.names, size_hw=target.original_size_hw,
                       image_id=target.image_id)

    # modes

    def ask(self, prompts: Sequence[PromptChunk], vocabulary: Vocabulary) -> None:
        require_all_asked(prompts, vocabulary)
        chunks = self.encode_prompts(prompts)  # what does not fit is said before anything changes
        self.vocabulary, self.prompt, self.asked = vocabulary, "captions", tuple(prompts)
        self._chunks = (self._text_key(), chunks)

    def text(self) -> list[EncodedChunk]:
        """Return the encoded chunks of the vocabulary: made at the first call after it was set, then reused."""
        if self.vocabulary is None:
            raise ValueError("the model must know its classes first; call set_vocabulary(vocabulary)")
        key = self._text_key()
        if self._chunks is None or self._chunks[0] != key:
            self._chunks = (key, self.encode_text(self.vocabulary) if self.asked is None else self.encode_prompts(self.asked))
        elif self._chunks[1][0].hidden_LD.device != self.device:
            self._chunks = (key, [chunk.to(self.device) for chunk in self._chunks[1]])
        return self._chunks[1]

    def _text_key(self) -> tuple[Any, ...]:
        """Return all that the encoded chunks depend on."""
        asked = (self.prompt, self.test.max_classes, self.test.max_tokens) if self.asked is None else self.asked
        return self.vocabulary, asked, weights_state(self.text_encoder)

    def set_encoded(self, vocabulary: Vocabulary, prompt: str, chunks: Sequence[EncodedChunk]) -> None:
        """Set a vocabulary together with what `encode_text` gave for it, by these very weights of the language model."""
        self.set_vocabulary(vocabulary, prompt)
        self._chunks = (self._text_key(), [chunk.to(self.device) for chunk in chunks])

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        text = self.text()
        features = self.features(images)
        if self.test.prefilter_keep == 1:
            return self.decode(self.score(features, text), targets)
        results = []
        for b, target in enumerate(targets):  # each image keeps other chunks
            own = [FeatureMap(tensor_BCHW=f.tensor_BCHW[b : b + 1], stride=f.stride) for f in features]
            results += self.decode(self.score(own, self.promising(own, text)), [target])
        return results

    @torch.no_grad()
    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        """Return each class's score times centerness, 0..1, at the finest level's places: the largest of all levels."""
        text, features = self.text(), self.features(images)
        sizes = [tuple(f.tensor_BCHW.shape[-2:]) for f in features]
        maps = images.new_zeros(len(images), len(self.vocabulary), *sizes[0])
        for chunk in self.score(features, text):
            for b, found in enumerate(chunk):
                score_KQ = (found.score_QK * found.centerness_Q[:, None]).T
                for level, size_hw in zip(score_KQ.split(found.num_per_level, 1), sizes):
                    spread = F.interpolate(level.unflatten(1, size_hw)[None].to(maps), size=sizes[0], mode="nearest")[0]
                    maps[b, found.classes] = maps[b, found.classes].maximum(spread)
        return [without_padding(m, t.size_hw, tuple(images.shape[-2:])) for m, t in zip(maps, targets, strict=True)]

    @torch.no_grad()
    def promising(self, features: Sequence[FeatureMap], text: Sequence[EncodedChunk]) -> list[EncodedChunk]:
        """Return the share `prefilter_keep` of the chunks (at least one), in order, that a coarse look at one image finds most alike.

        The look: the head on maps averaged over `prefilter_pool` x `prefilter_pool` places; a chunk is as alike as its best class at
        its best place. A heuristic of ours, not of the paper: small things may be lost, so its cost in AP is to be measured.
        """
        maps = [F.avg_pool2d(f.tensor_BCHW, self.test.prefilter_pool, ceil_mode=True) for f in features]
        best, step = [], self.test.chunks_at_a_time(maps, self.head.embed_width)
        for start in range(0, len(text), step):
            group = text[start : start + step]
            score_BQL = self.head.match(maps, *chunk_rows(group, 1)).logit_BQL.float().sigmoid()
            best += [self._class_scores(s[None, :, : len(c.hidden_LD)], c).max() for s, c in zip(score_BQL, group)]
        keep = max(1, math.ceil(self.test.prefilter_keep * len(text)))
        return [text[n] for n in sorted(torch.stack(best).topk(keep).indices.tolist())]

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        captions = [t.caption for t in targets]
        if None in captions:
            name = targets[captions.index(None)].file_name
            raise ValueError(f"training images must carry a caption, image {name} has none; add DescriptionQueries to its transforms")
        # a caption may be over the limit only where its maker says so (published_quirks): its cut spans lose their tokens, as published
        tokenized = self.text_encoder.tokenizer.encode(captions, max_tokens=self.test.max_tokens, on_overflow="truncate").to(self.device)
        features = self.encode_image(images)
        pieces = self._pieces(tokenized)
        together = None if pieces is None else looks_at(pieces, tokenized.valid_BL)
        out = self.head([f.tensor_BCHW for f in features], self.text_encoder.encode(tokenized), tokenized.valid_BL, together)
        positive = [phrase_map(tokenized, b, t.positive_spans).tokens_PL for b, t in enumerate(targets)]
        self._tell_of_cut_text(targets, positive)
        return self.criterion(out, [f.stride for f in features], [t.boxes_xyxy for t in targets], positive)

    def _tell_of_cut_text(self, targets: Sequence[ImageTarget], positive: Sequence[Tensor]) -> None:
        """Warn, once, of boxes whose words have no token in their caption: they are trained as boxes that no text speaks of."""
        cut = [t.file_name for t, tokens_NL in zip(targets, positive) if any(s and not f for s, f in zip(t.positive_spans, tokens_NL.any(1).tolist()))]
        if cut and not self._told_of_cut_text:
            self._told_of_cut_text = True
            warnings.warn(
                f"the words of a box of {cut[0]} have no token among the first {self.test.max_tokens} (model.test.max_tokens): no text speaks of it. "
                f"The release's captions may be so long (published_quirks); else give the transform that writes them max_tokens={self.test.max_tokens - 2} "
                "and the model's tokenizer. Others are not told of",
                stacklevel=2,
            )

    def _pieces(self, tokenized: TokenizedText) -> Tensor | None:
        return piece_of_token(tokenized) if isinstance(self.text_encoder, PiecewiseTextEncoder) else None

    @property
    def device(self) -> torch.device:
        return self.head.level_scale.device

"""The nouns that cross folder borders: few, frozen, checked when made.

Letters in shape suffixes: B batch, C channels, H W feature size, Q places (anchors, slots), K classes, P phrases,
M rows of a bank, L tokens, D embedding width, N boxes. Masks say what True means (`valid_`, `pad_`).
"""
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Activation = Literal["sigmoid", "softmax", "identity"]
IGNORE_LABEL = 255  # in label maps of ground truth: a pixel that counts for nothing


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def is_text(value: str) -> bool:
    """Return whether a string can be written in UTF-8: JSON can hold half a character (a lone surrogate), which no tokenizer takes."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _require_masks(masks_NHW: Tensor, count: int, size_hw: tuple[int, int]) -> None:
    shape = (count, *size_hw)
    _require(tuple(masks_NHW.shape) == shape and masks_NHW.dtype == torch.bool,
             f"masks_NHW must be bool of shape {shape}, got {masks_NHW.dtype} {tuple(masks_NHW.shape)}")


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """One class of a vocabulary.

    `name` is the key and is unique in its vocabulary; `noun` is what a person would say (a qualifier at the end, as in
    LVIS's "bow_(weapon)", is cut, underscores become blanks) and may be shared by several classes. `kind` completes
    DesCo's "a kind of ..."; `similar` names things that it is easily confused with. `frequency` is LVIS's r, c or f.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    kind: str | None = None
    similar: tuple[str, ...] = ()
    frequency: Literal["r", "c", "f"] | None = None
    is_background: bool = False

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str) and bool(self.name.strip()), f"a class name must be a non-empty string, got {repr(self.name)[:80]}")
        _require(is_text(self.name) and (self.kind is None or isinstance(self.kind, str) and is_text(self.kind)),
                 f"class {self.name[:80]!r}: name and kind must be text of whole characters, got the kind {self.kind!r}; write the file as UTF-8")
        _require(self.frequency in (None, "r", "c", "f"), f"class {self.name[:80]!r}: frequency must be r, c, f or None, got {self.frequency!r}")
        for field in ("synonyms", "descriptions", "similar"):
            value = getattr(self, field)
            _require(
                isinstance(value, tuple) and all(isinstance(v, str) and v.strip() and is_text(v) for v in value),
                f"class {self.name[:80]!r}: {field} must be a tuple of non-empty strings of whole characters, got {str(value)[:200]}",
            )

    @property
    def noun(self) -> str:
        """Return the name as a person would say it: "bow_(weapon)" -> "bow", "hot_dog" -> "hot dog"; "a man (in red) with a dog" stays whole."""
        bare = self.name.split("_(")[0]
        if self.name.rstrip().endswith(")"):
            bare = bare.split(" (")[0]
        return " ".join(bare.replace("_", " ").split()) or self.name.strip()


@dataclass(frozen=True)
class Vocabulary(Sequence):
    """The classes, in order. Class k of every score and label is `vocabulary[k]`. Names are unique."""

    entries: tuple[ClassEntry, ...]

    def __post_init__(self) -> None:
        _require(len(self.entries) > 0, "a vocabulary must have at least one class, got none")
        seen: dict[str, int] = {}
        for k, entry in enumerate(self.entries):
            key = " ".join(entry.name.split()).casefold()
            if key in seen:
                raise ValueError(
                    f"class names must be unique: {entry.name[:80]!r} (class {k}) clashes with "
                    f"{self.entries[seen[key]].name[:80]!r} (class {seen[key]}); rename one or drop it"
                )
            seen[key] = k

    @classmethod
    def of(cls, names: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary of bare `names`."""
        if isinstance(names, str):
            raise ValueError(f"names must be a sequence of strings, got one string {names[:80]!r}; write [{names[:80]!r}]")
        return cls(tuple(ClassEntry(name=n) for n in names))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ClassEntry]:
        return iter(self.entries)

    def __getitem__(self, k):
        return self.entries[k]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(e.name for e in self.entries)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {entry.name: k for k, entry in enumerate(self.entries)}

    def index(self, name: str, *_) -> int:
        """Return the class index of `name`; KeyError with near matches for an unknown one."""
        try:
            return self._index_of[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names, n=3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else f"the first of {len(self)} are {self.names[:5]}"
            raise KeyError(f"class {name!r} is not in the vocabulary; {hint}") from None

    def subset(self, names: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary of these `names` only, in their order; KeyError names an unknown one."""
        return Vocabulary(tuple(self.entries[self.index(n)] for n in names))

    def fingerprint(self) -> str:
        """Return a hash of everything in it, in order: the key of what was computed for this vocabulary."""
        text = json.dumps([asdict(e) for e in self.entries], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class TokenizedText:
    """Captions as tokens: `ids_BL` int64, `valid_BL` bool (True = a token, special ones included; False = padding).

    `char_spans[b][l]` is the half-open span of token l in caption b, None for special tokens and padding.
    """

    captions: tuple[str, ...]
    ids_BL: Tensor
    valid_BL: Tensor
    char_spans: tuple[tuple[tuple[int, int] | None, ...], ...]

    def __post_init__(self) -> None:
        b, length = self.ids_BL.shape
        _require(self.valid_BL.shape == (b, length) and self.valid_BL.dtype == torch.bool,
                 f"valid_BL must be bool of shape {(b, length)}, got {self.valid_BL.dtype} {tuple(self.valid_BL.shape)}")
        _require(len(self.captions) == b and len(self.char_spans) == b, f"{b} rows of tokens need {b} captions and span lists")
        _require(all(len(s) == length for s in self.char_spans), f"each span list must have {length} entries")

    def to(self, device) -> "TokenizedText":
        return TokenizedText(captions=self.captions, ids_BL=self.ids_BL.to(device), valid_BL=self.valid_BL.to(device), char_spans=self.char_spans)


@dataclass(frozen=True, kw_only=True)
class PhraseMap:
    """Which tokens belong to which phrase of one caption: `tokens_PL` bool. A phrase without tokens (cut off) is an all-False row."""

    tokens_PL: Tensor

    def __post_init__(self) -> None:
        _require(self.tokens_PL.ndim == 2 and self.tokens_PL.dtype == torch.bool,
                 f"tokens_PL must be a bool matrix, got {self.tokens_PL.dtype} of shape {tuple(self.tokens_PL.shape)}")


@dataclass(frozen=True, kw_only=True)
class ClassBank:
    """Unit-length rows and the class that each stands for.

    `rows_MD` float, every row of length 1; `class_of_row_M` int64 in 0..num_classes-1, or NEGATIVE for a row that
    only competes. `background_K` bool marks the classes that are background.
    """

    NEGATIVE = -1
    rows_MD: Tensor
    class_of_row_M: Tensor
    num_classes: int
    background_K: Tensor

    def __post_init__(self) -> None:
        _require(self.rows_MD.ndim == 2, f"rows_MD must have two dimensions, got shape {tuple(self.rows_MD.shape)}")
        m = len(self.rows_MD)
        _require(self.class_of_row_M.shape == (m,), f"class_of_row_M must have shape {(m,)}, got {tuple(self.class_of_row_M.shape)}")
        _require(self.background_K.shape == (self.num_classes,), f"background_K must have shape {(self.num_classes,)}")
        if m:
            low, high = int(self.class_of_row_M.min()), int(self.class_of_row_M.max())
            _require(low >= self.NEGATIVE and high < self.num_classes, f"classes of rows must lie in -1..{self.num_classes - 1}, got {low}..{high}")
            error = float((self.rows_MD.detach().float().norm(dim=-1) - 1).abs().max())
            _require(error < 1e-2, f"rows must have length 1, got one that is off by {error:.3g}; normalise them first")
        missing = set(range(self.num_classes)) - set(self.class_of_row_M.tolist())
        _require(not missing, f"every class needs a row; classes without one: {sorted(missing)[:10]}")


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """Image features `tensor_BCHW` with their `stride` in input pixels."""

    tensor_BCHW: Tensor
    stride: int

    def __post_init__(self) -> None:
        _require(self.tensor_BCHW.ndim == 4, f"a feature map must have shape (B, C, H, W), got {tuple(self.tensor_BCHW.shape)}")
        _require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")


@dataclass(frozen=True, kw_only=True)
class ScoreMaps:
    """Logits of K classes at every pixel, and the activation that turns them into scores ("identity": they are scores already)."""

    logit_BKHW: Tensor
    activation: Activation

    def __post_init__(self) -> None:
        _require(self.logit_BKHW.ndim == 4, f"score maps must have shape (B, K, H, W), got {tuple(self.logit_BKHW.shape)}")

    def scores(self) -> Tensor:
        """Return (B, K, H, W): in 0..1 after a sigmoid or softmax, as they are after "identity"."""
        if self.activation == "identity":
            return self.logit_BKHW
        return self.logit_BKHW.sigmoid() if self.activation == "sigmoid" else self.logit_BKHW.softmax(1)


@dataclass(frozen=True, kw_only=True)
class TokenLogits:
    """Logits of Q places against L tokens; `valid_BL` True where a token is real."""

    logit_BQL: Tensor
    valid_BL: Tensor
    activation: Activation

    def __post_init__(self) -> None:
        _require(self.logit_BQL.ndim == 3, f"token logits must have shape (B, Q, L), got {tuple(self.logit_BQL.shape)}")
        b, _, length = self.logit_BQL.shape
        _require(self.valid_BL.shape == (b, length), f"valid_BL must have shape {(b, length)}, got {tuple(self.valid_BL.shape)}")


@dataclass(frozen=True, kw_only=True)
class ImageTarget:
    """What is known of one image that a dataset hands to a model.

    `boxes_xyxy` (N, 4) float32 in pixels of the network's input (before batch padding), continuous coordinates
    (x2 = x1 + width); `labels` (N,) int64 class indices. `size_hw` is the input's size, `original_size_hw` the
    file's. For training on captions: `caption`, and `positive_spans[n]`, the character spans of box n's phrase.
    `masks_NHW` bool are the boxes' instance masks at the input's size. `label_map_HW` int64 is the class of every pixel,
    IGNORE_LABEL where nothing counts: at the input's size for training, at the file's for testing.

    Of captions: `final` (N,) is 1 for the boxes that the caption is about, 0 for those it only passes by; `answers` are a question's
    (head -> index); `align_spans` are spans that a published slip gives the alignment loss instead of `positive_spans`.
    """

    image_id: int
    file_name: str
    size_hw: tuple[int, int]
    original_size_hw: tuple[int, int]
    boxes_xyxy: Tensor
    labels: Tensor
    caption: str | None = None
    positive_spans: tuple[tuple[tuple[int, int], ...], ...] = ()
    masks_NHW: Tensor | None = None
    label_map_HW: Tensor | None = None
    final: Tensor | None = None
    answers: Mapping[str, int] | None = None
    align_spans: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        _require(self.boxes_xyxy.shape == (n, 4), f"boxes_xyxy must have shape {(n, 4)}, got {tuple(self.boxes_xyxy.shape)}")
        if self.caption is not None:
            _require(len(self.positive_spans) == n, f"{n} boxes need {n} lists of spans, got {len(self.positive_spans)}")
        _require(self.final is None or self.final.shape == (n,), f"final must have shape {(n,)}")
        _require(self.align_spans is None or len(self.align_spans) == n, f"{n} boxes need {n} lists of align_spans")
        if self.masks_NHW is not None:
            _require_masks(self.masks_NHW, n, self.size_hw)
        if self.label_map_HW is not None:
            _require(tuple(self.label_map_HW.shape) in (tuple(self.size_hw), tuple(self.original_size_hw)) and self.label_map_HW.dtype == torch.int64,
                     f"label_map_HW must be int64 of the input's size {tuple(self.size_hw)} or the file's {tuple(self.original_size_hw)}, "
                     f"got {self.label_map_HW.dtype} {tuple(self.label_map_HW.shape)}")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was found in one image. Detections, best first: boxes in pixels of the original file (x2 = x1 + width), scores in 0..1.

    `masks_NHW` bool: one mask a detection, at the file's size. `label_map_HW` int64: the class of every pixel of the file
    (a segmenter's answer; `boxes_xyxy`, `scores`, `labels` are then empty). Where a caption was asked,
    `names` are its phrases; where it was a question, `answers` are those of the heads (head -> index, as `ImageTarget.answers`).
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    image_id: int = 0
    masks_NHW: Tensor | None = None
    label_map_HW: Tensor | None = None
    answers: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        _require(self.boxes_xyxy.shape == (n, 4), f"boxes_xyxy must have shape {(n, 4)}, got {tuple(self.boxes_xyxy.shape)}")
        _require(self.labels.shape == (n,), f"labels must have shape {(n,)}, got {tuple(self.labels.shape)}")
        if n:
            _require(int(self.labels.max()) < len(self.names), f"labels must be below {len(self.names)}, got {int(self.labels.max())}")
        if self.masks_NHW is not None:
            _require_masks(self.masks_NHW, n, self.size_hw)
        if self.label_map_HW is not None:
            label = self.label_map_HW
            _require(tuple(label.shape) == tuple(self.size_hw) and label.dtype == torch.int64,
                     f"label_map_HW must be int64 of shape {tuple(self.size_hw)}, got {label.dtype} {tuple(label.shape)}")
            _require(label.numel() == 0 or 0 <= int(label.min()) and int(label.max()) < len(self.names),
                     f"label_map_HW must hold classes 0..{len(self.names) - 1}")

    @classmethod
    def of_label_map(cls, label_map_HW: Tensor, names: Sequence[str], image_id: int = 0) -> "Results":
        """Return a segmenter's answer: the class of every pixel of the file, no boxes."""
        none = label_map_HW.new_zeros(0)
        return cls(boxes_xyxy=none.float().reshape(0, 4), scores=none.float(), labels=none, names=tuple(names), size_hw=tuple(label_map_HW.shape),
                   image_id=image_id, label_map_HW=label_map_HW)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score_thr: float) -> "Results":
        """Return only the detections whose score is at least `score_thr`; a label map stays."""
        return self._kept(self.scores >= score_thr)

    def _kept(self, keep: Tensor) -> "Results":
        return replace(self, boxes_xyxy=self.boxes_xyxy[keep], scores=self.scores[keep], labels=self.labels[keep],
                       masks_NHW=None if self.masks_NHW is None else self.masks_NHW[keep])

    def inside(self) -> "Results":
        """Return the detections with their boxes cut at the image's border; without those of which nothing lies inside it."""
        height, width = self.size_hw
        limit = self.boxes_xyxy.new_tensor([width, height, width, height])
        boxes = self.boxes_xyxy.clamp(min=0).minimum(limit)
        return replace(self, boxes_xyxy=boxes)._kept((boxes[:, 2:] > boxes[:, :2]).all(1))

    def to_coco(self) -> list[dict]:
        """Return COCO's result form: xywh boxes, one dict a detection, with the class name beside the index; masks as compressed RLE.

        Numbers have the fewest digits that give the same float32 again, so that no two scores become equal: AP from a file of them is the same.
        """
        corners = self.boxes_xyxy.double().reshape(-1, 4)
        boxes = _fewest_digits(torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1))
        rows = [
            {"image_id": self.image_id, "category_id": k, "category_name": self.names[k], "bbox": box, "score": score}
            for box, score, k in zip(boxes, _fewest_digits(self.scores), map(int, self.labels.tolist()))
        ]
        if self.masks_NHW is not None and rows:
            from pycocotools import mask as coco_mask

            for row, rle in zip(rows, coco_mask.encode(np.asfortranarray(self.masks_NHW.permute(1, 2, 0).cpu().numpy().astype(np.uint8))), strict=True):
                row["segmentation"] = {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}
        return rows


def _fewest_digits(values: Tensor) -> list:
    """Return a tensor's numbers as the shortest decimals that are the same in float32."""
    return values.float().cpu().numpy().astype("U32").astype(np.float64).tolist()

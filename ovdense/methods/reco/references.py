"""From class names to reference vectors: retrieve, attend, eliminate contexts, co-segment (ReCo, Sec. 3.2 and 3.3).

Vectors are kept in the embedding cache under all that they depend on: the archive's contents, both encoders, every setting.
C channels of the encoder, D width of the dual encoder's space.
"""
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import get_args

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import weights_fingerprint, weights_state
from ovdense.data.center_crop import center_square
from ovdense.methods.dual_encoder import DualEncoder, ImageEmbedder
from ovdense.methods.reco.archive import Archive, archive_batch, archive_paths
from ovdense.methods.reco.cosegment import REFERENCES, WINDOWS, Cosegmentation, Reference, Window, cosegment, patch_weights, text_attention
from ovdense.structures import ClassEntry
from ovdense.support.mask_sources import given_mask
from ovdense.support.retrieval import Engine, ImageIndex, index_images
from ovdense.support.retrieve import retrieve_support
from ovdense.support.store import SupportSet, SupportStore
from ovdense.text.cache import EmbeddingCache
from ovdense.text.prompts import average_unit

ENCODE_BATCH = 10
MEMORY_BYTES = 2**29  # of archive images' features
MOST_KEPT = 20_000  # vectors of classes at hand


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How support sets are found: `k` images a class, each seen as the middle square of `px` pixels; `index_px`, `index_square` are the index's.

    `archive`: see `archive_paths`. `engine` "exact" or "faiss". `deduplicate`: a content that lies in the archive under several names counts once (the
    release does not look). With `use_synonyms` a class is asked by the mean of its name's and its synonyms' vectors (normalised, mean, normalised), in
    retrieval and in text attention; the release has names only. `said`: what is said instead of a class's noun, by its name.
    """

    archive: Archive
    data_root: str | None = None
    k: int = 50
    px: int = 224
    index_px: int = 336
    index_square: bool = True
    engine: Engine = "exact"
    deduplicate: bool = True
    use_synonyms: bool = False
    said: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.k, self.px, self.index_px) < 1:
            raise ValueError(f"k, px and index_px must be at least 1, got {self.k}, {self.px} and {self.index_px}")
        if not isinstance(self.said, Mapping):
            raise ValueError(f"said must be a mapping of class names to what is said for them, got {self.said!r}")
        if self.engine not in get_args(Engine):  # said before the archive is indexed
            raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {self.engine!r}")


@dataclass(frozen=True, kw_only=True)
class CosegmentRules:
    """What co-segmentation does; the defaults are the release's. `contexts` are computed in order, each eliminated against those before.

    `aliases`: a class name that takes the vector of a context ("vegetation" takes "tree"), while contexts are eliminated.
    `temperature`, `centre`: of the text attention, here and in inference (`text_attention`).
    """

    text_attention: bool = True
    context_elimination: bool = True
    contexts: tuple[str, ...] = ("tree", "sky", "building", "road", "person")
    aliases: Mapping[str, str] = field(default_factory=lambda: {"vegetation": "tree"})
    window: Window = "published"
    reference: Reference = "avg"
    temperature: float = 10.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        if self.window not in WINDOWS or self.reference not in REFERENCES:
            raise ValueError(f"window must be one of {WINDOWS} and reference one of {REFERENCES}, got {self.window!r} and {self.reference!r}")
        wrong = [a for a in self.aliases.values() if a not in self.contexts]
        if wrong and self.context_elimination:
            raise ValueError(f"aliases must lead to contexts ({', '.join(self.contexts)}), got {wrong}")


class ReferenceBuilder:
    """Builds and keeps the reference vectors of class names.

    `encoder`: a backbone whose last map holds the features; `dense`: the DualEncoder of text attention; `retriever`: the one of retrieval.
    Images are normalised for `encoder`; `dense` has them as they are then, unless its own normalisation differs.
    """

    def __init__(self, encoder: nn.Module, dense: DualEncoder, retriever: DualEncoder, retrieval: Retrieval, rules: CosegmentRules,
                 store: SupportStore | None = None, cache: EmbeddingCache | None = None) -> None:
        self.encoder, self.dense, self.retriever, self.retrieval, self.rules = encoder, dense, retriever, retrieval, rules
        self.store, self.cache = store or SupportStore(), cache or EmbeddingCache()
        self._index: ImageIndex | None = None
        self._vectors: dict[tuple[tuple[str, ...], ...], Tensor] = {}
        self._contexts: dict[str, Tensor] | None = None
        self._parts = ""
        self._memory: dict[str, tuple[Tensor, ...]] = {}
        self._room = MEMORY_BYTES
        self._state: tuple[tuple[int, ...], ...] = ()  # of the weights that all this is of

    @property
    def index(self) -> ImageIndex:
        """Return the archive's index, made on first use."""
        if self._index is None:
            r = self.retrieval
            self._index = index_images(archive_paths(r.archive, r.data_root), ImageEmbedder(self.retriever, px=r.index_px, square=r.index_square))
            if len(self._index) < r.k:
                print_log(f"the archive has {len(self._index)} images, each class wants {r.k}: all are taken for each", logger="current", level=30)
        return self._index

    def references(self, classes: Sequence[ClassEntry]) -> Tensor:
        """Return (K, C) unit vectors of the classes, in order."""
        self._follow_weights()
        contexts = self.contexts()
        return torch.stack([self._of_class(self.said(entry), contexts).to(self.device) for entry in classes])

    def said(self, entry: ClassEntry) -> tuple[str, ...]:
        """Return how a class is asked for: its noun, or what is said instead, and its synonyms where they are used."""
        noun = self.retrieval.said.get(entry.name, entry.noun)
        return tuple(dict.fromkeys((noun, *(entry.synonyms if self.retrieval.use_synonyms else ()))))

    def texts(self, encoder: DualEncoder, classes: Sequence[ClassEntry]) -> Tensor:
        """Return (K, D) unit vectors of the classes in a dual encoder's space; all words are encoded together, and kept on disk."""
        said = [self.said(entry) for entry in classes]
        words = list(dict.fromkeys(word for words in said for word in words))
        row_of = dict(zip(words, encoder.embed(words, self.cache)))
        return torch.stack([average_unit(torch.stack([row_of[word] for word in words])) for words in said])

    def contexts(self) -> dict[str, Tensor]:
        """Return the vectors of the context classes, in order; none where they are not eliminated."""
        if self._contexts is None:
            done: dict[str, Tensor] = {}
            for name in self.rules.contexts if self.rules.context_elimination else ():
                done[name] = self._vector((name,), done)
            self._contexts = done
        return self._contexts

    def support(self, said: Sequence[str]) -> SupportSet:
        """Return the images that stand for a class, given how it is asked for: the nearest in the archive."""
        query_D = average_unit(self.retriever.embed(said))
        r, templates = self.retrieval, self.retriever.templates
        return retrieve_support(" / ".join(said), query_D, self.index, r.k, self.store, deduplicate=r.deduplicate, engine=r.engine,
                                said={"encoder": self.retriever.image.fingerprint(), "templates": templates if isinstance(templates, str) else list(templates)})

    @torch.no_grad()
    def cosegment(self, said: Sequence[str], contexts: Mapping[str, Tensor]) -> tuple[Cosegmentation, SupportSet]:
        """Return what the support images of a class have in common, and those images."""
        support = self.support(said)
        return self._common(support, said, contexts), support

    @torch.no_grad()
    def of_examples(self, entry: ClassEntry, support: SupportSet) -> Tensor:
        """Return the unit vector (C,) of what the user's pictures of a class have in common, co-segmented as retrieved ones; it is not kept.

        A picture's mask takes the place of the text attention: only patches that are mostly inside it are partners, and one of them is the seed. Pictures
        whose mask has nothing in their middle square are left out; ValueError where none is left.
        """
        self._follow_weights()
        inside = [mask_of_square(given_mask(i, i.read()), self.retrieval.px) for i in support.images]
        kept = [n for n, mask in enumerate(inside) if mask is None or bool(mask.any())]
        if not kept:
            raise ValueError(f"the masks of class {entry.name!r} must reach into the middle square of at least one of its {len(inside)} pictures, none does")
        if len(kept) < len(inside):
            print_log(f"{len(inside) - len(kept)} of {len(inside)} pictures of {entry.name!r} show it outside their middle square only: left out",
                      logger="current", level=30)  # fmt: skip
        support = replace(support, images=tuple(support.images[n] for n in kept))
        return self._common(support, self.said(entry), self.contexts(), [inside[n] for n in kept]).reference_C

    def _common(self, support: SupportSet, said: Sequence[str], contexts: Mapping[str, Tensor],
                inside: Sequence[Tensor | None] = ()) -> Cosegmentation:  # fmt: skip
        """Return what images have in common; `inside`: masks (px, px) bool of those that have one."""
        rules = self.rules
        text_D = average_unit(self.dense.embed(said)) if rules.text_attention else None
        feat_NCHW, dense_NDHW = self._encoded(support)
        attention_NHW = None if text_D is None else text_attention(dense_NDHW, text_D, feat_NCHW.shape[2:], rules.temperature, rules.centre)
        inside_NHW = None
        if any(mask is not None for mask in inside):
            inside_NHW = torch.stack([mostly_inside(mask, feat_NCHW.shape[2:]) for mask in inside]).to(feat_NCHW.device)
            masked_N11 = torch.tensor([mask is not None for mask in inside], device=feat_NCHW.device)[:, None, None]
            attention_NHW = torch.where(masked_N11, inside_NHW.float(), 1.0 if attention_NHW is None else attention_NHW)
        weight_NHW = patch_weights(feat_NCHW, attention_NHW, [v.to(feat_NCHW) for v in contexts.values()])
        return cosegment(feat_NCHW, weight_NHW, inside_NHW=inside_NHW, window=rules.window, reference=rules.reference)

    def _encoded(self, support: SupportSet) -> tuple[Tensor, Tensor | None]:
        """Return features and places of a set's images; an image that several classes retrieve is encoded once, as far as memory goes."""
        found: dict[str, tuple[Tensor, ...]] = {i.sha256: self._memory[i.sha256] for i in support.images if i.sha256 in self._memory}
        new = list({i.sha256: i for i in support.images if i.sha256 not in found}.values())
        for first in range(0, len(new), ENCODE_BATCH):
            batch = new[first : first + ENCODE_BATCH]
            images = archive_batch([i.read() for i in batch], self.retrieval.px, self.encoder.mean, self.encoder.std).to(self.device)
            columns = [column for column in self.encode(images, self.rules.text_attention) if column is not None]
            found.update((image.sha256, row) for image, row in zip(batch, zip(*columns)))
        for key, row in found.items():
            size = sum(t.nbytes for t in row)
            if key not in self._memory and size <= self._room:
                self._memory[key] = tuple(t.cpu().clone() for t in row)
                self._room -= size
        columns = [torch.stack([t.to(self.device) for t in column]) for column in zip(*(found[i.sha256] for i in support.images))]
        return columns[0], columns[1] if self.rules.text_attention else None

    def encode(self, images_BCHW: Tensor, with_dense: bool) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's last map and, if asked, the dual encoder's places, of images normalised for the encoder."""
        feat_BCHW = self.encoder(images_BCHW)[-1].tensor_BCHW.float()
        if not with_dense:
            return feat_BCHW, None
        return feat_BCHW, self.dense.encode_dense(renormalised(images_BCHW, self.encoder, self.dense)).tensor_BCHW.float()

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _of_class(self, said: tuple[str, ...], contexts: Mapping[str, Tensor]) -> Tensor:
        taken = said[0] if said[0] in contexts else self.rules.aliases.get(said[0]) if contexts else None
        return contexts[taken] if taken is not None else self._vector(said, contexts)

    def _vector(self, said: tuple[str, ...], contexts: Mapping[str, Tensor]) -> Tensor:
        """Return the vector of a class, from memory, from disk, or computed; all ranks together, since retrieval shares its work out."""
        key = (said, tuple(contexts))
        if key not in self._vectors:
            if len(self._vectors) >= MOST_KEPT:
                self._vectors.clear()  # they are on disk
            self._vectors[key] = self.cache.embed(_Computed(self, said, contexts), list(said), together=True)[0].to(self.device)
        return self._vectors[key]

    def fingerprint(self) -> str:
        """Return a hash of archive, encoders and settings."""
        if not self._parts:
            retrieval = {k: v for k, v in asdict(self.retrieval).items() if k not in ("archive", "data_root", "said")}  # the words are asked for by themselves
            said = [retrieval, {**asdict(self.rules), "aliases": None}, str(self.retriever.templates), str(self.dense.templates)]
            modules = "".join(_print(m) for m in (self.encoder, self.dense, self.retriever))
            self._parts = hashlib.sha256((json.dumps(said, sort_keys=True) + modules).encode()).hexdigest()
        return f"{self._parts}-{self.index.fingerprint()}"

    def _follow_weights(self) -> None:
        """Forget what other weights gave."""
        state = tuple(weights_state(m) for m in (self.encoder, self.dense, self.retriever))
        if state != self._state:
            self._state, self._index, self._contexts, self._parts = state, None, None, ""
            self._vectors, self._memory, self._room = {}, {}, MEMORY_BYTES


def _print(module: nn.Module) -> str:
    """Return a hash of a network's weights, its settings (of one without a fingerprint: how its layers are set), and how it wants its images."""
    own = module.fingerprint() if hasattr(module, "fingerprint") else weights_fingerprint(module, repr(module))
    return f"{own} {tuple(module.mean)} {tuple(module.std)}"


class _Computed:
    """One class's vector as a request that the embedding cache can keep; each of the texts it is asked by gets it."""

    def __init__(self, builder: ReferenceBuilder, said: Sequence[str], contexts: Mapping[str, Tensor]) -> None:
        self.builder, self.said, self.contexts = builder, said, contexts

    def embed(self, sentences: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        return self.builder.cosegment(self.said, self.contexts)[0].reference_C.expand(len(sentences), -1)

    def fingerprint(self) -> str:
        context = b"".join(v.detach().cpu().numpy().tobytes() for v in self.contexts.values())
        return hashlib.sha256(f"reco {self.builder.fingerprint()}".encode() + context).hexdigest()


def mask_of_square(mask_HW: Tensor | None, px: int) -> Tensor | None:
    """Return the part (px, px) bool of an image's mask that its archive square shows."""
    return None if mask_HW is None else torch.from_numpy(center_square(mask_HW.numpy().astype(np.uint8) * 255, px) > 127)


def mostly_inside(mask_HW: Tensor | None, grid_hw: Sequence[int]) -> Tensor:
    """Return (h, w) bool: the patches with at least half of their pixels in the mask, or the one with the most where none has; all without a mask."""
    if mask_HW is None:
        return torch.ones(tuple(grid_hw), dtype=torch.bool)
    share_HW = F.adaptive_avg_pool2d(mask_HW[None].float(), tuple(grid_hw))[0]
    return share_HW >= min(0.5, float(share_HW.max()))


def renormalised(images_BCHW: Tensor, source: nn.Module, wanted: nn.Module) -> Tensor:
    """Return images normalised with `source`'s mean and std as `wanted` has them."""
    if tuple(source.mean) == tuple(wanted.mean) and tuple(source.std) == tuple(wanted.std):
        return images_BCHW
    a, b, c, d = (torch.tensor(v).view(1, 3, 1, 1).to(images_BCHW) for v in (source.mean, source.std, wanted.mean, wanted.std))
    return (images_BCHW * b + a - c) / d

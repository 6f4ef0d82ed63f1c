"""From class names to reference vectors: retrieve, attend, eliminate contexts, co-segment (ReCo, Sec. 3.2 and 3.3).

Vectors are kept in the embedding cache under all that they depend on: the archive's contents, both encoders, every setting.
C channels of the encoder, D width of the dual encoder's space.
"""
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ovdense.compat.weights import weights_fingerprint
from ovdense.methods.dual_encoder import DualEncoder, ImageEmbedder
from ovdense.methods.reco.archive import Archive, archive_batch, archive_paths
from ovdense.methods.reco.cosegment import REFERENCES, WINDOWS, Cosegmentation, Reference, Window, cosegment, patch_weights, text_attention
from ovdense.structures import ClassEntry
from ovdense.support.retrieval import Engine, ImageIndex, index_images
from ovdense.support.retrieve import retrieve_support
from ovdense.support.store import SupportSet, SupportStore
from ovdense.text.cache import EmbeddingCache

ENCODE_BATCH = 10


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How support sets are found: `k` images a class, each seen as the middle square of `px` pixels; `index_px`, `index_square` are the index's.

    `archive`: see `archive_paths`. `engine` "exact" or "faiss".
    """

    archive: Archive
    data_root: str | None = None
    k: int = 50
    px: int = 224
    index_px: int = 336
    index_square: bool = True
    engine: Engine = "exact"
    deduplicate: bool = True


@dataclass(frozen=True, kw_only=True)
class CosegmentRules:
    """What co-segmentation does; the defaults are the release's. `contexts` are computed in order, each eliminated against those before.

    `aliases`: a class name that takes the vector of a context ("vegetation" takes "tree"), while contexts are eliminated.
    """

    text_attention: bool = True
    context_elimination: bool = True
    contexts: tuple[str, ...] = ("tree", "sky", "building", "road", "person")
    aliases: Mapping[str, str] = field(default_factory=lambda: {"vegetation": "tree"})
    window: Window = "published"
    reference: Reference = "avg"
    temperature: float = 10.0

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
        self._vectors: dict[str, Tensor] = {}
        self._contexts: dict[str, Tensor] | None = None
        self._parts = ""

    @property
    def index(self) -> ImageIndex:
        """Return the archive's index, made on first use."""
        if self._index is None:
            r = self.retrieval
            self._index = index_images(archive_paths(r.archive, r.data_root), ImageEmbedder(self.retriever, px=r.index_px, square=r.index_square))
            if len(self._index) < r.k:
                print_log(f"the archive has {len(self._index)} images, each class wants {r.k}: all are taken for each", logger="current", level=30)
        return self._index

    def references(self, names: Sequence[str]) -> Tensor:
        """Return (K, C) unit vectors of class names, in order."""
        contexts = self.contexts()
        return torch.stack([self._of_class(ClassEntry(name=name).noun, contexts) for name in names])

    def contexts(self) -> dict[str, Tensor]:
        """Return the vectors of the context classes, in order; none where they are not eliminated."""
        if self._contexts is None:
            done: dict[str, Tensor] = {}
            for name in self.rules.contexts if self.rules.context_elimination else ():
                done[name] = self._vector(name, done)
            self._contexts = done
        return self._contexts

    def support(self, name: str) -> SupportSet:
        """Return the images that stand for a class name: the nearest in the archive."""
        query_D = self.retriever.encode_text([name]).rows_MD[0]
        r, templates = self.retrieval, self.retriever.templates
        return retrieve_support(name, query_D, self.index, r.k, self.store, deduplicate=r.deduplicate, engine=r.engine,
                                said={"encoder": self.retriever.image.fingerprint(), "templates": templates if isinstance(templates, str) else list(templates)})

    @torch.no_grad()
    def cosegment(self, name: str, contexts: Mapping[str, Tensor]) -> tuple[Cosegmentation, SupportSet]:
        """Return what the support images of a class name have in common, and those images."""
        support, rules = self.support(name), self.rules
        text_D = self.dense.encode_text([name]).rows_MD[0] if rules.text_attention else None
        feats, attentions = [], []
        for first in range(0, len(support), ENCODE_BATCH):
            images = archive_batch([i.read() for i in support.images[first : first + ENCODE_BATCH]], self.retrieval.px, self.encoder.mean, self.encoder.std)
            feat_NCHW, dense_NDHW = self.encode(images.to(self.device), rules.text_attention)
            feats.append(feat_NCHW)
            if dense_NDHW is not None:
                attentions.append(text_attention(dense_NDHW, text_D, feat_NCHW.shape[2:], rules.temperature))
        feat_NCHW = torch.cat(feats)
        weight_NHW = patch_weights(feat_NCHW, torch.cat(attentions) if attentions else None, [v.to(feat_NCHW) for v in contexts.values()])
        return cosegment(feat_NCHW, weight_NHW, window=rules.window, reference=rules.reference), support

    def encode(self, images_BCHW: Tensor, with_dense: bool) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's last map and, if asked, the dual encoder's places, of images normalised for the encoder."""
        feat_BCHW = self.encoder(images_BCHW)[-1].tensor_BCHW.float()
        if not with_dense:
            return feat_BCHW, None
        return feat_BCHW, self.dense.encode_dense(renormalised(images_BCHW, self.encoder, self.dense)).tensor_BCHW.float()

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _of_class(self, noun: str, contexts: Mapping[str, Tensor]) -> Tensor:
        taken = noun if noun in contexts else self.rules.aliases.get(noun) if contexts else None
        return contexts[taken] if taken is not None else self._vector(noun, contexts)

    def _vector(self, noun: str, contexts: Mapping[str, Tensor]) -> Tensor:
        """Return the vector of a name, from memory, from disk, or computed."""
        key = f"{noun} | {', '.join(contexts)}"
        if key not in self._vectors:
            row = _Computed(self, noun, contexts)
            self._vectors[key] = self.cache.embed(row, [noun])[0].to(self.device)
        return self._vectors[key]

    def fingerprint(self) -> str:
        """Return a hash of archive, encoders and settings."""
        if not self._parts:
            retrieval = {k: v for k, v in asdict(self.retrieval).items() if k not in ("archive", "data_root")}
            said = [retrieval, {**asdict(self.rules), "aliases": None}, str(self.retriever.templates), str(self.dense.templates)]
            modules = "".join(weights_fingerprint(m) for m in (self.encoder, self.dense, self.retriever))
            self._parts = hashlib.sha256((json.dumps(said, sort_keys=True) + modules).encode()).hexdigest()
        return f"{self._parts}-{self.index.fingerprint()}"


class _Computed:
    """One name's vector as a request that the embedding cache can keep."""

    def __init__(self, builder: ReferenceBuilder, noun: str, contexts: Mapping[str, Tensor]) -> None:
        self.builder, self.noun, self.contexts = builder, noun, contexts

    def embed(self, sentences: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        return self.builder.cosegment(self.noun, self.contexts)[0].reference_C[None]

    def fingerprint(self) -> str:
        context = b"".join(v.detach().cpu().numpy().tobytes() for v in self.contexts.values())
        return hashlib.sha256(f"reco {self.builder.fingerprint()}".encode() + context).hexdigest()


def renormalised(images_BCHW: Tensor, source: nn.Module, wanted: nn.Module) -> Tensor:
    """Return images normalised with `source`'s mean and std as `wanted` has them."""
    if tuple(source.mean) == tuple(wanted.mean) and tuple(source.std) == tuple(wanted.std):
        return images_BCHW
    a, b, c, d = (torch.tensor(v).view(1, 3, 1, 1).to(images_BCHW) for v in (source.mean, source.std, wanted.mean, wanted.std))
    return (images_BCHW * b + a - c) / d

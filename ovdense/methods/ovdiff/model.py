"""OVDiff (arXiv 2306.09316): segmentation by prototypes of support images. Nothing is trained.

A vocabulary's support images come from any source (drawn, retrieved, the user's own), their foreground and background give prototypes for one or more
feature extractors, and the places of an image are compared with them. K classes without background.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ovdense.compat.ranks import own_first
from ovdense.compat.weights import weights_state
from ovdense.heads.segment import resized
from ovdense.methods.base import OpenVocabModel, asked_vocabulary, only_names
from ovdense.methods.ovdiff.banks import PrototypeSettings, SupportBanks, stored_rows, told
from ovdense.methods.ovdiff.category_filter import CategoryFilter
from ovdense.methods.ovdiff.predict import CROPS, PlaceFeatures, best_above, label_map, mean_scores, read_places
from ovdense.registry import MODELS
from ovdense.structures import ClassEntry, ImageTarget, Results, ScoreMaps, Vocabulary
from ovdense.support.mask_sources import SupportMasker
from ovdense.support.prototype_files import PrototypeFiles, build_prototypes, save_bank
from ovdense.support.prototypes import ClassPrototypes, ClassRows, prototype_bank, vocabulary_bank
from ovdense.support.sources import SupportSource, TextHeat
from ovdense.support.store import SupportSet
from ovdense.vision.extractors import FeatureExtractor


@dataclass(frozen=True, kw_only=True)
class OvdiffTest:
    """How an image is read and judged: `crops` (side, stride) besides the whole image; background prototypes or a score of 0; PAMR.

    `threshold`: a class must score more to be preferred to the background.
    """

    crops: tuple[tuple[int, int], ...] = CROPS
    background: Literal["prototypes", "zero"] = "prototypes"
    pamr: bool = False
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.background not in ("prototypes", "zero"):
            raise ValueError(f'background must be "prototypes" or "zero", got {self.background!r}')


@dataclass(frozen=True)
class SeenImage:
    """What an image's pixels give, whatever the classes: features of all its crops, and the pre-filter's vector (D,), None without a pre-filter."""

    places: tuple[PlaceFeatures, ...]
    vector_D: Tensor | None


@MODELS.register_module()
class OVDiff(OpenVocabModel):
    """Segments by the best prototype of every pixel.

    `extractors`: FeatureExtractors or their configs. `support`: what gives `support_set(class)` (GeneratedSupport, FolderSupport, RetrievedSupport),
    or dict(type=class, ...) of one. `masks`: a mask source, or its dict, None for heat alone. `heat_encoder`: a dual encoder, or its config, that finds the
    class in photos without an attention map. `prefilter`: arguments of `CategoryFilter`, or None. `stuff`: names of stuff classes (no background
    prototypes, never filtered away). `bank_file`: prototypes of `tools/build_support_set.py`, taken for every class of the vocabulary that it holds;
    the others are made from `support`, which is said.
    """

    training_free = True
    apart_from_images = ("filter.encoder.text",)

    def __init__(
        self, *, extractors: Sequence[dict | FeatureExtractor], support: Any = None, masks: Any = None, heat_encoder: dict | nn.Module | None = None,
        prefilter: dict | CategoryFilter | None = None, stuff: Sequence[str] = (), prototypes: dict | None = None, test: dict | None = None,
        bank_file: str | Path | None = None, prototype_folder: str | Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), divisor=1)
        self._extractors, self._support, self._masks = list(extractors), support, masks
        self._heat_encoder, self._prefilter = heat_encoder, prefilter
        self.extractors = nn.ModuleList()
        self.filter: CategoryFilter | None = None
        self.prototypes, self.test = PrototypeSettings(**_tupled(prototypes)), OvdiffTest(**_tupled(test))
        self.stuff, self.bank_file, self.files = frozenset(stuff), bank_file, PrototypeFiles(prototype_folder)
        if not self._extractors:
            raise ValueError("extractors must be one or more feature extractors, got none")
        if support is None and bank_file is None:
            raise ValueError("support images must come from somewhere; give support= or a bank_file= of tools/build_support_set.py")
        self._masker: SupportMasker | None = None
        self._text: tuple[Any, SupportBanks] | None = None
        self._examples: SupportSource | None = None  # in place of support, while the prompt is "exemplars"
        self._parts()

    def _parts(self) -> None:
        """Build the networks; support sources wait until a class has to be built."""
        self.extractors.extend(MODELS.build(e) if isinstance(e, dict) else e for e in self._extractors)
        if self._prefilter is not None:
            self.filter = self._prefilter if isinstance(self._prefilter, nn.Module) else CategoryFilter(**self._prefilter)
        self.requires_grad_(False)

    @property
    def support(self) -> SupportSource:
        if isinstance(self._support, Mapping):
            self._support = build_part(self._support)
        if self._support is None:
            raise ValueError(f"there are no support images: the prototypes are those of {self.bank_file} alone; give support= or use_support(...)")
        return self._support

    def use_support(self, source: SupportSource) -> None:
        """Take support images from another source from now on, such as a folder of the user's own pictures."""
        self._support, self.bank_file, self._text = source, None, None

    def use_exemplars(self, vocabulary: Vocabulary, source: SupportSource) -> None:
        banks = self._banks(vocabulary, source)  # what is wrong is said before anything changes
        super().set_vocabulary(vocabulary)
        self.prompt, self._examples = "exemplars", source
        self._text = (self._text_key(vocabulary), banks)

    def set_vocabulary(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Predict these classes from now on. `prompt` must be "names"."""
        super().set_vocabulary(vocabulary, only_names(self, prompt))

    @property
    def masker(self) -> SupportMasker:
        if self._masker is None:
            source = build_part(self._masks) if isinstance(self._masks, Mapping) else self._masks
            encoder = MODELS.build(self._heat_encoder) if isinstance(self._heat_encoder, dict) else self._heat_encoder
            heat = TextHeat(encoder) if encoder is not None else None
            self._masker = SupportMasker(source, heat, heat.settings() if heat else None)
        return self._masker

    @property
    def wants_background(self) -> bool:
        """Return True: what is like no prototype is background."""
        return True

    def encode_text(self, vocabulary: Vocabulary) -> SupportBanks:
        """Return the vocabulary's banks; what is missing of its support sets and prototypes is made and kept."""
        key = self._text_key(vocabulary)
        if self._text is None or self._text[0] != key:
            with torch.autocast(self.data_preprocessor.mean.device.type, enabled=False):  # prototypes are kept on disk under a key that does not know of it
                self._text = (key, self._banks(vocabulary, self._examples if self.prompt == "exemplars" else None))
        return self._text[1]

    def _asked(self) -> SupportBanks:
        """Return the banks of the vocabulary that was set; ValueError where none was."""
        return self.encode_text(asked_vocabulary(self))

    def _text_key(self, vocabulary: Vocabulary) -> tuple[Any, ...]:
        return self.prompt, vocabulary.fingerprint(), weights_state(self.extractors)

    def _entries(self, vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
        """Return where the vocabulary's background classes are, one at most, and where the others."""
        background = [k for k, e in enumerate(vocabulary) if e.is_background]
        if len(background) > 1:
            raise ValueError(f"a vocabulary may have one background class, got {[vocabulary[k].name for k in background]}")
        if len(background) == len(vocabulary):
            raise ValueError("a vocabulary must have at least one class that is not background")
        return background, [k for k in range(len(vocabulary)) if k not in background]

    def _banks(self, vocabulary: Vocabulary, examples: SupportSource | None = None) -> SupportBanks:
        """Return the banks, of `examples` alone if there are any."""
        background, indices = self._entries(vocabulary)
        entries = [vocabulary[k] for k in indices]
        rows, provenance = self._rows(entries, examples)
        is_stuff = [e.name in self.stuff for e in entries]
        banks = tuple(vocabulary_bank(found, is_stuff, self.prototypes.stuff_cosine) for found in rows)
        return SupportBanks(banks, tuple(indices), background[0] if background else None, provenance)

    def _rows(self, entries: Sequence[ClassEntry], examples: SupportSource | None = None) -> tuple[list[list[ClassRows]], dict[str, Any]]:
        """Return the rows of all classes for each extractor, before the rule of stuff: those of `bank_file` where it holds them, else made."""
        stored, about = {}, {}
        if self.bank_file is not None and examples is None:
            stored, about = stored_rows(self.bank_file, entries, [e.fingerprint() for e in self.extractors])
        new = [e for e in entries if e.name not in stored]
        if new and self.bank_file is not None and examples is None:
            missing = f"{self.bank_file} does not hold {len(new)} of the {len(entries)} classes: {', '.join(e.name for e in new[:5])}"
            if self._support is None:
                raise ValueError(f"{missing}; ask for those that it holds, build it again with them, or give support= to make them from")
            print_log(f"{missing}; they are made from the model's support images", logger="current", level=30)
        made, provenance = self._built(new, self.support if examples is None else examples) if new else ({}, about)
        found = stored | made
        return [[found[e.name][n] for e in entries] for n in range(len(self.extractors))], {**provenance, "bank_file": about} if new and stored else provenance

    def _built(self, entries: Sequence[ClassEntry], source: SupportSource) -> tuple[dict[str, list[ClassRows]], dict[str, Any]]:
        """Return each class's rows, one an extractor, and what they were made with; processes begin with different classes."""
        p, order = self.prototypes, own_first(len(entries))
        sets = {k: source.support_set(entries[k]) for k in (range(len(entries)) if getattr(source, "together", False) else order)}
        found = {k: self._prototypes(entries[k], sets[k]) for k in order}
        rows = {e.name: [(m.foreground.rows(p.kinds), m.background.rows(p.kinds)) for m in found[k]] for k, e in enumerate(entries)}
        return rows, {"extractors": [e.fingerprint() for e in self.extractors], "sets": [sets[k].fingerprint() for k in range(len(entries))],
                      "made_with": dict(sets[0].made_with), "kinds": list(p.kinds), "num_parts": p.num_parts, "seed": p.seed,
                      "masks": self.masker.settings()}  # fmt: skip

    def build_class(self, entry: ClassEntry) -> list[ClassPrototypes]:
        """Return a class's prototypes, one an extractor; what is not there yet is made and kept."""
        return self._prototypes(entry, self.support.support_set(entry))

    def _prototypes(self, entry: ClassEntry, support: SupportSet) -> list[ClassPrototypes]:
        p = self.prototypes
        return [build_prototypes(entry, support, e, self.masker, self.files, num_parts=p.num_parts, seed=p.seed, memory_bytes=p.memory_bytes)
                for e in self.extractors]  # fmt: skip

    def save_banks(self, path: str | Path, vocabulary: Vocabulary) -> None:
        """Write the prototypes of a vocabulary, built where need be, to a file for `bank_file`: of all of it or of any of its classes, in any order."""
        entries = [vocabulary[k] for k in self._entries(vocabulary)[1]]
        rows, provenance = self._rows(entries, self._examples if self.prompt == "exemplars" else None)
        banks = [prototype_bank([fore for fore, _ in found], [back for _, back in found]) for found in rows]
        save_bank(path, banks, [e.name for e in entries], provenance)

    def encode_image(self, images: Tensor, crops: Sequence[tuple[int, int]] | None = None) -> list[SeenImage]:
        """Return what the pixels of each image say; images without padding, in 0..1. `crops` None: those of `test`."""
        crops = self.test.crops if crops is None else crops
        return [SeenImage(tuple(read_places(image, self.extractors, crops)), self.filter.encode_image(image) if self.filter else None) for image in images]

    def seen(self, image_3HW: Tensor) -> SeenImage:
        """Return `encode_image` of one image, remembered where there is an `image_cache`."""
        return self.features(image_3HW[None], self.test.crops)[0]

    def active_classes(self, seen: SeenImage, text: SupportBanks, vocabulary: Vocabulary) -> Tensor:
        """Return (K,) bool: the classes that the pre-filter lets through, and all stuff; without a filter all."""
        entries = [vocabulary[k] for k in text.class_indices]
        if self.filter is None:
            return torch.ones(len(entries), dtype=torch.bool)
        active = torch.tensor([e.name in self.stuff for e in entries])
        things = (~active).nonzero().flatten().tolist()
        if things:
            active[[things[n] for n in self.filter(seen.vector_D, [entries[k] for k in things])]] = True
        return active

    def score(self, features: SeenImage, text: SupportBanks) -> ScoreMaps:
        """Return one image's scores (1, 1 + K, H, W), background first, all classes active."""
        whole = features.places[-1]
        scores = mean_scores(features.places, text.banks, torch.ones(len(text.class_indices), dtype=torch.bool), (whole.rows.stop, whole.columns.stop),
                             self.test.background == "prototypes")  # fmt: skip
        return ScoreMaps(logit_BKHW=scores[None], activation="identity")

    def decode(self, scored: ScoreMaps, targets: Sequence[ImageTarget]) -> list[Results]:
        """Return the label map of `score`'s maps at the file's size."""
        text, out = self._asked(), []
        for score_KHW, target in zip(scored.logit_BKHW, targets, strict=True):
            score_KHW = resized(score_KHW[None], target.original_size_hw)[0]
            label = score_KHW[1:].argmax(0) + 1 if text.background_index is None else best_above(score_KHW, self.test.threshold)[1]
            out.append(self._result(label, text, target))
        return out

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        self._asked()
        out = []
        for image, target in zip(images, targets, strict=True):
            image = image[:, : target.size_hw[0], : target.size_hw[1]]
            out.append(self.answer(self.seen(image), image, target))
        return out

    @torch.no_grad()
    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        """Return the cosine of every place with the best prototype of each class that the pre-filter lets through, 0 of the others."""
        text, out = self._asked(), []
        for image, target in zip(images, targets, strict=True):
            image = image[:, : target.size_hw[0], : target.size_hw[1]]
            seen = self.seen(image)
            active = self.active_classes(seen, text, self.vocabulary)
            score = mean_scores(seen.places, text.banks, active, tuple(image.shape[1:]), self.test.background == "prototypes")
            maps = score.new_zeros(len(self.vocabulary), *score.shape[1:])
            maps[list(text.class_indices)] = score[1:].clamp(min=0)
            if text.background_index is not None:
                maps[text.background_index] = score[0].clamp(min=0)
            out.append(maps)
        return out

    def answer(self, seen: SeenImage, image_3HW: Tensor, target: ImageTarget, active_K: Tensor | None = None) -> Results:
        """Return the label map of an image (0..1, without padding) from what its pixels say.

        `active_K`: the classes, without background, that it may hold; None asks the pre-filter.
        """
        text, size_hw = self._asked(), tuple(image_3HW.shape[1:])
        active = self.active_classes(seen, text, self.vocabulary) if active_K is None else active_K
        label = label_map(seen.places, text.banks, active, size_hw, tuple(target.original_size_hw),
                          background=self.test.background == "prototypes", with_background=text.background_index is not None,
                          pamr_image_3HW=255 * image_3HW if self.test.pamr else None, threshold=self.test.threshold)  # fmt: skip
        return self._result(label, text, target)

    def _result(self, label_HW: Tensor, text: SupportBanks, target: ImageTarget) -> Results:
        """Number 0 (background) and 1 + k become classes of the vocabulary."""
        table = torch.tensor([text.background_index or 0, *text.class_indices], device=label_HW.device)
        return Results.of_label_map(table[label_HW], self.vocabulary.names, target.image_id)

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        raise NotImplementedError("OVDiff is not trained; build its support set with tools/build_support_set.py and test it with tools/test.py")

    def protocol(self) -> dict[str, Any]:
        """Return also which support images the prototypes are of: they are made now if they are not there."""
        p, t = self.prototypes, self.test
        made = told(self.encode_text(self.vocabulary).provenance) if self.vocabulary is not None else {}
        return {**super().protocol(), "extractors": ", ".join(type(e).__name__ for e in self.extractors), "background": t.background,
                "prefilter": type(self.filter.encoder).__name__ if self.filter else "none", "crops": str(list(t.crops)), "pamr": t.pamr,
                "threshold": t.threshold, "stuff_cosine": p.stuff_cosine,
                "prototypes": ", ".join(p.kinds), "num_parts": p.num_parts, "seed": p.seed, **made}  # fmt: skip


def build_part(config: Mapping[str, Any]) -> Any:
    """Return `config["type"]` called with the rest: a support or mask source of a config file."""
    settings = dict(config)
    kind = settings.pop("type")
    if isinstance(kind, str):
        from mmengine.utils import get_object_from_string

        kind = get_object_from_string(kind)
    return kind(**settings)


def _tupled(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: tuple(tuple(x) if isinstance(x, list) else x for x in v) if isinstance(v, list | tuple) else v for k, v in (settings or {}).items()}

"""Which classes an image may hold, by an image-text encoder: OVDiff's category pre-filter (arXiv 2306.09316, Sec. 3.4).

Pure functions over unit vectors. First the classes that stand out in a softmax without a scale, then the subset of them whose joint
prompt ("a cat and a sofa") fits the image best.
"""
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

TOP_K = 10
ARTICLE, CONNECTOR = "a {}", " and "


def likely_classes(cosine_K: Tensor, top_k: int = TOP_K) -> tuple[Tensor, list[int]]:
    """Return (first stage (K,) bool, the classes kept in the order that prompts name them).

    The first stage holds the classes with at least 1/K of the softmax, or the `top_k` best where none has; of more than `top_k` the
    most probable are kept, best first.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    probability_K = cosine_K.softmax(0)
    above_K = probability_K >= 1 / len(cosine_K)
    kept = above_K.nonzero().flatten().tolist()
    if not kept:
        kept = cosine_K.topk(min(top_k, len(cosine_K))).indices.tolist()
        above_K = torch.zeros_like(above_K)
        above_K[kept] = True
    if len(kept) > top_k:
        kept = probability_K.where(above_K, torch.zeros_like(probability_K)).topk(top_k).indices.tolist()
    return above_K, kept


def subset_prompts(names: Sequence[str], kept: Sequence[int]) -> tuple[list[tuple[int, ...]], list[str]]:
    """Return all non-empty subsets of `kept`, small ones first, and the prompt of each."""
    subsets = [s for size in range(1, len(kept) + 1) for s in combinations(kept, size)]
    return subsets, [CONNECTOR.join(ARTICLE.format(names[k]) for k in s) for s in subsets]


def best_subset(image_D: Tensor, names: Sequence[str], class_KD: Tensor, embed: Callable[[list[str]], Tensor], top_k: int = TOP_K) -> tuple[int, ...]:
    """Return the classes, in ascending order, that the image holds; `class_KD`: rows of "a NAME", `embed`: prompts to rows (any length)."""
    image_D = F.normalize(image_D, dim=0)
    _, kept = likely_classes(F.normalize(class_KD, dim=1) @ image_D, top_k)
    subsets, prompts = subset_prompts(names, kept)
    return tuple(sorted(subsets[int((F.normalize(embed(prompts), dim=1) @ image_D).argmax())]))

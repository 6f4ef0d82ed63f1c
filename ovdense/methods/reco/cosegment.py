"""Co-segmentation (ReCo, arXiv 2206.07045, Sec. 3.2): what retrieved images of a class have in common, as one reference vector.

Every patch is compared with every patch of all images; in each image the patch that the others support most is the seed,
and the mean of the seeds is the class's vector. Pure functions. N images, C channels, H W grid, P = H * W patches an image.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Window = Literal["published", "image"]
Reference = Literal["avg", "weighted", "winner"]
WINDOWS, REFERENCES = ("published", "image"), ("avg", "weighted", "winner")
BLOCK = 2**22  # cosines held at once
_TINY = 1e-15  # stands for a weight of zero, which would have to be divided by


@dataclass(frozen=True, kw_only=True)
class Cosegmentation:
    """`reference_C` of length 1; `seed_yx_N2` int64, the seed of each image; `support_NHW`, how much the images support a patch (mean best cosine)."""

    reference_C: Tensor
    seed_yx_N2: Tensor
    support_NHW: Tensor


def cosegment(
    feat_NCHW: Tensor, weight_NHW: Tensor | None = None, *, inside_NHW: Tensor | None = None, window: Window = "published", reference: Reference = "avg",
    block: int = BLOCK,
) -> Cosegmentation:
    """Return the reference vector of the images, their seeds and the support map.

    `weight_NHW` in 0..1 says how much a patch counts as partner of others (text attention, context elimination).
    The memory needed grows with the number of patches times images, not with the square of the patches: at most `block`
    cosines are held at once. The seeds are the first maxima; the features that
    are averaged are those given, not normalised, as in the release. See `best_partners` for `window`. `inside_NHW` bool: where seeds may be
    (None: anywhere, as in the release).
    """
    if inside_NHW is not None and not bool(inside_NHW.flatten(1).any(1).all()):
        raise ValueError("every image must have a patch where its seed may be, got one without")
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {reference!r}")
    grid_MN = best_partners(feat_NCHW, weight_NHW, window=window, block=block)
    n, _, h, w = feat_NCHW.shape
    support_NP = grid_MN.mean(1).view(n, h * w)
    allowed_NP = support_NP if inside_NHW is None else support_NP.masked_fill(~inside_NHW.flatten(1).to(support_NP.device), -torch.inf)
    seed_N = allowed_NP.argmax(1)  # the first of equal ones
    seeds_NC = feat_NCHW.flatten(2)[torch.arange(n, device=seed_N.device), :, seed_N]
    vector_C = _reference(seeds_NC, reference)
    norm = vector_C.norm()
    if not bool(norm > 0):
        raise ValueError("the seeds' features must not cancel out, but their mean is zero; are the images blank?")
    return Cosegmentation(
        reference_C=vector_C / norm, seed_yx_N2=torch.stack([seed_N // w, seed_N % w], dim=1), support_NHW=support_NP.view(n, h, w)
    )


def best_partners(feat_NCHW: Tensor, weight_NHW: Tensor | None = None, *, window: Window = "published", block: int = BLOCK) -> Tensor:
    """Return (N * P, N): for each patch its best weighted cosine, cos(F_i, F_j) * w_j, within each image.

    window "image" takes the best in image j alone, as in the paper. "published" is the release's, whose slice runs too far:
    column j is the best over images j, j + 1, ..., 2j (those that exist). All released embeddings and numbers are made with it.
    A patch's own image takes part. A patch whose features are zero has cosine 0 with all.
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    if feat_NCHW.ndim != 4 or 0 in feat_NCHW.shape:
        raise ValueError(f"features must have shape (N, C, H, W) and hold something, got {tuple(feat_NCHW.shape)}")
    n, _, h, w = feat_NCHW.shape
    place_NPC = F.normalize(feat_NCHW.flatten(2).transpose(1, 2), dim=2).contiguous()
    weight_NP = None
    if weight_NHW is not None:
        _check_weights(weight_NHW, (n, h, w))
        weight_NP = weight_NHW.reshape(n, h * w).to(place_NPC).clamp(min=_TINY)
        place_NPC = place_NPC * weight_NP[..., None]
    grid_NPN = _pairs(place_NPC, block)
    if weight_NP is not None:
        # the products hold both patches' weights; a patch's own does not belong in its row
        grid_NPN /= weight_NP[..., None]
    if window == "published":
        alone = grid_NPN.clone() if n > 2 else grid_NPN
        for j in range(1, n):
            grid_NPN[..., j] = alone[..., j : min(2 * j + 1, n)].amax(-1)
    return grid_NPN.view(n * h * w, n)


def _pairs(place_NPC: Tensor, block: int) -> Tensor:
    """Return (N, P, N): the best product of each place with the places of each image; every pair of images is multiplied once.

    Tiles are about square, several small images on each side or a part of a large one: a matrix product is fastest so.
    """
    n, p, _ = place_NPC.shape
    grid_NPN = place_NPC.new_full((n, p, n), -torch.inf)
    side = max(1, int(block**0.5) // p)  # images
    parts = -(-p * p // block) if side == 1 else 1  # of an image
    for first in range(0, n, side):
        last = min(first + side, n)
        if side == 1:
            grid_NPN[first, :, first] = _itself(place_NPC[first], max(1, min(-(-p // 4), block // p)))
        else:
            for i in range(first, last):  # the pairs inside: each image with itself and those after it
                _multiply(place_NPC, grid_NPN, (i, i + 1), (i, last), parts)
        for start in range(last, n, side):
            _multiply(place_NPC, grid_NPN, (first, last), (start, min(start + side, n)), parts)
    return grid_NPN


def _itself(place_PC: Tensor, size: int) -> Tensor:
    """Return (P,): the best product of each place with the places of its own image; of the symmetric products few are made twice."""
    best_P = place_PC.new_full((len(place_PC),), -torch.inf)
    for top in range(0, len(place_PC), size):
        end = top + size
        product_RS = place_PC[top:end] @ place_PC[top:].T  # the places before have met these
        best_P[top:end] = torch.maximum(best_P[top:end], product_RS.amax(1))
        if end < len(place_PC):
            best_P[end:] = torch.maximum(best_P[end:], product_RS[:, size:].amax(0))
    return best_P


def _multiply(place_NPC: Tensor, grid_NPN: Tensor, rows: tuple[int, int], columns: tuple[int, int], parts: int) -> None:
    """Put the maxima of images `rows` times images `columns` into the grid, both ways."""
    _, p, c = place_NPC.shape
    row_images, column_images = slice(*rows), slice(*columns)
    other_JPC = place_NPC[column_images]
    size = -(-p // parts)
    for top in range(0, p, size):
        part_IRC = place_NPC[row_images, top : top + size]
        product_IRJP = (part_IRC.reshape(-1, c) @ other_JPC.reshape(-1, c).T).view(*part_IRC.shape[:2], *other_JPC.shape[:2])
        grid_NPN[row_images, top : top + size, column_images] = product_IRJP.amax(3)
        if parts == 1:
            grid_NPN[column_images, :, row_images] = product_IRJP.amax(1).permute(1, 2, 0)
        else:
            back_JPI = grid_NPN[column_images, :, row_images]
            back_JPI.copy_(torch.maximum(back_JPI, product_IRJP.amax(1).permute(1, 2, 0)))


def _check_weights(weight_NHW: Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(weight_NHW.shape) != shape:
        raise ValueError(f"weights must have shape {shape}, one a patch, got {tuple(weight_NHW.shape)}")
    low, high = float(weight_NHW.min()), float(weight_NHW.max())
    if not (low >= 0 and high <= 1 + 1e-5):
        raise ValueError(f"weights must lie in 0..1, got {low:.4g}..{high:.4g}")


def _reference(seeds_NC: Tensor, how: Reference) -> Tensor:
    """Return the seeds' mean, their mean with weights 1, 1 - 1/N, ... in order of retrieval, or the seed nearest to all."""
    n = len(seeds_NC)
    if how == "avg":
        return seeds_NC.mean(0)
    if how == "weighted":
        weight_N = 1 - torch.arange(n, device=seeds_NC.device, dtype=seeds_NC.dtype) / n
        return (seeds_NC * weight_N[:, None]).sum(0) / weight_N.sum()
    unit_NC = seeds_NC / (seeds_NC.norm(dim=1, keepdim=True) + 1e-7)
    return seeds_NC[(unit_NC @ unit_NC.T).sum(1).argmax()]


def text_attention(place_BDHW: Tensor, text: Tensor, size_hw: tuple[int, int], temperature: float = 10.0, centre: float = 0.0) -> Tensor:
    """Return sigmoid(temperature * (cos(place, text) - centre)), resized bilinearly after the sigmoid.

    (B, *size_hw) for one text (D,), (B, K, *size_hw) for (K, D). `text` of length 1; the places need not be. The release's `centre` is 0,
    which suits CLIP, whose cosines of images and texts stay below 0.3; where they are larger the attention is 1 everywhere, and a centre
    between those of hits and misses keeps it an attention.
    """
    unit_BDHW = F.normalize(place_BDHW, dim=1)
    attention = torch.einsum("bdhw,kd->bkhw", unit_BDHW, text.to(unit_BDHW).reshape(-1, text.shape[-1])).sub(centre).mul(temperature).sigmoid()
    attention = F.interpolate(attention, size=tuple(size_hw), mode="bilinear", align_corners=False)
    return attention[:, 0] if text.ndim == 1 else attention


def context_weights(feat_NCHW: Tensor, context_KC: Tensor) -> Tensor:
    """Return (N, K, H, W): sigmoid(cos(feature, context vector)), how much a patch is of each context class (Sec. 3.3, temperature 1)."""
    return torch.einsum("nchw,kc->nkhw", F.normalize(feat_NCHW, dim=1), F.normalize(context_KC, dim=1)).sigmoid()


def patch_weights(feat_NCHW: Tensor, attention_NHW: Tensor | None, contexts: Sequence[Tensor] = ()) -> Tensor | None:
    """Return (N, H, W), the text attention times the product over contexts of 1 - `context_weights`; None if there is neither."""
    weight_NHW = attention_NHW
    if len(contexts):
        kept_NHW = (1 - context_weights(feat_NCHW, torch.stack(list(contexts)))).prod(1)
        weight_NHW = kept_NHW if weight_NHW is None else weight_NHW * kept_NHW
    return weight_NHW


def class_scores(
    feat_BCHW: Tensor, reference_KC: Tensor, size_hw: tuple[int, int], dense_BDHW: Tensor | None = None, text_KD: Tensor | None = None, **attention: float
) -> Tensor:
    """Return (B, K, *size_hw) in 0..1: sigmoid(cos(feature, reference)), resized; times the text attention where it is given (Sec. 3.4).

    `attention`: temperature and centre of `text_attention`.
    """
    cosine_BKHW = torch.einsum("bchw,kc->bkhw", F.normalize(feat_BCHW, dim=1), reference_KC.to(feat_BCHW))
    score_BKHW = F.interpolate(cosine_BKHW.sigmoid().float(), size=tuple(size_hw), mode="bilinear", align_corners=False)
    if dense_BDHW is None:
        return score_BKHW
    if text_KD is None:
        raise ValueError("text attention needs the classes' text vectors beside the dense features, got none")
    return score_BKHW * text_attention(dense_BDHW, text_KD, size_hw, **attention)

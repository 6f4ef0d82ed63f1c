"""Where a picture's words are while it is drawn: cross-attention maps of chosen tokens, summed over steps, layers and heads (DAAM).

arXiv 2210.04885 as OVDiff's release computes it. B images, P places, L tokens.
"""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.vision.diffusion import grid_sides


class HeatMaps:
    """Sums attention probabilities of token groups; `maps` gives their mean.

    Every map is resized (bicubic) to the size of the first one that came, and negative values that this makes become 0.
    """

    def __init__(self, groups: Sequence[Sequence[int]], latent_hw: tuple[int, int] | None = None) -> None:
        self.groups, self.latent_hw = [list(g) for g in groups], latent_hw
        self._size_hw: tuple[int, int] | None = None
        self._sums: list[Tensor] | None = None
        self._count = 0

    def add(self, probability_NPL: Tensor, num_heads: int, guided: bool = True) -> None:
        """Take a layer's probabilities, (images x heads, P, L); where `guided`, the first half of the images is unconditional and left out."""
        prob_BHPL = probability_NPL.detach().unflatten(0, (-1, num_heads))
        prob_BHPL = prob_BHPL.chunk(2)[1] if guided else prob_BHPL
        places = prob_BHPL.shape[2]
        size_hw = grid_sides(places, self.latent_hw or (round(places**0.5),) * 2)
        self._size_hw = self._size_hw or size_hw
        sums = [self._spread(prob_BHPL[..., tokens], size_hw) for tokens in self.groups]
        self._sums = sums if self._sums is None else [a + b for a, b in zip(self._sums, sums)]
        self._count += num_heads

    def _spread(self, prob_BHPT: Tensor, size_hw: tuple[int, int]) -> Tensor:
        map_BTHhw = prob_BHPT.permute(0, 3, 1, 2).float().unflatten(3, size_hw)
        spread = F.interpolate(map_BTHhw.flatten(0, 1), size=self._size_hw, mode="bicubic", align_corners=False).clamp(min=0)
        return spread.unflatten(0, map_BTHhw.shape[:2]).sum(2)

    def maps(self) -> Tensor:
        """Return (B, groups, h, w): the mean over calls and heads, then over a group's tokens."""
        if self._sums is None:
            raise ValueError("no attention has been recorded; set the processors of `recording` before the pipeline runs")
        return torch.stack([(s / self._count).mean(1) for s in self._sums], 1)


class RecordingProcessor:
    """An attention processor (diffusers' public interface) that computes attention openly and hands the probabilities on."""

    def __init__(self, record: Callable[[Tensor, int], None]) -> None:
        self.record = record

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None,
                 temb: Tensor | None = None) -> Tensor:  # fmt: skip
        residual = hidden_states
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(hidden_states))
        query, key, value = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)))
        probability = attn.get_attention_scores(query, key, mask)
        if encoder_hidden_states is not None:
            self.record(probability, attn.heads)
        out = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probability, value))))
        return (out + residual if attn.residual_connection else out) / attn.rescale_output_factor


def token_positions(tokenizer: Any, prompt: str, start: int, stop: int) -> list[int]:
    """Return the positions, within the tokens that the pipeline sees, of those that touch characters start..stop of the prompt.

    By the tokenizer's own character offsets, so that names of several words, and names that repeat a word of the prompt, are right.
    ValueError when the tokenizer cuts the prompt before its end, or when it has no offsets.
    """
    if not 0 <= start < stop <= len(prompt):
        raise ValueError(f"the name must be a part of the prompt, got characters {start}..{stop} of {prompt!r}")
    limit = tokenizer.model_max_length
    if getattr(tokenizer, "is_fast", False):
        spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        found = [n for n, (a, b) in enumerate(spans) if b > a and a < stop and b > start]
        length = len(spans)
    else:
        whole, before = tokenizer(prompt).input_ids, tokenizer(prompt[:start].rstrip(), add_special_tokens=False).input_ids
        upto = tokenizer(prompt[:stop], add_special_tokens=False).input_ids
        first = next((n for n in range(len(whole)) if whole[n : n + len(upto)] == upto), None)  # after the start token
        found, length = [] if first is None else list(range(first + len(before), first + len(upto))), len(whole)
    if length > limit:
        raise ValueError(f"a prompt must have at most {limit} tokens for this pipeline, got {length}: {prompt!r}; shorten the class's name")
    if not found:
        raise ValueError(f"the characters {prompt[start:stop]!r} of {prompt!r} must have a token of their own, found none; choose another name")
    return found


class recording:
    """Context: while it is open, the pipeline's cross-attention goes through processors that fill `heat`; then the old ones are back."""

    def __init__(self, pipeline: Any, heat: HeatMaps, guided: bool) -> None:
        self.unet, self.heat, self.guided = pipeline.unet, heat, guided

    def __enter__(self) -> HeatMaps:
        self._before = dict(self.unet.attn_processors)
        record = RecordingProcessor(lambda probability, heads: self.heat.add(probability, heads, self.guided))
        self.unet.set_attn_processor({k: record if k.endswith(".attn2.processor") else v for k, v in self._before.items()})
        return self.heat

    def __exit__(self, *_) -> None:
        self.unet.set_attn_processor(self._before)

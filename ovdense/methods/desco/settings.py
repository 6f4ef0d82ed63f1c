"""How DesCo predicts: the limits of a chunk, thresholds, and how much is done at a time."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovdense.heads.similarity import POOLS

UNITS_OF_A_CHUNK = 6  # a chunk takes about 5 arrays of places x embed_width while it is scored (measured), one more to be safe


def chunk_memory(gib: float | None, device: torch.device) -> float:
    """Return how many bytes scoring may take: `gib`, or None: half of what a CUDA device has free, else 1 GiB (more gains nothing on a CPU)."""
    if gib is not None:
        return gib * 2**30
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else 2**30


@dataclass(frozen=True, kw_only=True)
class TestSettings:
    """How predictions are made; the defaults are the published ones for LVIS with descriptions."""

    __test__ = False  # not a test case, whatever a collector thinks of the name

    max_classes: int | None = 8
    max_tokens: int = 256
    chunk_batch: int | Literal["fill"] = 1
    chunk_memory_gib: float | None = None
    score_thr: float = 0.05
    pre_nms: int = 1000
    nms_iou: float = 0.6
    chunk_dets: int = 300
    max_dets: int | None = 300
    pool: str = "mean"
    published: bool = False
    prefilter_keep: float = 1.0
    prefilter_pool: int = 2

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {self.pool!r}")
        for field in ("max_classes", "max_tokens", "pre_nms", "chunk_dets", "max_dets"):
            amount = getattr(self, field)
            if amount is None and field in ("max_classes", "max_dets"):
                continue
            if not isinstance(amount, int) or amount < 1:
                raise ValueError(f"{field} must be at least 1{', or None for all' if field in ('max_classes', 'max_dets') else ''}, got {amount!r}")
        if not 0 <= self.score_thr < 1:
            raise ValueError(f"score_thr must lie in 0..1, 1 excluded, got {self.score_thr}")
        if not 0 < self.nms_iou <= 1:
            raise ValueError(f"nms_iou must lie in 0..1, 0 excluded, got {self.nms_iou}")
        if not 0 < self.prefilter_keep <= 1:
            raise ValueError(f"prefilter_keep must lie in 0..1, 0 excluded (1: every chunk is scored), got {self.prefilter_keep}")
        if self.prefilter_pool < 1 or (self.chunk_batch != "fill" and (not isinstance(self.chunk_batch, int) or self.chunk_batch < 1)):
            raise ValueError(f"prefilter_pool and chunk_batch must be at least 1 (or chunk_batch 'fill'), got {self.prefilter_pool} and {self.chunk_batch!r}")
        if self.chunk_memory_gib is not None and self.chunk_memory_gib <= 0:
            raise ValueError(f"chunk_memory_gib must be positive, or None, got {self.chunk_memory_gib}")

    def chunks_at_a_time(self, maps: Sequence[Tensor], embed_width: int) -> int:
        """Return how many chunks are scored at once on these maps (B, C, H, W) by fusion blocks of this width."""
        if self.chunk_batch != "fill":
            return self.chunk_batch
        places = maps[0].shape[0] * sum(m.shape[-2] * m.shape[-1] for m in maps)
        one = UNITS_OF_A_CHUNK * places * embed_width * maps[0].element_size()
        return max(1, int(chunk_memory(self.chunk_memory_gib, maps[0].device) / one))

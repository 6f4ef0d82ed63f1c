"""A stand-in for a latent diffusion model's autoencoder that needs no training: the low frequencies of small patches, as in JPEG.

`PatchAutoencoder` has the interface that diffusers' Stable Diffusion pipelines use, and is saved and loaded with them. It is made
on first access, so that importing this file does not import diffusers.
"""
import functools
from typing import Any

import torch
from torch import Tensor


def patch_basis(patch_size: int, kept: tuple[int, int]) -> Tensor:
    """Return (L, 3, P, P) orthonormal patterns: cosines of brightness, and of the two differences of colour, lowest frequencies first.

    `kept`: how many frequencies of brightness, and of each colour difference.
    """
    n = torch.arange(patch_size, dtype=torch.float64)
    cosine = torch.cos((n[None] + 0.5) * n[:, None] * torch.pi / patch_size) * (2 / patch_size) ** 0.5
    cosine[0] /= 2**0.5
    colours = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colours /= colours.norm(dim=1, keepdim=True)
    order = frequencies(patch_size)
    rows = [torch.einsum("r,i,j->rij", colour, cosine[u], cosine[v]) for colour, number in zip(colours, (kept[0], kept[1], kept[1])) for u, v in order[:number]]
    return torch.stack(rows).float()


def frequencies(patch_size: int) -> list[tuple[int, int]]:
    """Return all (vertical, horizontal) frequencies of a patch, the lowest sums first."""
    return sorted(((u, v) for u in range(patch_size) for v in range(patch_size)), key=lambda uv: (sum(uv), max(uv), uv))


@functools.cache
def _patch_autoencoder() -> type:
    from types import SimpleNamespace

    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
    from torch.nn import functional as F

    class PatchAutoencoder(ModelMixin, ConfigMixin):
        """Latents are cosine coefficients of each patch, frequency (u, v) amplified by 1 + u + v, which makes details about as large as brightness.

        Images (B, 3, H, W) in -1..1, H and W multiples of `patch_size`; latents (B, L, H / patch_size, W / patch_size), L = kept[0] + 2 kept[1];
        with all patch_size**2 frequencies kept nothing is lost. `shift` is taken off the image first. `block_out_channels` is what
        pipelines read the patch size from (2 ** (len - 1)); `scaling_factor` is applied by them.
        """

        @register_to_config
        def __init__(self, patch_size: int = 4, kept: tuple[int, int] = (6, 3), scaling_factor: float = 1.0, shift: float = 0.0, force_upcast: bool = False,
                     block_out_channels: tuple[int, ...] | None = None, latent_channels: int | None = None) -> None:  # fmt: skip
            super().__init__()
            if patch_size < 1 or patch_size & (patch_size - 1):
                raise ValueError(f"patch_size must be a power of two, got {patch_size}")
            if not all(1 <= k <= patch_size**2 for k in kept):
                raise ValueError(f"kept must be two numbers in 1..{patch_size**2}, got {tuple(kept)}")
            self.register_to_config(block_out_channels=(3,) * patch_size.bit_length(), latent_channels=kept[0] + 2 * kept[1])
            order = frequencies(patch_size)
            gain = torch.tensor([1.0 + sum(uv) for number in (kept[0], kept[1], kept[1]) for uv in order[:number]])[:, None, None, None]
            basis = patch_basis(patch_size, kept)
            self.register_buffer("analysis", basis * gain)
            self.register_buffer("synthesis", basis / gain)

        def encode(self, image_BCHW: Tensor, return_dict: bool = True) -> Any:
            latent = F.conv2d(image_BCHW - self.config.shift, self.analysis, stride=self.config.patch_size)
            spread = SimpleNamespace(sample=lambda generator=None: latent, mode=lambda: latent, mean=latent)
            return SimpleNamespace(latent_dist=spread) if return_dict else (spread,)

        def decode(self, latent_BCHW: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
            image = F.conv_transpose2d(latent_BCHW, self.synthesis, stride=self.config.patch_size) + self.config.shift
            return SimpleNamespace(sample=image) if return_dict else (image,)

    PatchAutoencoder.__qualname__ = "PatchAutoencoder"
    return PatchAutoencoder


def __getattr__(name: str) -> Any:
    if name == "PatchAutoencoder":
        return _patch_autoencoder()
    if name == "ModelMixin":  # diffusers looks beside a component for the base class that says how to load it
        from diffusers import ModelMixin

        return ModelMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

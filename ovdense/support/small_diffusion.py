"""A small text-to-image pipeline in Stable Diffusion's form, of embedded parts: patches' low frequencies, MiniLM's words, a small UNet."""
from collections.abc import Sequence
from typing import Any

import torch


def build_small_pipeline(
    *, image_px: int = 48, patch_size: int = 4, kept: tuple[int, int] = (6, 3), channels: Sequence[int] = (48, 96), layers_per_block: int = 1,
    head_dim: int = 24, norm_groups: int = 8, text_layers: int = 0, max_tokens: int = 20, scaling_factor: float = 0.75, shift: float = 0.25, seed: int = 0,
) -> Any:
    """Return diffusers' StableDiffusionPipeline with a random UNet that predicts the clean image ("sample"), cosine noise schedule.

    Images are `image_px` square; `patch_size`, `kept`, `scaling_factor`, `shift`: see `PatchAutoencoder`.
    Scheduler: multistep DPM-Solver, as OVDiff's. The weights depend on `seed` alone.
    """
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from ovdense.text.pipeline_parts import embedded_pipeline_text
    from ovdense.vision import patch_autoencoder

    if image_px % (patch_size * 2 ** (len(channels) - 1)):
        raise ValueError(f"image_px must be a multiple of {patch_size * 2 ** (len(channels) - 1)} (patch size and the UNet's strides), got {image_px}")
    tokenizer, text_encoder = embedded_pipeline_text(text_layers, max_tokens)
    autoencoder = patch_autoencoder.PatchAutoencoder(patch_size=patch_size, kept=tuple(kept), scaling_factor=scaling_factor, shift=shift)
    latent_channels = autoencoder.config.latent_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=image_px // patch_size, in_channels=latent_channels, out_channels=latent_channels,
            cross_attention_dim=text_encoder.config.hidden_size, block_out_channels=tuple(channels), layers_per_block=layers_per_block,
            attention_head_dim=tuple(max(1, c // head_dim) for c in channels), norm_num_groups=norm_groups,
            down_block_types=("CrossAttnDownBlock2D",) * len(channels), up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        )
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", steps_offset=1)
    pipeline = StableDiffusionPipeline(vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

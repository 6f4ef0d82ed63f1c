"""Training the small text-to-image model that draws support images where no published one is at hand.

Denoising diffusion (arXiv 2006.11239) with classifier-free guidance (2207.12598), clean-image prediction, and losses weighted by the
signal-to-noise ratio between 1 (2202.00512) and a limit (2303.09556). `SavePipelineHook` leaves a diffusers pipeline, which is used like any other one.
"""
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from ovdense.compat.atomic import atomic_folder
from ovdense.registry import HOOKS, MODELS
from ovdense.support.small_diffusion import build_small_pipeline

MOST_KEPT = 8192  # captions


@MODELS.register_module()
class TextToImage(BaseModel):
    """The UNet of a small pipeline, trained on (images, captions); `pipeline`: arguments of `build_small_pipeline`.

    Only the UNet learns. A noise level weighs its signal-to-noise ratio, at least 1 and at most `snr_limit`.
    """

    def __init__(self, *, pipeline: dict | None = None, snr_limit: float = 5.0) -> None:
        super().__init__()
        parts = build_small_pipeline(**(pipeline or {}))
        self.unet = parts.unet.to(memory_format=torch.channels_last)  # a fifth faster on the CPU
        self.snr_limit = snr_limit
        self._pipeline = [parts]  # in a list: its frozen parts are no parameters of this model
        self._states: dict[str, Tensor] = {}
        self.register_buffer("alpha_bar", parts.scheduler.alphas_cumprod.clone(), persistent=False)

    @property
    def pipeline(self) -> Any:
        return self._pipeline[0]

    @torch.no_grad()
    def encode_captions(self, captions: list[str]) -> Tensor:
        """Return the text states (B, L, D) that the pipeline itself would use; up to MOST_KEPT captions are encoded once."""
        if len(self._states) > MOST_KEPT:
            self._states.clear()
        for caption in sorted(set(captions) - self._states.keys()):
            self._states[caption] = self.pipeline.encode_prompt(caption, "cpu", 1, False)[0][0]
        return torch.stack([self._states[c] for c in captions]).to(self.alpha_bar.device)

    def noise(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return a noise level of each image, (B,) int64, and the noise, as `latent`: from PyTorch's stream, which differs from rank to rank."""
        return torch.randint(0, len(self.alpha_bar), (len(latent),), device=latent.device), torch.randn_like(latent)

    def loss(self, images: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """Return the weighted squared error of the predicted clean latents; (B, 3, H, W) uint8 images."""
        autoencoder = self.pipeline.vae
        latent = autoencoder.encode(images.cpu().float() / 127.5 - 1).latent_dist.mode() * autoencoder.config.scaling_factor  # frozen parts stay on the CPU
        latent = latent.to(self.alpha_bar.device)
        t_B, noise = self.noise(latent)
        alpha_B111 = self.alpha_bar[t_B][:, None, None, None]
        noisy = alpha_B111.sqrt() * latent + (1 - alpha_B111).sqrt() * noise
        clean = self.unet(noisy.contiguous(memory_format=torch.channels_last), t_B, encoder_hidden_states=self.encode_captions(captions)).sample
        weight_B = (alpha_B111 / (1 - alpha_B111)).flatten().clamp(1.0, self.snr_limit)
        return {"loss": (weight_B * (clean.float() - latent).pow(2).mean((1, 2, 3))).mean()}

    def forward(self, images: Tensor, captions: list[str], mode: str = "loss") -> dict[str, Tensor]:
        if mode != "loss":
            raise ValueError(f'mode must be "loss", got {mode!r}; the pipeline that the run leaves draws images')
        return self.loss(images, captions)


@HOOKS.register_module()
class SavePipelineHook(Hook):
    """After training, save the pipeline to `folder` below the run's work_dir, with the averaged weights if an EMAHook keeps them."""

    priority = "VERY_LOW"

    def __init__(self, folder: str = "pipeline") -> None:
        self.folder = folder

    def after_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        average = next((h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook)), model)
        own = {k: v.clone() for k, v in model.unet.state_dict().items()}
        folder = Path(runner.work_dir) / self.folder
        model.unet.load_state_dict(average.unet.state_dict())
        with atomic_folder(folder) as building:
            model.pipeline.save_pretrained(str(building), safe_serialization=True)
        model.unet.load_state_dict(own)
        runner.logger.info(f"the pipeline is in {folder}")

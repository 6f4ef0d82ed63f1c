"""Text-to-image pipelines of diffusers: loading them, which cross-attention layers they have, and their queries as image features.

Only public interfaces: `set_attn_processor` for attention maps, forward hooks on `attn2.to_q` for features. B images, C channels.
"""
import contextlib
import hashlib
import io
import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.compat.hub import hub_access
from ovdense.compat.weights import weights_state

PUBLISHED_LAYERS, PUBLISHED_NUMBER = (0, 6, 7, 8, 9, 10, 11, 12, 15), 16
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_loaded: "weakref.WeakValueDictionary[Any, Any]" = weakref.WeakValueDictionary()  # a support source and an extractor share one
_prints: "weakref.WeakKeyDictionary[Any, tuple[Any, str]]" = weakref.WeakKeyDictionary()  # and the state of the weights that each is of


def load_pipeline(source: str | Path, *, revision: str | None = None, variant: str | None = None, device: str | torch.device | None = None,
                  dtype: str | torch.dtype | None = None, scheduler: str | None = "dpm-solver") -> Any:  # fmt: skip
    """Return the text-to-image pipeline of a local folder or hub name (Stable Diffusion 1.x, 2.x, XL layouts), quiet and without a safety checker.

    `dtype`: such as "float16"; None means float16 on an accelerator, float32 on the CPU. `scheduler`: "dpm-solver" replaces the
    folder's, unless it is one, by multistep DPM-Solver with the same noise that ends at the least noise of training, as in OVDiff's release (diffusers 0.14;
    later ones end at none); None keeps it. A folder with weights other than safetensors is refused.
    While a pipeline is in use, asking for the same again gives the same object, unless the folder's files have changed.
    """
    from diffusers import AutoPipelineForText2Image, DPMSolverMultistepScheduler
    from diffusers.utils import logging

    import ovdense.vision.patch_autoencoder  # noqa: F401  (the loader takes components only of modules that are there already)

    local = Path(source).expanduser()
    if not local.is_dir() and (local.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1):
        raise FileNotFoundError(f"a diffusion pipeline must be an existing folder or a hub name such as 'owner/stable-diffusion-2-1', got {source}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    files = tuple(sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in local.rglob("*") if p.is_file())) if local.is_dir() else ()
    key = str(source), revision, variant, str(device), str(dtype), scheduler, files
    found = _loaded.get(key)
    if found is not None:
        return found
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        advice = "model.extractors.0.pipeline=/FOLDER model.support.pipeline=/FOLDER"
        with hub_access(source, advice), contextlib.redirect_stderr(io.StringIO()):  # progress bars of several libraries
            pipeline = AutoPipelineForText2Image.from_pretrained(
                str(local if local.is_dir() else source), dtype=dtype, revision=revision, variant=variant, local_files_only=local.is_dir(),
                use_safetensors=True, safety_checker=None, requires_safety_checker=False,
            )
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
    if scheduler not in (None, "dpm-solver"):
        raise ValueError(f"scheduler must be 'dpm-solver' or None, got {scheduler!r}")
    if scheduler == "dpm-solver" and not isinstance(pipeline.scheduler, DPMSolverMultistepScheduler):
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, final_sigmas_type="sigma_min")
    _loaded[key] = ready(pipeline, device)
    return pipeline


def ready(pipeline: Any, device: str | torch.device | None = None) -> Any:
    """Return a pipeline frozen, in evaluation mode, silent, on `device`."""
    pipeline.set_progress_bar_config(disable=True)
    for name in _PARTS:
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).eval().requires_grad_(False)
    return pipeline if device is None else pipeline.to(device)


def pipeline_fingerprint(pipeline: Any) -> str:
    """Return a hash of a pipeline's weights, tokenizers' sizes and settings: the key of everything made with it."""
    state = tuple(weights_state(getattr(pipeline, name, None)) for name in _PARTS), str(pipeline.scheduler.config)
    if pipeline not in _prints or _prints[pipeline][0] != state:
        _prints[pipeline] = state, _fingerprint(pipeline)
    return _prints[pipeline][1]


def _fingerprint(pipeline: Any) -> str:
    digest = hashlib.sha256(type(pipeline).__name__.encode())
    for name in _PARTS:
        part = getattr(pipeline, name, None)
        if part is None:
            continue
        config = {k: v for k, v in dict(part.config.to_dict() if hasattr(part.config, "to_dict") else part.config).items() if not k.startswith("_")}
        settled = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype", "transformers_version", "architectures")}
        digest.update(json.dumps([name, settled], sort_keys=True, default=str).encode())
        for key, value in part.state_dict().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for name in ("tokenizer", "tokenizer_2"):
        part = getattr(pipeline, name, None)
        if part is not None:
            digest.update(f"{len(part)} {part.model_max_length}".encode())
    settings = {k: v for k, v in dict(pipeline.scheduler.config).items() if not k.startswith("_")}
    digest.update(json.dumps([type(pipeline.scheduler).__name__, settings], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def cross_attention_layers(unet: Any) -> list[str]:
    """Return the names of a UNet's cross-attention modules in the order of its forward pass (down, mid, up)."""
    names = [k.removesuffix(".processor") for k in unet.attn_processors if k.endswith(".attn2.processor")]
    return [n for part in ("down_blocks", "mid_block", "up_blocks") for n in names if n.startswith(part)]


def feature_layers(unet: Any, layers: Sequence[int] | None) -> list[str]:
    """Return the layers of these numbers; None means the published nine of Stable Diffusion's sixteen, ValueError for UNets of another number."""
    names = cross_attention_layers(unet)
    if layers is None:
        if len(names) != PUBLISHED_NUMBER:
            raise ValueError(f"the published layers are those of a UNet with {PUBLISHED_NUMBER} cross-attention layers, got {len(names)}; give layers=[...]")
        layers = PUBLISHED_LAYERS
    outside = [n for n in layers if not 0 <= n < len(names)]
    if outside or not layers:
        raise ValueError(f"layers must be numbers of the UNet's {len(names)} cross-attention layers, 0..{len(names) - 1}, got {tuple(layers)}")
    return [names[n] for n in layers]


def grid_sides(num_places: int, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return (h, w) of `num_places` places of a latent of `size_hw`, halved some number of times (rounded up)."""
    height, width = size_hw
    while height * width > num_places:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != num_places:
        raise ValueError(f"{num_places} places do not fit latents of {size_hw[0]} x {size_hw[1]} halved; give image sizes that are multiples of the stride")
    return height, width


def join_queries(query_BPC: Sequence[Tensor], size_hw: tuple[int, int], latent_hw: tuple[int, int]) -> Tensor:
    """Return (B, sum of C, H, W): queries (B, places, C) of several layers, each resized to `size_hw` (bilinear), in order."""
    maps = []
    for query in query_BPC:
        map_BCHW = query.transpose(1, 2).float().unflatten(2, grid_sides(query.shape[1], latent_hw))
        maps.append(map_BCHW if map_BCHW.shape[2:] == size_hw else F.interpolate(map_BCHW, size=size_hw, mode="bilinear", align_corners=False))
    return torch.cat(maps, 1)


class QueryReader:
    """Reads the cross-attention queries of a pipeline's UNet for images: noised once to `timestep`, empty prompt, no guidance.

    The noise of every image is that of `seed`, so that an image's features do not depend on what was asked before (the release draws
    the query image's from the global stream).
    """

    def __init__(self, pipeline: Any, layers: Sequence[int] | None = None, timestep: int = 200, seed: int = 43) -> None:
        self.pipeline, self.timestep, self.seed = pipeline, timestep, seed
        self.layers = feature_layers(pipeline.unet, layers)
        self._prompt: dict | None = None

    @property
    def width(self) -> int:
        return sum(self.pipeline.unet.get_submodule(n).to_q.out_features for n in self.layers)

    @torch.no_grad()
    def __call__(self, image_BCHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Return (B, C, H, W) float32 for images in 0..1 of a size that the pipeline can draw."""
        unet, autoencoder = self.pipeline.unet, self.pipeline.vae
        latent, noise = self._latents(image_BCHW.to(autoencoder.device, autoencoder.dtype))
        step = torch.tensor([self.timestep], device=latent.device)
        noisy = self._noise_scheduler().add_noise(latent, noise, step).to(unet.dtype)
        found: dict[str, Tensor] = {}
        hooks = [unet.get_submodule(n).to_q.register_forward_hook(lambda _m, _i, out, n=n: found.__setitem__(n, out)) for n in self.layers]
        try:
            unet(noisy, step[0], **self._conditions(len(latent), image_BCHW.shape[2:]))
        finally:
            for hook in hooks:
                hook.remove()
        return join_queries([found[n] for n in self.layers], size_hw, tuple(latent.shape[2:]))

    def _latents(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        autoencoder = self.pipeline.vae
        latents, noises = [], []
        for image in image_BCHW:
            generator = torch.Generator("cpu").manual_seed(self.seed)
            spread = autoencoder.encode(2 * image[None] - 1).latent_dist
            latents.append(spread.sample(generator=generator) * autoencoder.config.scaling_factor)
            generator = torch.Generator("cpu").manual_seed(self.seed)
            noises.append(torch.randn(latents[-1].shape, generator=generator).to(latents[-1]))
        return torch.cat(latents), torch.cat(noises)

    def _noise_scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def _conditions(self, batch: int, size_hw: Sequence[int]) -> dict[str, Any]:
        """Return the UNet's text inputs for an empty prompt; XL's also say that the picture has this size and is whole."""
        if self._prompt is None:
            pipeline = self.pipeline
            if getattr(pipeline, "text_encoder_2", None) is not None:
                states, _, pooled, _ = pipeline.encode_prompt("", device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
                self._prompt = {"states": states, "pooled": pooled}
            else:
                self._prompt = {"states": pipeline.encode_prompt("", pipeline.device, 1, False)[0]}
        out = {"encoder_hidden_states": self._prompt["states"].expand(batch, -1, -1)}
        if "pooled" in self._prompt:
            sizes = torch.tensor([*size_hw, 0, 0, *size_hw], dtype=self._prompt["pooled"].dtype, device=self._prompt["pooled"].device)
            out["added_cond_kwargs"] = {"text_embeds": self._prompt["pooled"].expand(batch, -1), "time_ids": sizes.expand(batch, -1)}
        return out

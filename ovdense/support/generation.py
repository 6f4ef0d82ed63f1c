"""Support sets drawn by a text-to-image pipeline, each picture stored with its prompt, seed and attention map (arXiv 2306.09316, Sec. 3.1).

Settings are the released code's. A class's images are resumable one by one: a run that was killed goes on, and gives the same bits.
"""
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from ovdense.compat.atomic import atomic_write
from ovdense.structures import ClassEntry
from ovdense.support.heat import HeatMaps, recording, token_positions
from ovdense.support.store import SupportSet, SupportStore, SupportWriter
from ovdense.text.attributes import attribute_phrase
from ovdense.vision.diffusion import load_pipeline, pipeline_fingerprint, ready

PROMPT = "A good picture of a {}"
NEGATIVE_PROMPT = "text, low quality, blurry, cartoon, meme, low resolution, bad, poor, faded"
RENAMED = {"tank": "liquid tank", "blind": "window blinds", "hood": "cooker hood", "ashcan": "wastebin", "case": "shop case",
           "keyboard": "computer keyboard", "apparel": "clothing"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How support images are drawn. `size_hw` None: the pipeline's own. The paper's 64 images a class are `num_images` 64; the release has 32."""

    num_images: int = 32
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE_PROMPT
    num_steps: int = 30
    guidance: float = 8.0
    size_hw: tuple[int, int] | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1:
            raise ValueError(f"prompt must have one place for the name, {{}}, got {self.prompt!r}")
        if min(self.num_images, self.num_steps) < 1:
            raise ValueError(f"num_images and num_steps must be at least 1, got {self.num_images} and {self.num_steps}")


class GeneratedSupport:
    """Draws and keeps the support set of any class.

    `pipeline`: a local folder or hub name (loaded when the first class is asked for: a set is known by its weights), or a diffusers pipeline.
    `renamed`: {class name: what to draw}; others are drawn by their noun, or with `described` by `attribute_phrase` without the words in `silent`.
    `batch_size` images are drawn at once; every image has noise of its own, by (seed, name, number).
    """

    def __init__(self, pipeline: Any, *, settings: DrawingSettings | Mapping[str, Any] | None = None, renamed: Mapping[str, str] = RENAMED,
                 described: bool = False, silent: Sequence[str] = (), store: SupportStore | str | Path | None = None, batch_size: int = 8,
                 device: str | None = None, dtype: str | None = None) -> None:  # fmt: skip
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._source, self._pipeline, self._print = pipeline, None, None
        if not isinstance(pipeline, (str, Path)):
            self._pipeline = ready(pipeline, device)
        self.settings = settings if isinstance(settings, DrawingSettings) else DrawingSettings(**_tupled(settings or {}))
        self.renamed, self.batch_size, self.device, self.dtype = dict(renamed), batch_size, device, dtype
        self.described, self.silent = described, tuple(silent)
        self.store = store if isinstance(store, SupportStore) else SupportStore(store)

    @property
    def pipeline(self) -> Any:
        if self._pipeline is None:
            self._pipeline = load_pipeline(self._source, device=self.device, dtype=self.dtype)
        return self._pipeline

    def fingerprint(self) -> str:
        """Return the hash of the pipeline."""
        if self._print is None:
            self._print = pipeline_fingerprint(self.pipeline)
        return self._print

    def made_with(self, entry: ClassEntry) -> dict[str, Any]:
        """Return all that the images of a class depend on."""
        settings = asdict(self.settings) | {"size_hw": list(self.settings.size_hw) if self.settings.size_hw else None}
        return {"kind": "generated", "name_drawn": self._name(entry), "pipeline": self.fingerprint(), "dtype": str(self.pipeline.unet.dtype), **settings}

    def support_set(self, entry: ClassEntry) -> SupportSet:
        """Return the class's images, drawn where they are not there yet, or no longer; one process draws a class, others wait for it."""
        made_with = self.made_with(entry)
        found = self.store.find_whole(entry.name, made_with)
        if found is not None:
            return found
        if self.store.is_held(entry.name, made_with):
            print_log(f"another process draws the class {entry.name!r} in {self.store.folder}; waiting for it", logger="current")
        with self.store.alone(entry.name, made_with):
            return self.store.find_whole(entry.name, made_with) or self._drawn(entry, made_with)

    def is_drawn_elsewhere(self, entry: ClassEntry) -> bool:
        """Return whether another process is drawing the class now."""
        return self.store.is_held(entry.name, self.made_with(entry))

    def _drawn(self, entry: ClassEntry, made_with: Mapping[str, Any]) -> SupportSet:
        writer = self.store.begin(entry.name, made_with)
        for start in range(0, self.settings.num_images, self.batch_size):  # always the same batches: their sizes move the last bits
            numbers = range(start, min(start + self.batch_size, self.settings.num_images))
            if numbers[-1] < len(writer):
                continue
            images, heat_BHW = self.draw(entry, numbers)
            for n, image, heat_HW in zip(numbers, images, heat_BHW):
                if n >= len(writer):
                    self._keep(writer, entry, n, image, heat_HW)
        return writer.finish()

    @torch.no_grad()
    def draw(self, entry: ClassEntry, numbers: range) -> tuple[np.ndarray, Tensor]:
        """Return pictures (B, H, W, 3) uint8 of a class, and where its name was looked at, (B, h, w) float32."""
        s, pipeline, name = self.settings, self.pipeline, self._name(entry)
        prompt, start = s.prompt.format(name), s.prompt.index("{}")
        tokens = token_positions(pipeline.tokenizer, prompt, start, start + len(name))
        size_hw = s.size_hw or (pipeline.unet.config.sample_size * pipeline.vae_scale_factor,) * 2
        heat = HeatMaps([tokens], tuple(side // pipeline.vae_scale_factor for side in size_hw))
        guided = s.guidance > 1
        with recording(pipeline, heat, guided):
            images = pipeline(
                prompt=prompt, negative_prompt=s.negative_prompt if guided else None, guidance_scale=s.guidance, num_inference_steps=s.num_steps,
                num_images_per_prompt=len(numbers), height=size_hw[0], width=size_hw[1], output_type="np",
                generator=[torch.Generator("cpu").manual_seed(image_seed(s.seed, entry.name, n)) for n in numbers],
            ).images
        heat_BHW = heat.maps()[:, 0].float().cpu()
        if not np.isfinite(images).all() or not bool(heat_BHW.isfinite().all()):
            raise ValueError(f"the pipeline must draw numbers, but it drew nan for {prompt!r} in {pipeline.vae.dtype}; give dtype=\"float32\"")
        return (images * 255).round().astype(np.uint8), heat_BHW

    def _name(self, entry: ClassEntry) -> str:
        plain = attribute_phrase(entry, self.silent) if self.described else entry.noun
        return self.renamed.get(entry.name, plain)

    def _keep(self, writer: SupportWriter, entry: ClassEntry, n: int, image: np.ndarray, heat_HW: Tensor) -> None:
        file = f"{n:05d}.heat.npy"
        with atomic_write(writer.folder / file) as heat:
            np.save(heat, heat_HW.numpy(), allow_pickle=False)
        writer.add(image, heat=file, prompt=self.settings.prompt.format(self._name(entry)), seed=image_seed(self.settings.seed, entry.name, n))


def image_seed(seed: int, name: str, number: int) -> int:
    """Return the seed of a class's image of this number; differs from the release, where all classes share their noise, so that sets are independent."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, name, number]).encode()).digest()[:7], "little")


def _tupled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}

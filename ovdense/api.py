"""Load a model, set a vocabulary once, predict many images.

    model = load_model("configs/desco_lvis_mini.py", "work_dirs/desco_lvis_mini/iter_2000.pth")
    predictor = OpenVocabPredictor(model)
    predictor.set_vocabulary(["cat", "a red chair left of the table"])
    results = predictor.predict("photo.jpg", score_thr=0.3)
"""
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image, ImageOps

from ovdense.compat.images import read_upright, to_rgb
from ovdense.data.transforms import PackDetection, ResizeShortestEdge
from ovdense.methods.base import OpenVocabModel
from ovdense.methods.checkpoints import load_weights, model_state, read_checkpoint
from ovdense.registry import MODELS, TRANSFORMS
from ovdense.structures import ClassEntry, Results, Vocabulary
from ovdense.text.caption_prompts import caption_prompt
from ovdense.text.noun_chunks import caption_phrases
from ovdense.text.vocabulary import load_vocabulary

_RUN_KEYS = ("work_dir", "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile", "efficient_conv_bn_eval", "activation_checkpointing")
ImageLike = str | Path | np.ndarray | Image.Image


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a file, changed by dotted `options`; ValueError for a key that the config cannot have."""
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3) if path.parent.is_dir() else []
        raise FileNotFoundError(f"the config {path} does not exist" + (f"; near it there are {', '.join(near)}" if near else ""))
    try:
        cfg = Config.fromfile(str(path))
    except (SyntaxError, OSError, AttributeError) as error:
        raise ValueError(f"{path} could not be read as a config: {error}") from error
    for key in options or {}:
        _check_option(cfg, key, path)
    if options:
        cfg.merge_from_dict(dict(options))
    return cfg


def _check_option(cfg: Config, key: str, path: Path) -> None:
    from mmengine.runner import Runner

    *parents, leaf = key.split(".")
    node: Any = cfg
    for depth, part in enumerate(parents):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(f"--cfg-options {key}: {'.'.join(parents[:depth])} of {path} has {len(node)} entries, got index {part!r}")
            node = node[int(part)]
            continue
        if not isinstance(node, Mapping | Config) or part not in node:
            raise ValueError(f"--cfg-options {key}: {path} has no {'.'.join(parents[: depth + 1])!r}{_near(part, node)}")
        node = node[part]
    if not parents and leaf not in cfg and leaf not in (*inspect.signature(Runner.__init__).parameters, *_RUN_KEYS):
        raise ValueError(f"--cfg-options {key}: {path} has no {leaf!r}{_near(leaf, cfg)}")


def _near(name: str, node: Any) -> str:
    near = difflib.get_close_matches(name, list(node.keys()), n=3) if hasattr(node, "keys") else []
    return f"; did you mean {', '.join(near)}?" if near else ""


def load_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str | torch.device | None = None) -> OpenVocabModel:
    """Return the config's model in eval mode, with the checkpoint's weights, on `device` (None: an accelerator if there is one).

    The config is kept as `model.cfg`. Without a checkpoint the weights are those that the config names, the rest random.
    FileNotFoundError and ValueError say what is wrong with a file; a checkpoint must have every weight of the model, what
    else it has is printed, and nothing in it can run code. A file of tools/fold_vocabulary.py brings its vocabulary along.
    """
    cfg = config if isinstance(config, Config) else load_config(config)
    if "model" not in cfg:
        raise ValueError(f"the config {cfg.filename or ''} must have `model`, it has {sorted(cfg.keys())[:8]}")
    model = _build(cfg["model"], checkpoint)
    model.cfg = cfg
    if device is None:
        from mmengine.device import get_device

        device = get_device()
    return model.to(device).eval()


def _build(model_cfg: Mapping[str, Any], checkpoint: str | Path | None) -> OpenVocabModel:
    if checkpoint is None:
        return MODELS.build(model_cfg)
    model_state(checkpoint)  # a wrong file is said before the model is built
    content = read_checkpoint(checkpoint)
    if str(content.get("format", "")).startswith("ovdense folded"):
        from ovdense.methods.desco.folded import unfold

        return unfold(model_cfg, content, str(checkpoint))
    model = MODELS.build(model_cfg)
    load_weights(model, checkpoint)
    return model


def load_image(image: ImageLike) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, upright: the EXIF rotation of files and PIL images is applied.

    FileNotFoundError or ValueError name a file that is missing, is no image, or is cut short. An array must be RGB.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image array must be uint8 of shape (H, W, 3), RGB, got {image.dtype} {image.shape}")
        return image
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    return read_upright(image)


class OpenVocabPredictor:
    """A model and its resize rule: set a vocabulary, then predict image after image; the text is encoded once.

    `resize`: the rule, by default the one among the test transforms of the model's config (`model.cfg`).
    """

    def __init__(self, model: OpenVocabModel, *, resize: ResizeShortestEdge | None = None) -> None:
        self.model = model.eval()
        self.resize = resize or _test_resize(getattr(model, "cfg", None))
        self._pack = PackDetection()

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.model.vocabulary

    def set_vocabulary(self, vocabulary: str | Path | Sequence[str] | Vocabulary, prompt: str = "names") -> None:
        """Look for these classes from now on.

        `vocabulary`: names or phrases, a Vocabulary, a file, or "lvis", "coco", "voc" (see `load_vocabulary`); `prompt`:
        "names", or "descriptions" (names and what they look like, where the vocabulary says it). A class "background" is put before
        them where the model has a rule for it (`wants_background`) and the vocabulary has none.
        """
        wanted = load_vocabulary(vocabulary)
        if self.model.wants_background and not any(entry.is_background for entry in wanted):
            wanted = Vocabulary((ClassEntry(name="background", is_background=True), *wanted))
        self.model.set_vocabulary(wanted, prompt=prompt)

    def set_exemplars(self, folder: str | Path, classes: Sequence[str] | Vocabulary | None = None) -> tuple[str, ...]:
        """Look from now on for what example pictures show; return the classes' names.

        `folder`: FOLDER/CLASS/*.jpg (or png, webp, bmp), with masks *.mask.png beside them where there are any; `classes`: which of its classes
        (None: all, sorted). For segmenters that compare places with vectors (OVDiff, MaskClip); NotImplementedError for others.
        """
        from ovdense.support.sources import FolderSupport

        source = FolderSupport(folder)
        if classes is None:
            classes = sorted(p.name for p in source.folder.iterdir() if p.is_dir())
            if not classes:
                raise ValueError(f"{folder} must have a folder of pictures for each class, it has none")
        self.model.use_exemplars(load_vocabulary(classes), source)
        return self.model.vocabulary.names

    def set_caption(self, caption: str, phrases: Sequence[str] | Sequence[Sequence[tuple[int, int]]] | None = None) -> tuple[str, ...]:
        """Look for the phrases of one caption from now on; return them, as the results will name them.

        `phrases`: None finds the caption's noun chunks (needs `pip install "ovdense[phrases]"`); or the phrases as strings that occur in it,
        or as spans of characters, one list a phrase. A result's `labels` say which phrase a box belongs to; a phrase that is not in the
        image has none above the threshold. For models that read captions (MDETR, DesCo); NotImplementedError for others.
        """
        vocabulary, prompt = caption_prompt(caption, caption_phrases(caption, phrases))
        self.model.ask([prompt], vocabulary)
        return vocabulary.names

    def predict(self, image: ImageLike, score_thr: float = 0.0) -> Results:
        """Return the detections of one image, best first, boxes in pixels of the upright image.

        Those below `score_thr` are left out; the model itself leaves out those below its own threshold (`model.test`).
        """
        return next(self.predict_many([image], score_thr=score_thr))

    def predict_many(self, images: Iterable[ImageLike], batch_size: int = 1, score_thr: float = 0.0) -> Iterator[Results]:
        """Yield the detections of each image in turn; `image_id` counts them from 0. Images are read as they are needed."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if self.vocabulary is None:
            raise ValueError("the classes must be known first; call set_vocabulary(...) or set_caption(...)")
        batch: list[dict[str, Any]] = []
        for n, image in enumerate(images):
            batch.append(self._sample(load_image(image), n))
            if len(batch) == batch_size:
                yield from self._run(batch, score_thr)
                batch = []
        if batch:
            yield from self._run(batch, score_thr)

    def _sample(self, image: np.ndarray, image_id: int) -> dict[str, Any]:
        sample = {"image": image, "image_id": image_id, "file_name": "", "original_size_hw": image.shape[:2], "rng": np.random.default_rng(0),
                  "boxes_xyxy": np.zeros((0, 4), dtype=np.float32), "labels": np.zeros(0, dtype=np.int64)}  # fmt: skip
        return self._pack(self.resize(sample))

    @torch.no_grad()
    def _run(self, samples: Sequence[dict[str, Any]], score_thr: float) -> list[Results]:
        data = self.model.data_preprocessor({"images": [s["image"] for s in samples], "targets": [s["target"] for s in samples]})
        return [r.above(score_thr) for r in self.model.predict(data["images"], data["targets"])]


def _test_resize(cfg: Config | None) -> ResizeShortestEdge:
    dataset = ((cfg or {}).get("test_dataloader") or {}).get("dataset") or {}
    for step in dataset.get("transforms") or ():
        if step["type"] in (ResizeShortestEdge, "ResizeShortestEdge", f"{ResizeShortestEdge.__module__}.ResizeShortestEdge"):
            return TRANSFORMS.build(step)
    raise ValueError("how to resize images must be known: give a model of load_model whose config has ResizeShortestEdge among its test transforms, or resize=")

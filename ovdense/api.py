"""Load a model, set a vocabulary once, predict many images.

>>> import numpy as np, ovdense
>>> photo = np.full((96, 128, 3), 127, np.uint8)              # or "photo.jpg", a PIL image, a folder, a list of them
>>> model = ovdense.load("mini", device="cpu")                # or ovdense.load("desco_swin_t", weights="desco_ours.pth")
>>> results = model(photo, ["cat", "sofa", "not: dog"])       # the text is encoded once, the next image costs only itself
>>> results.names, results.label_map_HW.shape
(('background', 'cat', 'sofa'), torch.Size([96, 128]))
>>> results.save("found/photo.jpg").name                      # or .show(), .to_coco(), .to_supervision(), .crop()
'photo.jpg'
"""
import difflib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from ovdense import zoo
from ovdense.compat.devices import usable_device
from ovdense.compat.images import ImageLike, image_files, is_folder, load_image
from ovdense.data.center_crop import CenterSquare
from ovdense.data.transforms import PackDetection, ResizeShortestEdge
from ovdense.image_cache import ImageFeatureCache
from ovdense.methods.base import OpenVocabModel, is_training_free
from ovdense.methods.checkpoints import load_weights, model_state, read_checkpoint
from ovdense.registry import MODELS, TRANSFORMS
from ovdense.results import Results, of_image
from ovdense.rivals import Rivals, settled, with_rivals
from ovdense.structures import Vocabulary
from ovdense.text.caption_prompts import caption_prompt
from ovdense.text.noun_chunks import caption_phrases
from ovdense.text.vocabulary import load_vocabulary
from ovdense.text.wanted import Asked, Wanted, wanted_of
from ovdense.vision.sam import SamMasks

_RUN_KEYS = ("work_dir", "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile", "efficient_conv_bn_eval", "activation_checkpointing")
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Images = ImageLike | Iterable[ImageLike]
_TURNS: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()  # a lock for each model, whose vocabulary is one


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a file, or of a model's name (see `zoo`), changed by dotted `options`; ValueError for a key that the config cannot have."""
    path = zoo.config_path(path)
    try:
        cfg = Config.fromfile(str(path))
    except (SyntaxError, OSError, AttributeError, NameError) as error:
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
    device = usable_device(device)
    if "model" not in cfg:
        raise ValueError(f"the config {cfg.filename or ''} must have `model`, it has {sorted(cfg.keys())[:8]}")
    model = _build(cfg["model"], checkpoint)
    model.cfg = cfg
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


def load(name_or_config: str | Path | Config, weights: str | Path | None = None, *, device: str | torch.device | None = None,
         precision: Precision = "auto", masks: str | Path | SamMasks | None = None, options: Mapping[str, Any] | None = None) -> "OpenVocabPredictor":
    """Return a model that is ready to be asked: `model(images, texts)`.

    `name_or_config`: a short name of `ovdense.zoo` ("mini" works at once, offline), a config's name, a config file, or the folder of a run (its config and
    newest weights). `weights`: a checkpoint, or the folder of a run, whose newest one is taken; "random" for untrained ones. `device` None: an accelerator
    if there is one. `precision` "auto": float32 on a CPU; on CUDA the forward pass in bfloat16 where the device has it, else in float16. `masks`: a file
    of SAM's weights, or a `SamMasks`, that gives boxes masks and refines label maps (extra `sam`). `options`: dotted changes of the config.

    KeyError for an unknown name, with near ones; ValueError that says which weights a model needs where none are given.
    """
    cfg = name_or_config if isinstance(name_or_config, Config) else load_config(name_or_config, options)
    if isinstance(name_or_config, Config) and options:
        raise ValueError("options change a config that is loaded by its name; change the Config itself instead")
    if weights is None and not isinstance(name_or_config, Config):
        weights = zoo.run_folder(name_or_config)
    if weights is None:
        _require_no_weights(cfg, options)
    device = usable_device(device)
    sam = SamMasks(masks, device=device) if isinstance(masks, str | Path) else masks  # a wrong file is said before the model is built
    return OpenVocabPredictor(load_model(cfg, None if weights == "random" else weights, device), precision=precision, masks=sam)


def _require_no_weights(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Raise ValueError where a model would be left with random weights."""
    card = zoo.card_of(cfg.filename) if cfg.filename else None
    if card is not None and card.needs in ("nothing", "photos") or card is not None and card.needs == "files" and options:
        return
    if card is not None:
        give = "them by options (--cfg-options model...=FILE" if card.needs == "files" else "the checkpoint (in Python: weights=CHECKPOINT"
        raise ValueError(f'{card.name} needs {card.advice}. Give {give}; weights="random" in Python to try its shapes)')
    if not is_training_free(cfg):
        raise ValueError(f"the model of {cfg.filename or 'this config'} is trained: give its checkpoint (in Python: weights=CHECKPOINT; "
                         'weights="random" to try its shapes)')  # fmt: skip


def _in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one thread at a time do this with a predictor's model."""

    @wraps(method)
    def run(self: "OpenVocabPredictor", *args: Any, **kwargs: Any) -> Any:
        with _TURNS.setdefault(self.model, threading.RLock()):
            return method(self, *args, **kwargs)

    return run


class OpenVocabPredictor:
    """A model, its resize rule and its precision: set a vocabulary, then predict image after image; the text is encoded once.

    `resize`: the rule, by default the one among the test transforms of the model's config (`model.cfg`). `precision`: see `load`.
    `masks`: gives what is found masks by SAM. `score_thr`: what calls leave out by default.

    Threads may share a predictor. They take turns with its model, and a call that is given texts answers for these; without texts, and in
    `predict` and `predict_many`, the classes are those that any thread set last.
    """

    score_thr = 0.3

    def __init__(self, model: OpenVocabModel, *, resize: ResizeShortestEdge | None = None, precision: Precision = "float32",
                 masks: SamMasks | None = None) -> None:
        self.model = model.eval()
        self.resize = resize or _test_resize(getattr(model, "cfg", None))
        self.precision, self.masks = precision, masks
        self._autocast = _autocast_dtype(precision, self.device)
        self._pack = PackDetection()
        self._rivals: tuple[Vocabulary, Rivals] | None = None  # and the vocabulary of the model that they belong to
        self._said: tuple[Any, ...] | None = None

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.model.vocabulary

    @property
    def rivals(self) -> Rivals | None:
        """Return what is asked and how many of its last classes only compete; None where a caption, or the model itself, was asked."""
        return self._rivals[1] if self._rivals is not None and self._rivals[0] is self.vocabulary else None

    @property
    def device(self) -> torch.device:
        return self.model.data_preprocessor.mean.device

    def __repr__(self) -> str:
        asked = f"{len(self.vocabulary)} classes" if self.vocabulary is not None else "no vocabulary yet"
        return f"OpenVocabPredictor({type(self.model).__name__}, {asked}, {self.device}, {self._autocast or 'float32'})"

    def __call__(self, images: Images, texts: Asked | None = None, score_thr: float | None = None, batch_size: int = 1) -> Results | list[Results]:
        """Return what is found: one `Results` for one image, a list for a folder or several.

        `images`: a path, an (H, W, 3) uint8 RGB array, a PIL image; a folder, a list of them, or an array (B, H, W, 3). `texts`: what to look
        for, as `set_vocabulary` takes it, from now on (None: what was set before); the same texts again are not encoded again. `score_thr` None:
        `self.score_thr`. Several images hold all results in memory; `predict_many` gives them one by one.
        """
        thr = self.score_thr if score_thr is None else score_thr
        if texts is not None:
            return self._answer(images, texts, thr, batch_size)
        return self._look(images, thr, batch_size)

    @_in_turn
    def _answer(self, images: Images, texts: Asked, score_thr: float, batch_size: int) -> Results | list[Results]:
        self.set_vocabulary(texts)
        return self._look(images, score_thr, batch_size)

    def _look(self, images: Images, score_thr: float, batch_size: int) -> Results | list[Results]:
        if _is_single(images):
            return self.predict(images, score_thr=score_thr)
        return list(self.predict_many(_flat(images), batch_size=batch_size, score_thr=score_thr))

    @_in_turn
    def set_vocabulary(self, vocabulary: Asked, prompt: str | None = None, negatives: str | Sequence[str] = ()) -> None:
        """Look for these classes from now on.

        `vocabulary`: names or phrases, as a list or as "cat. a red chair", where "not: dog" is a thing that only competes; a Vocabulary; "lvis",
        "coco", "voc" and other built-in ones, or a file (see `load_vocabulary`); names with their descriptions, as a mapping or a JSON file; or
        example pictures: FOLDER/CLASS/*.jpg, or a mapping from names to pictures (see `set_exemplars`). `prompt`: "names", "descriptions" or
        "texts" (None: descriptions for a mapping, else names). `negatives`: more things that only compete. A class "background" is put before
        the others where the model has a rule for it (`wants_background`) and the vocabulary has none.

        >>> import ovdense
        >>> model = ovdense.load("mini", device="cpu")
        >>> model.set_vocabulary("cat. sofa", negatives=["dog"])
        >>> model.vocabulary.names
        ('background', 'cat', 'sofa', 'dog')
        """
        from ovdense.support.sources import example_pictures

        examples = example_pictures(vocabulary)
        if examples is not None:
            if prompt is not None or negatives:
                raise ValueError("example pictures are asked for without a prompt and without negatives; leave them out")
            self._use_exemplars(*examples)
            return
        wanted = wanted_of(vocabulary, negatives=negatives, prompt=prompt)
        said = (wanted, self.model)
        if self._said == said and self._rivals is not None and self.model.vocabulary is self._rivals[0]:
            return
        rivals = with_rivals(wanted, wants_background=self.model.wants_background, within=self.model.rivals_within)
        self.model.set_vocabulary(rivals.asked, prompt=wanted.prompt)
        self._rivals, self._said = (self.model.vocabulary, rivals), said

    def set_exemplars(self, folder: str | Path, classes: Sequence[str] | Vocabulary | None = None) -> tuple[str, ...]:
        """Look from now on for what example pictures show; return the names as results have them, "background" first where the model has a rule for it.

        `folder`: FOLDER/CLASS/*.jpg (or png, webp, bmp), with masks *.mask.png beside them where there are any; `classes`: which of its classes
        (None: all, sorted). For segmenters that compare places with vectors (OVDiff, MaskClip, ReCo, DenseClip with an open decoder);
        NotImplementedError or ValueError says why of others.
        """
        from ovdense.support.sources import FolderSupport

        source = FolderSupport(folder)
        return self._use_exemplars(source, source.classes() if classes is None else classes)

    @_in_turn
    def _use_exemplars(self, source: Any, classes: Sequence[str] | Vocabulary) -> tuple[str, ...]:
        rivals = with_rivals(Wanted(vocabulary=load_vocabulary(classes)), wants_background=self.model.wants_background, within=False)
        self.model.use_exemplars(rivals.asked, source)
        self._rivals, self._said = (self.model.vocabulary, rivals), None
        return self.model.vocabulary.names

    @_in_turn
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
        """Return the detections of one image, best first, boxes in pixels of the upright image and cut at its border.

        Those below `score_thr` are left out; the model itself leaves out those below its own threshold (`model.test`).
        """
        return next(self.predict_many([image], score_thr=score_thr))

    def predict_many(self, images: Iterable[ImageLike], batch_size: int = 1, score_thr: float = 0.0) -> Iterator[Results]:
        """Yield the detections of each image in turn; `image_id` counts them from 0. Images are read as they are needed."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= score_thr <= 1:
            raise ValueError(f"score_thr must lie in 0..1, got {score_thr}")
        if self.vocabulary is None:
            raise ValueError("the classes must be known first; call set_vocabulary(...) or set_caption(...), or give texts")
        batch: list[tuple[ImageLike, np.ndarray, dict[str, Any]]] = []
        for n, source in enumerate(images):
            image, sample = self.looked_at(source)
            batch.append((source, image, {**sample, "target": replace(sample["target"], image_id=n)}))
            if len(batch) == batch_size:
                yield from self._run(batch, score_thr)
                batch = []
        if batch:
            yield from self._run(batch, score_thr)

    @_in_turn
    @torch.no_grad()
    def heat_maps(self, image: ImageLike, texts: Asked | None = None) -> dict[str, np.ndarray]:
        """Return how well every place of an image matches each class that is looked for: name -> (h, w) float32, at the method's own resolution.

        Units are the method's own, more is better; `ovdense.drawing.draw_heat(photo, maps["cat"])` draws one. For methods that score places: all segmenters,
        DesCo; NotImplementedError for MDETR.

        >>> import numpy as np, ovdense
        >>> model = ovdense.load("mini", device="cpu")
        >>> sorted(model.heat_maps(np.full((96, 128, 3), 127, np.uint8), ["cat", "sofa"]))
        ['background', 'cat', 'sofa']
        """
        if texts is not None:
            self.set_vocabulary(texts)
        if self.vocabulary is None:
            raise ValueError("the classes must be known first; call set_vocabulary(...), or give texts")
        _, sample = self.looked_at(image)
        data = self.model.data_preprocessor({"images": [sample["image"]], "targets": [sample["target"]]})
        with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
            maps = self.model.score_maps(data["images"], data["targets"])[0].float().cpu().numpy()
        names = self.vocabulary.names if self.rivals is None else self.rivals.names
        return {name: maps[k] for k, name in enumerate(names)}

    def remember_images(self, *, max_mib: float = 512.0, max_images: int = 16) -> None:
        """Keep the features of the last images from now on, for interactive use: other texts on the same image then cost no backbone.

        At most `max_images` images and `max_mib` MiB of features are kept, see `ImageFeatureCache`; results are the same.
        """
        self.model.image_cache = ImageFeatureCache(max_mib=max_mib, max_images=max_images)

    def looked_at(self, source: ImageLike) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the image, (H, W, 3) uint8 RGB, and the sample (resized image and target) that the model's preprocessing takes."""

        def prepare() -> tuple[np.ndarray, dict[str, Any]]:
            image = load_image(source)
            return image, self._sample(image, 0)

        cache = self.model.image_cache
        return prepare() if cache is None else cache.prepared(source, prepare, about=(self.resize, repr(vars(self.resize))))

    def _sample(self, image: np.ndarray, image_id: int) -> dict[str, Any]:
        sample = {"image": image, "image_id": image_id, "file_name": "", "original_size_hw": image.shape[:2], "rng": np.random.default_rng(0),
                  "boxes_xyxy": np.zeros((0, 4), dtype=np.float32), "labels": np.zeros(0, dtype=np.int64)}  # fmt: skip
        return self._pack(self.resize(sample))

    @_in_turn
    @torch.no_grad()
    def _run(self, batch: Sequence[tuple[ImageLike, np.ndarray, dict[str, Any]]], score_thr: float) -> list[Results]:
        samples = [sample for *_, sample in batch]
        data = self.model.data_preprocessor({"images": [s["image"] for s in samples], "targets": [s["target"] for s in samples]})
        with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
            found = self.model.predict(data["images"], data["targets"])
        is_background = [entry.is_background for entry in self.vocabulary]
        if self.rivals is not None:
            found = [settled(r, self.rivals, is_background) for r in found]
        names = [name for name, background in zip(self.vocabulary.names, is_background) if background] or ["background"]
        found = [r.inside().above(score_thr) for r in found]
        if self.masks is not None:
            found = [self.masks(image, r, names) for r, (_, image, _) in zip(found, batch, strict=True)]
        return [of_image(r, source, names) for r, (source, *_) in zip(found, batch, strict=True)]


def _is_single(images: Any) -> bool:
    """Return whether what is to be looked at is one image."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, Image.Image) or isinstance(images, str | Path) and not is_folder(images)


def _flat(images: Images) -> Iterator[ImageLike]:
    """Yield the images of a list, those of its folders one by one."""
    try:
        several = iter([images] if isinstance(images, str | Path) else images)
    except TypeError:
        raise ValueError(f"images must be a path, an array or a PIL image, or several of them, got {type(images).__name__}") from None
    for image in several:
        if is_folder(image):
            yield from image_files(image)
        else:
            yield image


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of the forward pass under autocast, None for float32."""
    if precision not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f'precision must be "auto", "float32", "bfloat16" or "float16", got {precision!r}')
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "float16" and device.type == "cpu":
        raise ValueError("float16 is for accelerators; on a CPU take float32, or bfloat16 where it has it")
    return None if precision == "float32" else getattr(torch, precision)


def _test_resize(cfg: Config | None) -> ResizeShortestEdge:
    """Return the resize rule among a config's test transforms; where middle squares are measured, that of the whole image at their scale."""
    dataset = ((cfg or {}).get("test_dataloader") or {}).get("dataset") or {}
    for step in dataset.get("transforms") or ():
        if step["type"] in (ResizeShortestEdge, "ResizeShortestEdge", f"{ResizeShortestEdge.__module__}.ResizeShortestEdge"):
            return TRANSFORMS.build(step)
        if step["type"] in (CenterSquare, "CenterSquare", f"{CenterSquare.__module__}.CenterSquare"):
            size = TRANSFORMS.build(step).size
            return ResizeShortestEdge((size,), max_size=6 * size)  # a strip would grow without bound
    raise ValueError("how to resize images must be known: give a model of load_model whose config has ResizeShortestEdge or CenterSquare among its test "
                     "transforms, or resize=")  # fmt: skip

"""Behind the web page: pictures that were dropped, models that were asked for, answers with their times. Knows nothing of HTTP."""
import base64
import hashlib
import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovdense.compat.memory import return_memory
from ovdense.text.caption_prompts import marked_caption
from ovdense.web.limits import Limits, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MOST_BOXES = 200  # in the page's list
RETURN_EVERY = 20  # answers until free memory is given back: fresh pages after it cost a third of a prediction's time


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model that the page offers: `config` and `weights` as `ovdense.load` takes them; it is loaded when it is first asked."""

    name: str
    config: str | Path
    weights: str | Path | None = None
    about: str = ""


@dataclass(kw_only=True)
class _Answer:
    image: np.ndarray
    model: str
    asked: Sequence[str] | str
    results: Any
    heat_KHW: np.ndarray | None = field(default=None)


class Engine:
    """Answers questions, one at a time. Pictures are known by their content; the features of the last ones are kept in each model."""

    def __init__(self, choices: Sequence[ModelChoice], *, limits: Limits | None = None, device: str | None = None) -> None:
        if not choices:
            raise ValueError("the page must offer at least one model, got none")
        self.choices = {choice.name: choice for choice in choices}
        self.limits, self.device = limits or Limits(), device
        self._models: dict[str, Any] = {}
        self._captions: dict[str, bool] = {}
        self._images: OrderedDict[str, np.ndarray] = OrderedDict()
        self._own_hw: dict[str, tuple[int, int]] = {}  # of the pictures before they were made smaller
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._lock, self._pictures, self._count = threading.Lock(), threading.Lock(), 0

    def reads_captions(self, name: str) -> bool:
        """Return whether a model can be asked by a sentence whose phrases it finds; nothing is loaded but its config."""
        if name not in self._captions:
            from ovdense.api import load_config
            from ovdense.methods.base import OpenVocabModel
            from ovdense.registry import MODELS

            kind = load_config(self.choices[name].config)["model"]["type"]
            kind = MODELS.get(kind) if isinstance(kind, str) else kind
            self._captions[name] = kind.ask is not OpenVocabModel.ask
        return self._captions[name]

    def add_image(self, content: bytes) -> dict[str, Any]:
        """Keep a picture's file; return its id and its own size. Refused for one that is too large or none; its pixels are counted before it is decoded."""
        from ovdense.compat.images import decode_upright

        self.limits.check_bytes(len(content))
        key = hashlib.sha256(content).hexdigest()[:32]
        with self._pictures:
            if key in self._images:  # the last of those that are kept again
                self._images.move_to_end(key)
                height, width = self._own_hw[key]
                return {"image": key, "width": width, "height": height}
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                self.limits.check_pixels(*picture.size)
            image = decode_upright(content, "the picture")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            said = str(error) if "cannot be read" in str(error) else f"it must be one of {', '.join(FORMATS)}"
            raise Refused(415, f"this file cannot be read as a picture: {said}") from None
        self._keep(key, image)
        return {"image": key, "width": image.shape[1], "height": image.shape[0]}

    def _keep(self, key: str, image: np.ndarray) -> None:
        own_hw = image.shape[:2]
        scale = self.limits.side / max(own_hw)
        if scale < 1:
            size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        image = np.array(image)
        image.flags.writeable = False  # so that models may know it again
        with self._pictures:
            self._images[key], self._own_hw[key] = image, own_hw
            while len(self._images) > self.limits.images:
                self._own_hw.pop(self._images.popitem(last=False)[0], None)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer: picture with overlay, classes, boxes (x1 y1 x2 y2 in the picture's own pixels), times.

        `question`: image (its id), model, score_thr, and texts (a list) or a caption.
        A caption's phrases are its classes: those in square brackets, "[a dog] left of [the red sofa]", else its noun chunks. Refused says what is
        wrong with a question: an unknown picture or model, a model that cannot be loaded, texts that cannot be asked, a caption for a model that reads none.
        """
        asked = _asked(question)
        self.limits.check_texts([asked] if isinstance(asked, str) else asked)
        name, thr = str(question.get("model") or next(iter(self.choices))), question.get("score_thr", 0.3)
        if not isinstance(thr, int | float) or not 0 <= thr <= 1:
            raise Refused(422, f"the threshold must lie in 0..1, got {thr!r}")
        if name not in self.choices:
            raise Refused(404, f"there is no model {name!r} here; there are {', '.join(self.choices)}")
        with self._lock:
            image, own_hw = self._image(str(question.get("image")))
            began = time.perf_counter()
            predictor = self._predictor(name)
            times = {"load": time.perf_counter() - began}
            results = self._predict(predictor, image, asked, times)
            shown = results.above(float(thr))
            began = time.perf_counter()
            overlay = _data_url(shown.draw(score_thr=float(thr)))
            times["draw"] = time.perf_counter() - began
            self._count += 1
            key = secrets.token_urlsafe(12)  # no other visitor can guess it, and see the picture
            kept = replace(results, masks_NHW=None, label_map_HW=None, source=None)  # heat needs boxes and names; masks of all scores are gigabytes
            self._answers[key] = _Answer(image=image, model=name, asked=asked, results=kept)
            while len(self._answers) > self.limits.answers:
                self._answers.popitem(last=False)
            if self._count % RETURN_EVERY == 0:
                return_memory()
        times["total"] = sum(times.values())
        scale_yx = (own_hw[0] / image.shape[0], own_hw[1] / image.shape[1])
        return {"answer": key, "overlay": overlay, **_said(shown, scale_yx), "seconds": {k: round(v, 4) for k, v in times.items()},
                "features": "reused" if times["image"] == 0 else "computed"}  # fmt: skip

    def heat(self, answer: str, number: int) -> bytes:
        """Return a PNG: how much each place of an answer's picture speaks for class `number` of it."""
        from ovdense.drawing import draw_heat

        with self._lock:
            kept = self._answers.get(answer)
            if kept is None or not 0 <= number < len(kept.results.names):
                raise Refused(404, "this answer is no longer kept; ask again")
            if kept.heat_KHW is None:
                kept.heat_KHW = self._heat(kept)
            low, high = float(kept.heat_KHW.min()), float(kept.heat_KHW.max())
            picture = draw_heat(kept.image, kept.heat_KHW[number], low=low, high=high, title=kept.results.names[number], min_side=600)
        return _png(picture)

    def _heat(self, kept: _Answer) -> np.ndarray:
        """Return (K, h, w) of an answer's classes: the model's scores of places, or of its boxes where it does not score places."""
        from ovdense.web.heat import box_heat

        predictor = self._predictor(kept.model)
        _set_asked(predictor, kept.asked)
        try:
            maps = predictor.heat_maps(kept.image)
        except NotImplementedError:
            return box_heat(kept.results)
        none = np.zeros_like(next(iter(maps.values())))
        return np.stack([maps.get(name, none) for name in kept.results.names])

    def _image(self, key: str) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a picture as it is kept, and its own height and width."""
        with self._pictures:
            if key not in self._images:
                raise Refused(404, "this picture is no longer kept; drop it again")
            self._images.move_to_end(key)
            return self._images[key], self._own_hw[key]

    def _predictor(self, name: str) -> Any:
        if name not in self._models:
            from ovdense.api import load

            choice = self.choices[name]
            with _in_words():
                predictor = load(choice.config, choice.weights, device=self.device)
            predictor.remember_images(max_images=self.limits.images)
            self._models[name] = predictor
        return self._models[name]

    @staticmethod
    def _predict(predictor: Any, image: np.ndarray, asked: Sequence[str] | str, times: dict[str, float]) -> Any:
        """Return the results above nothing, and note the seconds of text, image and matching."""
        cache, began = predictor.model.image_cache, time.perf_counter()
        _set_asked(predictor, asked)
        if hasattr(predictor.model, "text"):
            with _in_words():
                predictor.model.text()  # encoded now, so that its time is told apart
        times["text"], before, began = time.perf_counter() - began, cache.seconds, time.perf_counter()
        with _in_words():  # OVDiff reads its pictures only now
            results = predictor.predict(image, score_thr=0.0)
        times["image"] = cache.seconds - before
        times["match"] = time.perf_counter() - began - times["image"]
        return results


def _asked(question: Mapping[str, Any]) -> list[str] | str:
    """Return a question's texts, or its caption as one string."""
    texts, caption = question.get("texts") or (), question.get("caption") or ""
    if not isinstance(texts, list | tuple) or not isinstance(caption, str) or texts and caption:
        raise Refused(422, "a question has either texts, a list, or a caption, a string")
    if any("\ud800" <= letter <= "\udfff" for text in (caption, *map(str, texts)) for letter in text):
        raise Refused(422, "a text must be whole letters, got half of a surrogate pair")
    return " ".join(caption.split()) or [str(text).strip() for text in texts if str(text).strip()]


@contextmanager
def _in_words() -> Iterator[None]:
    """Refuse with its words what a user can put right: files and data that are missing, weights that do not fit, texts that cannot be asked."""
    try:
        yield
    except (OSError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise Refused(422, str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)) from None


def _set_asked(predictor: Any, asked: Sequence[str] | str) -> None:
    with _in_words():
        if not isinstance(asked, str):
            predictor.set_vocabulary(list(asked))
            return
        try:
            predictor.set_caption(*marked_caption(asked))
        except ModuleNotFoundError as error:
            raise Refused(422, f"{error}. Or mark the phrases with square brackets: [a dog] left of [the red sofa]") from None


def _said(results: Any, scale_yx: tuple[float, float]) -> dict[str, Any]:
    """Return classes (name, colour, how much of each was found) and boxes for the page, these scaled."""
    from ovdense.drawing import class_colour, class_colours

    if results.label_map_HW is not None:
        count = results.label_map_HW.flatten().bincount(minlength=len(results.names)) / results.label_map_HW.numel()
        found = [f"{share:.1%}" if share else "" for share in count.tolist()]
        colours = class_colours(results.names, [results.names[k] for k in count.nonzero().flatten().tolist()])
        boxes = []
    else:
        count = results.labels.bincount(minlength=len(results.names)).tolist()
        found = [str(n) if n else "" for n in count]
        colours = class_colours(results.names, [results.names[k] for k in results.labels.unique().tolist()])
        y, x = scale_yx
        boxes = [{"box": [round(v * s, 1) for v, s in zip(box, (x, y, x, y))], "score": round(score, 3), "class": k} for box, score, k in
                 zip(results.boxes_xyxy[:MOST_BOXES].tolist(), results.scores[:MOST_BOXES].tolist(), results.labels[:MOST_BOXES].tolist())]  # fmt: skip
    classes = [
        {"name": name, "colour": "#" + bytes(colours.get(name) or class_colour(name)).hex(), "found": found[k], "background": name in results.background}
        for k, name in enumerate(results.names)
    ]
    return {"kind": "boxes" if results.label_map_HW is None else "label map", "masks": results.masks_NHW is not None, "classes": classes, "boxes": boxes,
            "num_boxes": len(results)}  # fmt: skip


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _data_url(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")

"""Sample -> sample, each step a callable on a dict; all randomness comes from the sample's own `rng`.

A sample: `path`, `file_name`, `image_id`, `original_size_hw`, `rng` (numpy Generator); `image` (H, W, 3) uint8 RGB after
LoadImage; `boxes_xyxy` (N, 4) float32 in pixels of `image`, `labels` (N,) int64; `caption` and `positive_spans` (one
tuple of character spans a box) after DescriptionQueries; `masks` (N, H, W) bool where a data set loads them, `label_map`
(H, W) uint8 after LoadLabelMap: both follow `image`. PackDetection ends the list.
"""
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ovdense.compat.images import BrokenImage, stored_size_note, to_rgb, upright
from ovdense.registry import TRANSFORMS
from ovdense.structures import ImageTarget


def shortest_edge_size(size_hw: tuple[int, int], short_side: int, max_size: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side at `short_side`, or less where the longer one would pass `max_size`.

    The rounding is that of the published GLIP and DesCo code, which can leave the longer side up to 1% over `max_size`;
    where it would leave more (strips whose shorter side becomes a few pixels) the longer side is `max_size`.
    """
    height, width = size_hw
    low, high = min(size_hw), max(size_hw)
    if high / low * short_side > max_size:
        short_side = int(round(max_size * low / high))
    short_side = max(short_side, 1)
    long_side = int(short_side * high / low)
    if long_side > 1.01 * max_size:
        long_side = max_size
    return (long_side, short_side) if width < height else (short_side, long_side)


def resize_image(image: np.ndarray, size_hw: tuple[int, int], resample: str = "bilinear") -> np.ndarray:
    """Return the (H, W, 3) uint8 image at another size, `resample` "bilinear" or "lanczos", with antialiasing."""
    if image.shape[:2] == tuple(size_hw):
        return image
    return np.asarray(Image.fromarray(image).resize((size_hw[1], size_hw[0]), Image.Resampling[resample.upper()]))


def read_image(path: str) -> np.ndarray:
    """Return the file as (H, W, 3) uint8 RGB, upright: with its EXIF rotation applied, as the tools show it in which boxes are drawn.

    FileNotFoundError or BrokenImage (a ValueError) name a file that is missing, is no image, or is cut short.
    """
    try:
        with Image.open(path) as picture:
            return to_rgb(upright(picture))
    except FileNotFoundError:
        raise FileNotFoundError(f"the image {path} is missing") from None
    except BrokenImage as error:
        raise BrokenImage(f"{path}: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{path}: must be a whole image file, could not be read: {error}; {_advice(path)}") from None


def _advice(path: str) -> str:
    """Return what to do about an unreadable image; a short text that ends like an image's path is a link that a copy has flattened."""
    with open(path, "rb") as file:
        start = file.read(1024)
    if len(start) < 1024 and start.strip().lower().endswith((b".jpg", b".jpeg", b".png")):
        return f"it holds only the path {start.decode(errors='replace').strip()!r}, a link that was copied as text: copy with links, or pass image_prefix"
    return "fetch it again"


def select_boxes(sample: dict, keep: np.ndarray) -> dict:
    """Return the sample with only the boxes of `keep` (N,) bool, and their labels and spans."""
    if keep.all():
        return sample
    sample["boxes_xyxy"], sample["labels"] = sample["boxes_xyxy"][keep], sample["labels"][keep]
    if "positive_spans" in sample:
        sample["positive_spans"] = tuple(s for s, k in zip(sample["positive_spans"], keep) if k)
    for key in ("masks", "final"):
        if key in sample:
            sample[key] = sample[key][keep]
    if "align_spans" in sample:
        sample["align_spans"] = sample["align_spans"][: int(keep.sum())]  # the release keeps them as they are: they slip
    return sample


def change_pixels(sample: dict, change: Callable[[np.ndarray], np.ndarray]) -> dict:
    """Return the sample with `change` applied to what is laid out as its image: (..., H, W), without touching values.

    For crops, flips and nearest resizing of `label_map` and `masks`; the image itself is the caller's.
    """
    for key in ("label_map", "masks"):
        if key in sample:
            sample[key] = change(sample[key])
    return sample


def nearest(pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return (..., H, W) labels or masks at another size: the value at each new pixel's centre."""
    if pixels.shape[-2:] == tuple(size_hw):
        return pixels
    rows, columns = (np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1) for new, old in zip(size_hw, pixels.shape[-2:]))
    return pixels[..., rows[:, None], columns]


def clip_boxes(sample: dict, min_size: float) -> dict:
    """Return the sample with boxes cut at the image's border; those whose width or height is then below `min_size` pixels go."""
    height, width = sample["image"].shape[:2]
    boxes = np.clip(sample["boxes_xyxy"], 0, np.array([width, height, width, height], dtype=np.float32))
    sample["boxes_xyxy"] = boxes
    return select_boxes(sample, (boxes[:, 2:] - boxes[:, :2] >= min_size).all(1))


def check_probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in 0..1, got {value}")
    return value


@TRANSFORMS.register_module()
class LoadImage:
    """Add `image`; BrokenImage if the file is not of the size that its annotations were made for."""

    def __call__(self, sample: dict) -> dict:
        sample["image"] = image = read_image(sample["path"])
        if image.shape[:2] != tuple(sample["original_size_hw"]):
            raise BrokenImage(
                f"{sample['path']}: must be {sample['original_size_hw'][0]} x {sample['original_size_hw'][1]} (height x width) as its annotations say, "
                f"got {image.shape[0]} x {image.shape[1]}; {stored_size_note(sample['path'], sample['original_size_hw']) or 'is this the right file?'}"
            )
        return clip_boxes(sample, min_size=1e-3)


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror left and right with probability `prob`.

    A caption that holds one of `side_words`, as a word of its own or with what it is compounded with ("leftmost", "topright"), stays as it is: "left of a
    cube" would become false. For that, put RandomFlip after the step that writes the caption. With `swap_sides` such images are mirrored too, and "left"
    and "right" change places in the caption; spans follow.
    """

    def __init__(self, prob: float = 0.5, side_words: Sequence[str] = ("left", "right"), swap_sides: bool = False) -> None:
        self.prob, self.swap_sides = check_probability("prob", prob), swap_sides
        self._sides = _side_pattern(side_words) if side_words else None

    def __call__(self, sample: dict) -> dict:
        if sample["rng"].random() >= self.prob or not self.swap_sides and self._speaks_of_sides(sample.get("caption")):
            return sample
        if self.swap_sides and sample.get("caption") is not None:
            sample = _swap_sides(sample)
        width = sample["image"].shape[1]
        sample["image"] = sample["image"][:, ::-1]
        sample["boxes_xyxy"] = np.stack([width - sample["boxes_xyxy"][:, 2], sample["boxes_xyxy"][:, 1],
                                         width - sample["boxes_xyxy"][:, 0], sample["boxes_xyxy"][:, 3]], axis=1)  # fmt: skip
        return change_pixels(sample, lambda pixels: pixels[..., ::-1])

    def _speaks_of_sides(self, caption: str | None) -> bool:
        return self._sides is not None and self._sides.search(caption or "") is not None


def _side_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return what finds words of sides, group "side": alone, or in a compound as referring expressions have them; not "leftovers", "bright", "copyright"."""
    before, after = "(?:top|bottom|upper|lower|front|back|far|mid|middle)?", "(?:most|er|hand|handed|side|ward|wards|y)?"
    return re.compile(rf"(?<![^\W_]){before}(?P<side>{'|'.join(map(re.escape, words))}){after}(?![^\W_])", re.IGNORECASE)


_SIDES = {"left": "right", "right": "left"}
_SIDE_WORD = _side_pattern(tuple(_SIDES))


def _swap_sides(sample: dict) -> dict:
    """Return the sample with "left" and "right" exchanged in its caption, in their case, and all spans moved along."""
    caption, pieces, ends, last = sample["caption"], [], [0], 0
    places = [0]
    for match in _SIDE_WORD.finditer(caption):
        word, (begin, end) = match["side"], match.span("side")
        other = _SIDES[word.lower()]
        other = other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
        pieces += [caption[last:begin], other]
        places.append(end)
        ends.append(ends[-1] + begin - last + len(other))
        last = end
    if not last:
        return sample
    sample["caption"] = "".join(pieces) + caption[last:]

    def moved(place: int) -> int:
        k = bisect_right(places, place) - 1  # the last exchanged word that ends at or before the place
        return ends[k] + place - places[k]

    for key in ("positive_spans", "align_spans"):
        if key in sample:
            sample[key] = tuple(tuple((moved(b), moved(e)) for b, e in spans) for spans in sample[key])
    return sample


@TRANSFORMS.register_module()
class ResizeShortestEdge:
    """Scale the image so that its shorter side is one of `short_sides` (drawn at random), its longer about `max_size` at most.

    Boxes narrower than `min_size` pixels afterwards are dropped. `resample`: "bilinear", or "lanczos".
    """

    def __init__(self, short_sides: Sequence[int] = (800,), max_size: int = 1333, min_size: float = 1.0, resample: str = "bilinear") -> None:
        if resample not in ("bilinear", "lanczos"):
            raise ValueError(f"resample must be 'bilinear' or 'lanczos', got {resample!r}")
        self.resample = resample
        if not short_sides or min(short_sides) < 1 or max_size < max(short_sides):
            raise ValueError(f"short_sides must be positive and at most max_size, got {tuple(short_sides)} and {max_size}")
        self.short_sides, self.max_size, self.min_size = tuple(short_sides), max_size, min_size

    def __call__(self, sample: dict) -> dict:
        old_hw = sample["image"].shape[:2]
        pick = int(sample["rng"].integers(len(self.short_sides))) if len(self.short_sides) > 1 else 0
        new_hw = shortest_edge_size(old_hw, self.short_sides[pick], self.max_size)
        sample["image"] = resize_image(sample["image"], new_hw, self.resample)
        scale_y, scale_x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
        sample["boxes_xyxy"] = sample["boxes_xyxy"] * np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
        return clip_boxes(change_pixels(sample, lambda pixels: nearest(pixels, new_hw)), self.min_size)


@TRANSFORMS.register_module()
class RandomCrop:
    """With probability `prob`, cut out a window whose sides are a share min_side..1 of the image's.

    A box stays, clipped, if at least `min_area` of it lies inside. A window that would lose every box is drawn again, up
    to 10 times; then the image stays whole. `published_spans`: MDETR's release forgets to drop the spans of lost boxes for its alignment
    loss, so that later boxes get those of earlier ones (`align_spans`).
    """

    def __init__(self, prob: float = 0.5, min_side: float = 0.5, min_area: float = 0.5, published_spans: bool = False) -> None:
        self.published_spans = published_spans
        self.prob, self.min_area = check_probability("prob", prob), check_probability("min_area", min_area)
        if not 0 < min_side <= 1:
            raise ValueError(f"min_side must be a share in (0, 1], got {min_side}")
        self.min_side = min_side

    def __call__(self, sample: dict) -> dict:
        rng: np.random.Generator = sample["rng"]
        if rng.random() >= self.prob:
            return sample
        height, width = sample["image"].shape[:2]
        boxes = sample["boxes_xyxy"]
        for _ in range(10):
            h, w = (max(1, round(side * rng.uniform(self.min_side, 1))) for side in (height, width))
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            inside = np.clip(boxes - np.array([x, y, x, y], dtype=np.float32), 0, np.array([w, h, w, h], dtype=np.float32))
            keep = _areas(inside) >= self.min_area * _areas(boxes)
            if keep.any() or len(boxes) == 0:
                sample["image"], sample["boxes_xyxy"] = sample["image"][y : y + h, x : x + w], inside
                sample = change_pixels(sample, lambda pixels: pixels[..., y : y + h, x : x + w])  # noqa: B023  (used at once)
                if self.published_spans and "positive_spans" in sample:
                    sample.setdefault("align_spans", sample["positive_spans"])
                return clip_boxes(select_boxes(sample, keep), min_size=1e-3)
        return sample


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@TRANSFORMS.register_module()
class PhotometricJitter:
    """Change brightness and contrast by up to these shares. Hue and saturation stay: descriptions name colours."""

    def __init__(self, brightness: float = 0.1, contrast: float = 0.1) -> None:
        self.brightness, self.contrast = check_probability("brightness", brightness), check_probability("contrast", contrast)

    def __call__(self, sample: dict) -> dict:
        gain = 1 + self.contrast * sample["rng"].uniform(-1, 1)
        shift = 255 * self.brightness * sample["rng"].uniform(-1, 1)
        level = np.arange(256, dtype=np.float32)
        table = np.clip((level - 127.5) * gain + 127.5 + shift, 0, 255).round().astype(np.uint8)
        sample["image"] = table[sample["image"]]
        return sample


@TRANSFORMS.register_module()
class PackDetection:
    """End of the list: the sample becomes image (uint8 (3, H, W) RGB tensor) and target (ImageTarget)."""

    def __call__(self, sample: dict) -> dict:
        image = sample["image"]
        target = ImageTarget(
            image_id=int(sample["image_id"]),
            file_name=sample["file_name"],
            size_hw=(image.shape[0], image.shape[1]),
            original_size_hw=tuple(int(v) for v in sample["original_size_hw"]),
            boxes_xyxy=torch.from_numpy(np.array(sample["boxes_xyxy"], dtype=np.float32).reshape(-1, 4)),
            labels=torch.from_numpy(np.array(sample["labels"], dtype=np.int64)),
            caption=sample.get("caption"),
            positive_spans=tuple(sample.get("positive_spans", ())),
            masks_NHW=_tensor(sample.get("masks"), torch.bool),
            label_map_HW=_tensor(sample.get("label_map"), torch.int64),
            final=_tensor(sample.get("final"), torch.float32),
            answers=sample.get("answers"),
            align_spans=sample.get("align_spans"),
        )
        return {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "target": target}


def _tensor(pixels: np.ndarray | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if pixels is None else torch.from_numpy(np.ascontiguousarray(pixels)).to(dtype)

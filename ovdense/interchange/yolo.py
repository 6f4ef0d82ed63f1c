"""YOLO: data.yaml, images/SPLIT/NAME.jpg, labels/SPLIT/NAME.txt with "class cx cy w h" or "class x y x y ..." in fractions of the image's size.

The form has one box or one polygon an object and, of predictions, a score at the end of the line. Parts of an object are joined by bridges of no width.
"""
from pathlib import Path
from typing import Any

from ovdense.compat.atomic import replace_file
from ovdense.data.masks import FARTHEST
from ovdense.interchange.files import image_files, image_size, numbers, places, read_text, short, text_of
from ovdense.interchange.outlines import join_parts, split_parts
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Mask
from ovdense.structures import Vocabulary

DECIMALS = 6  # of a pixel: ten digits of a fraction hold them, so that what was written in pixels comes back as it was


def read(path: Path, *, split: str = "train", images: Path | None = None) -> AnnotationSet:
    """Return one split of a YOLO data set: `path` is its folder or data.yaml; `images`: where the split's pictures are (their sizes are needed).

    A picture without a label file has no objects; label files without a picture are an error.
    """
    yaml_path = path / "data.yaml" if path.is_dir() else path
    content = _yaml(yaml_path)
    names = _names(content.get("names"), yaml_path)
    base, place = content.get("path") or ".", content.get(split)
    if not isinstance(base, str) or "\0" in base + str(place)[:4096]:
        raise ValueError(f"{yaml_path}: path must be a folder's name, got {short(base)}; so must the split's {short(place)}")
    root = yaml_path.parent / base
    if not isinstance(place, str):
        raise ValueError(f"{yaml_path}: must name the folder of the split {split!r}, it has {[k for k in ('train', 'val', 'test') if content.get(k)]}")
    try:
        folder = root / place if (root / place).exists() or images else yaml_path.parent / place
    except OSError as error:  # the name is too long, or leads where nobody may look
        raise ValueError(f"{yaml_path}: the folder of the split {split!r} cannot be read: {error.strerror}, {short(place)}") from None
    labels = Path(*("labels" if part == "images" else part for part in folder.parts[len(root.parts):]))
    labels = (root if folder.is_relative_to(root) else yaml_path.parent) / labels
    if labels == folder:
        raise ValueError(f"{yaml_path}: the folder of the split {split!r} must have 'images' in its path (labels lie in 'labels'), got {place!r}")
    pictures = image_files(Path(images or folder))
    records = [_image(p, p.relative_to(images or folder), labels, names) for p in pictures]
    _check_labels(labels, records)
    return AnnotationSet(classes=Vocabulary.of(names), images=tuple(records), class_ids=tuple(range(len(names))))


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"a YOLO data set must have its data.yaml, got {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be YAML in UTF-8: {str(error)[:400]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping with names, train and val, got {type(content).__name__}")
    return content


def _names(given: Any, path: Path) -> list[str]:
    if isinstance(given, dict):
        if sorted(map(str, given)) != sorted(map(str, range(len(given)))):
            raise ValueError(f"{path}: names must be numbered 0, 1, ..., got {short(list(given))}")
        given = [given.get(k, given.get(str(k))) for k in range(len(given))]
    if not isinstance(given, list) or not given or not all(isinstance(n, str | int) and str(n).strip() for n in given):
        raise ValueError(f"{path}: names must be a list of names, or numbers to names, got {short(given)}")
    return [str(n) for n in given]


def _image(picture: Path, relative: Path, labels: Path, names: list[str]) -> AnnotatedImage:
    size_hw = image_size(picture)
    file = labels / relative.with_suffix(".txt")
    things = []
    if file.is_file():
        for n, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                things.append(_thing(line.split(), names, size_hw, f"{file}, line {n}"))
    return AnnotatedImage(file_name=relative.as_posix(), size_hw=size_hw, objects=tuple(things))


def _thing(fields: list[str], names: list[str], size_hw: tuple[int, int], where: str) -> AnnotatedObject:
    values = numbers(fields, where)
    if len(values) < 5 or values[0] != int(values[0]) or not 0 <= values[0] < len(names):
        raise ValueError(f"{where}: must be a class 0..{len(names) - 1} and a box (4 numbers) or polygon (at least 6), got {' '.join(fields)[:80]}")
    score = values.pop() if len(values) % 2 == 0 else None
    name, places_ = names[int(values[0])], values[1:]
    height, width = size_hw
    pixels = numbers([round(v * (height if n % 2 else width), DECIMALS) for n, v in enumerate(places_)], where)
    if len(pixels) == 4:
        cx, cy, w, h = pixels
        if w <= 0 or h <= 0:
            raise ValueError(f"{where}: a box must have positive width and height, got {' '.join(fields)[:80]}")
        return AnnotatedObject(name=name, box_xyxy=(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), score=score)
    if max(map(abs, pixels)) > FARTHEST:
        raise ValueError(f"{where}: a polygon must lie within a million pixels of the image, got {' '.join(fields)[:80]}")
    mask = Mask(polygons=split_parts(tuple(pixels)), size_hw=size_hw)
    box = mask.box_xyxy()
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"{where}: a polygon must have positive width and height, got {' '.join(fields)[:80]}")
    return AnnotatedObject(name=name, box_xyxy=box, mask=mask, score=score)


def _check_labels(labels: Path, records: list[AnnotatedImage]) -> None:
    known = {(labels / r.file_name).with_suffix(".txt") for r in records}
    lost = [p for p in sorted(labels.rglob("*.txt")) if p not in known] if labels.is_dir() else []
    if lost:
        raise ValueError(f"{labels}: {len(lost)} label files have no picture, the first is {lost[0].name}; YOLO's sizes come from the pictures: give images=")


def write(data: AnnotationSet, folder: Path, *, split: str = "train", masks: bool | None = None) -> None:
    """Write labels/SPLIT/*.txt and data.yaml (another split's entries of it stay; its names must be the same).

    `masks`: polygons (True: every object must have a mask), boxes (False), or polygons where there is a mask (None). The pictures belong into images/SPLIT.
    """
    import yaml

    names, index = list(data.classes.names), {name: k for k, name in enumerate(data.classes.names)}
    yaml_path = folder / "data.yaml"
    content = _yaml(yaml_path) if yaml_path.is_file() else {"path": "."}
    if "names" in content and _names(content["names"], yaml_path) != names:
        raise ValueError(f"{yaml_path}: the names of all splits must be the same; write the other classes to another folder")
    texts = [_lines(image, index, masks) for image in data.images]
    for file, text in zip(places(data.images, folder / "labels" / split, ".txt"), texts):
        replace_file(file, text, durable=False)
    content |= {split: f"images/{split}", "names": dict(enumerate(names))}
    replace_file(yaml_path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _lines(image: AnnotatedImage, index: dict[str, int], masks: bool | None) -> str:
    height, width = image.size_hw
    lines = []
    for thing in image.objects:
        if masks and thing.mask is None:
            raise ValueError(f"{image.file_name}: to be written as a polygon an object must have a mask, a {thing.name!r} has none; give masks=None or False")
        outline = thing.mask.outline() if thing.mask is not None and masks is not False else ()
        if outline:
            values = [v / (height if n % 2 else width) for n, v in enumerate(join_parts(outline))]
        else:
            x1, y1, x2, y2 = thing.box_xyxy
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        lines.append(" ".join([str(index[thing.name]), *map(text_of, values), *([text_of(thing.score)] if thing.score is not None else [])]))
    return "".join(line + "\n" for line in lines)

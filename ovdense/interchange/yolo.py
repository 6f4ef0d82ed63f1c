"""YOLO: data.yaml, images/SPLIT/NAME.jpg, labels/SPLIT/NAME.txt with "class cx cy w h" or "class x y x y ..." in fractions of the image's size.

The form has one box or one polygon an object and, of predictions, a score at the end of the line. Parts of an object are joined by bridges of no width.
"""
import os
import warnings
from pathlib import Path
from typing import Any

from ovdense.compat.atomic import replace_file
from ovdense.compat.segmentations import FARTHEST
from ovdense.interchange import yolo_files
from ovdense.interchange.files import image_size, numbers, places, read_text, short, text_of
from ovdense.interchange.outlines import join_parts, split_parts
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Mask
from ovdense.structures import Vocabulary

DECIMALS = 6  # of a pixel: ten digits of a fraction hold them, so that what was written in pixels comes back as it was


def read(path: Path, *, split: str = "train", images: Path | None = None) -> AnnotationSet:
    """Return one split of a YOLO data set: `path` is its folder or data.yaml; `images`: where the split's pictures are (their sizes are needed).

    A split is a folder, a .txt file that lists pictures, or a list of these; it is looked for below `path` of data.yaml, then beside data.yaml, and without a
    leading "../" where there is none (Roboflow). The label of a picture lies where its path says "labels" for the last folder "images" (as Ultralytics has it).
    A picture without a label file has no objects; where no picture has one, that is a warning, or an error if the folder of labels is missing, too.
    Label files without a picture are an error (but for LabelImg's classes.txt), and so is a split without a picture. Of key points (kpt_shape) the
    boxes are read, with a warning.
    """
    yaml_path = path / "data.yaml" if path.is_dir() else path
    content = _yaml(yaml_path)
    names, points = _names(content.get("names"), yaml_path), _points(content.get("kpt_shape"), yaml_path)
    sources = [_source(place, content, split, yaml_path, elsewhere=images is not None) for place in _places(content, split, yaml_path)]
    pictures = yolo_files.pictures_of(sources, images and Path(images), yaml_path)
    yolo_files.check_labels(sources, pictures)
    records = [_image(p, names, points) for p in pictures]
    if points and any(r.objects for r in records):
        warnings.warn(f"{yaml_path}: left out the key points (kpt_shape {content['kpt_shape']}); the boxes of the objects are read", stacklevel=2)
    return AnnotationSet(classes=Vocabulary.of(names), images=tuple(records), class_ids=tuple(range(len(names))))


def _places(content: dict[str, Any], split: str, yaml_path: Path) -> list[str]:
    base, given = content.get("path") or ".", content.get(split)
    places = given if isinstance(given, list) else [given]
    if not isinstance(base, str) or any("\0" in name for name in (base, *places) if isinstance(name, str)):
        raise ValueError(f"{yaml_path}: path must be a folder's name, got {short(base)}; so must the split's {short(given)}")
    if not places or not all(isinstance(place, str) and place for place in places):
        have = [k for k in ("train", "val", "test") if content.get(k)]
        raise ValueError(f"{yaml_path}: must name the folder of the split {split!r}, or a list of them, got {short(given)}; it has {have}")
    return places


def _source(place: str, content: dict[str, Any], split: str, yaml_path: Path, *, elsewhere: bool) -> Path:
    """Return the folder or list of pictures where it is; if the pictures are `elsewhere`, where their labels are."""
    here = yaml_path.parent.absolute()
    tries = [root / p for root in (here / (content.get("path") or "."), here) for p in (place, place.removeprefix("../"))]
    labels = [yolo_files.labels_of(folder) for folder in tries] if elsewhere else []
    found = next((folder for folder, label in zip(tries, labels) if label and os.path.isdir(label)), None) or next(filter(os.path.exists, tries), None)
    if found is None:
        raise FileNotFoundError(f"{yaml_path}: the pictures of the split {split!r} must be a folder, or a list (.txt), got {short(place)}: "
                                f"there is no {str(tries[0])[:400]}" + (", nor a folder of labels to it" if elsewhere else "; or give images="))
    found = yolo_files.tidy(found)
    if "images" not in Path(place).parts and (found / "images").is_dir():  # a folder above may have the name, too
        return found / "images"
    if yolo_files.is_list(found) or yolo_files.labels_of(found):
        return found
    if elsewhere and (found / "labels").is_dir():
        return found / "images"
    raise ValueError(f"{yaml_path}: the folder of the split {split!r} must have 'images' in its path (labels lie in 'labels'), got {short(place)}")


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"a YOLO data set must have its data.yaml, got {path}")
    try:
        text = path.read_text(encoding="utf8")
        content = yaml.safe_load(text)
        if isinstance(content, dict) and "names" in content:  # as they are written: a class `no` is no False, `01` not 1
            content["names"] = yaml.load(text, yaml.BaseLoader).get("names", content["names"])
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
    if not isinstance(given, list) or not given or not all(isinstance(n, str) and n.strip() for n in given):
        raise ValueError(f"{path}: names must be a list of names, or numbers to names, got {short(given)}")
    return given


def _points(shape: Any, path: Path) -> int:
    """Return how many numbers of a line are key points."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int for n in shape) or not 0 < shape[0] < 10_000 or shape[1] not in (2, 3):
        raise ValueError(f"{path}: kpt_shape must be the number of key points and 2 or 3 (x, y and perhaps visibility), got {short(shape)}")
    return shape[0] * shape[1]


def _image(picture: yolo_files.Picture, names: list[str], points: int) -> AnnotatedImage:
    size_hw = image_size(picture.file)
    things = []
    if picture.label.is_file():
        for n, line in enumerate(read_text(picture.label).splitlines(), 1):
            if line.strip():
                things.append(_thing(line.split(), names, size_hw, points, f"{picture.label}, line {n}"))
    return AnnotatedImage(file_name=picture.name, size_hw=size_hw, objects=tuple(things))


def _thing(fields: list[str], names: list[str], size_hw: tuple[int, int], points: int, where: str) -> AnnotatedObject:
    values = numbers(fields, where)
    if points and len(values) not in (5, 6):
        if len(values) - points not in (5, 6):
            raise ValueError(f"{where}: must be a class, a box (4 numbers) and key points ({points} numbers, by kpt_shape), got {' '.join(fields)[:80]}")
        del values[5:5 + points]
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


def files(data: AnnotationSet, folder: Path, split: str) -> list[Path]:
    """Return the label file of each image."""
    return [yolo_files.labels_of(p.parent) / p.name for p in places(data.images, folder / "images" / split, ".txt")]


def write(data: AnnotationSet, folder: Path, *, split: str = "train", masks: bool | None = None) -> None:
    """Write labels/SPLIT/*.txt and data.yaml (another split's entries of it stay; its names must be the same).

    `masks`: polygons (True: every object must have a mask), boxes (False), or polygons where there is a mask (None). The pictures belong into images/SPLIT.
    A name that has a folder "images" itself has its labels beside that one (see `read`).
    """
    import yaml

    names, index = list(data.classes.names), {name: k for k, name in enumerate(data.classes.names)}
    yaml_path = folder / "data.yaml"
    content = _yaml(yaml_path) if yaml_path.is_file() else {"path": "."}
    if "names" in content and _names(content["names"], yaml_path) != names:
        raise ValueError(f"{yaml_path}: the names of all splits must be the same; write the other classes to another folder")
    texts = [_lines(image, index, masks) for image in data.images]
    for file, text in zip(files(data, folder, split), texts):
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

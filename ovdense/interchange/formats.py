"""One way in and one way out for all formats, and what each of them cannot hold."""
import warnings
from pathlib import Path
from typing import Any

from ovdense.interchange import coco, cvat, labelme, voc, yolo
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet

_MODULES = {"coco": coco, "cvat": cvat, "labelme": labelme, "voc": voc, "yolo": yolo}
FORMATS = tuple(_MODULES)
_OPTIONS = {
    "coco": ("invalid_boxes",), "cvat": ("unknown",), "labelme": ("unknown",), "voc": ("split", "classes", "invalid_boxes"), "yolo": ("split", "images"),
}
_WRITING = {"coco": (), "cvat": (), "labelme": (), "voc": ("split",), "yolo": ("split", "masks")}
_FACTS = {"scores": lambda o: o.score is not None, "crowds": lambda o: o.crowd, "difficult": lambda o: o.difficult, "truncated": lambda o: o.truncated,
          "occluded": lambda o: o.occluded, "stuff": lambda o: o.stuff, "attributes": lambda o: bool(o.attributes), "groups": lambda o: o.group is not None}
_LOST = {  # what a format has no place for
    "coco": ("groups",), "cvat": (), "labelme": (), "voc": ("scores", "crowds", "groups"),
    "yolo": ("crowds", "difficult", "truncated", "occluded", "stuff", "attributes", "groups"),
}


def _module(form: str):
    if form not in _MODULES:
        import difflib

        near = difflib.get_close_matches(str(form).lower(), FORMATS, n=1, cutoff=0.4)
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {form!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return _MODULES[form]


def guess_format(path: str | Path) -> str:
    """Return the format of a file or folder; ValueError where it is not clear which one it is."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"annotations must be an existing file or folder, got {path}")
    if path.is_dir():
        if (path / "Annotations").is_dir():
            return "voc"
        found = [form for form, sign in (("yolo", "data.yaml"), ("cvat", "annotations.xml")) if (path / sign).is_file()]
        found += ["labelme"] if not found and next(path.rglob("*.json"), None) else []
    elif path.suffix == ".json":
        from ovdense.data.annotations import read_json

        content = read_json(path)
        found = [form for form, key in (("coco", "annotations"), ("labelme", "shapes")) if isinstance(content, dict) and key in content]
    else:
        found = {".yaml": ["yolo"], ".yml": ["yolo"], ".xml": ["cvat"]}.get(path.suffix, [])
    if len(found) != 1:
        raise ValueError(f"{path}: the format must be given (one of {', '.join(FORMATS)}), it looks like {' and '.join(found) or 'none of them'}")
    return found[0]


def read_annotations(path: str | Path, format: str | None = None, **options: Any) -> AnnotationSet:
    """Return the annotations of a file or folder; `format` None: recognised by its name and content.

    Options by format: coco `invalid_boxes`; voc `split`, `classes`, `invalid_boxes`; yolo `split`, `images`; labelme and cvat `unknown` (see their `read`).
    ValueError and FileNotFoundError name the file and the entry that is wrong.
    """
    path = Path(path).expanduser()
    form = format or guess_format(path)
    module = _module(form)
    if not path.exists():
        raise FileNotFoundError(f"annotations must be an existing file or folder, got {path}")
    known = _checked(options, _OPTIONS[form], f"read {form}")
    try:
        return module.read(path, **known)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from None


def write_annotations(data: AnnotationSet, path: str | Path, format: str, **options: Any) -> None:
    """Write annotations to a file (coco, cvat) or folder (labelme, voc, yolo). A warning says what the format has no place for.

    Options by format: voc `split`; yolo `split`, `masks`. The pictures are not copied.
    """
    module = _module(format)
    path = Path(path).expanduser()
    known = _checked(options, _WRITING[format], f"write {format}")
    lost = lost_in(data, format)
    if known.get("masks") is False:
        lost.pop("boxes beside their masks", None)
    if lost:
        warnings.warn(f"{format} has no place for {', '.join(f'{what} ({count})' for what, count in lost.items())}: left out", stacklevel=2)
    module.write(data, path, **known)


def label_files(data: AnnotationSet, path: str | Path, format: str, split: str = "train") -> list[Path]:
    """Return the files in which `write_annotations` would keep the labels: one for all images (coco, cvat), or one an image."""
    module, path = _module(format), Path(path).expanduser()
    if format in ("coco", "cvat"):
        return [path]
    return module.files(data, path, split) if "split" in _WRITING[format] else module.files(data, path)


def _checked(options: dict[str, Any], known: tuple[str, ...], what: str) -> dict[str, Any]:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"to {what}, options must be among {', '.join(known) or 'none'}, got {unknown}")
    return {key: Path(value) if key == "images" and value is not None else value for key, value in options.items() if value is not None}


def lost_in(data: AnnotationSet, format: str) -> dict[str, int]:
    """Return what the format has no place for and that the data has, with the number of objects (or images): {} if nothing is lost."""
    _module(format)
    counts = {what: sum(_FACTS[what](o) for o in data.objects()) for what in _LOST[format]}
    if format == "coco":  # both are keys of "attributes"
        counts["flags beside attributes of their name"] = sum(any(getattr(o, f) for f in coco.FLAGS if f in o.attributes) for o in data.objects())
    if format == "voc":
        counts["attributes"] = sum(bool(set(o.attributes) - {"pose"}) for o in data.objects())
        counts["stuff without a mask, or beside masks of objects"] = sum(map(_lost_stuff, data.images))
    if format == "yolo":
        counts["boxes beside their masks"] = sum(map(_own_box, data.objects()))
    if format != "coco":
        counts["lists of absent classes"] = sum(bool(image.negative or image.not_exhaustive) for image in data.images)
    if format != "voc":
        counts["void pixels"] = sum(image.void is not None for image in data.images)
    return {what: count for what, count in counts.items() if count}


def _own_box(thing: AnnotatedObject) -> bool:
    """Return whether a box is off its mask's extent by more than what rounding does: that of a polygon's decimals, or to whole pixels."""
    extent = thing.mask and thing.mask.box_xyxy()
    return bool(extent) and max(abs(a - b) for a, b in zip(extent, thing.box_xyxy)) > (0.02 if thing.mask.polygons else 0.99)


def _lost_stuff(image: AnnotatedImage) -> int:
    """Return how many regions VOC loses: they are read from SegmentationClass, and only where the image has no SegmentationObject."""
    beside = any(o.mask is not None and not o.stuff for o in image.objects)
    return sum(o.stuff and (beside or o.mask is None) for o in image.objects)

"""Pascal VOC: Annotations/NAME.xml, ImageSets, SegmentationObject and SegmentationClass PNGs; labelmap.txt keeps the order of the classes.

VOC's pixels count from 1 and a box's last pixel lies inside it; in the record, as everywhere here, x2 = x1 + width. Segmentation has one object a pixel.
"""
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent

import numpy as np
from PIL import Image

from ovdense.compat.atomic import atomic_write, replace_file
from ovdense.compat.voc import box_xyxy, image_ids, is_strange, listed_names, split_names
from ovdense.compat.xml import read_xml, xml_bytes
from ovdense.data.annotations import InvalidBoxes, check_boxes, voc_numbers
from ovdense.data.masks import paint
from ovdense.interchange.files import inside, places, read_text, text_of
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Mask
from ovdense.structures import IGNORE_LABEL, Vocabulary
from ovdense.text.vocabulary import load_vocabulary

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("truncated", "occluded", "difficult")
_IMAGE_TEXT = ("folder", "segmented")
_LABEL = re.compile(r"(.*?):(?:\s*\d+,\s*\d+,\s*\d+\s*)?(?::[^:]*){0,2}")  # label:color_rgb:parts:actions; a label may have ":"
_RESERVED = ("background", "void")
MOST_OBJECTS = 254  # of one image, in a PNG of 8 bits a pixel


def read(path: Path, *, split: str | None = None, classes: Sequence[str] | Vocabulary | None = None, invalid_boxes: InvalidBoxes = "raise") -> AnnotationSet:
    """Return the annotations of a VOC folder (the one that holds Annotations): of ImageSets/Main/SPLIT.txt, or of all its XML files.

    `classes` in their order, which label maps need: given, else of labelmap.txt, else VOC's 20 if no other name occurs, else the names, sorted.
    Masks come from SegmentationObject (pixel n: the n-th object); where only SegmentationClass is there, its regions are objects of kind `stuff`.
    """
    folder = path / "Annotations"
    if not folder.is_dir():
        raise FileNotFoundError(f"a Pascal VOC folder must hold Annotations, got {path}")
    stems = _stems(path, split)
    roots = {}
    for stem in stems:
        file = folder / f"{inside(stem)}.xml"
        if not file.is_file():
            raise FileNotFoundError(f"{path}: image {stem!r} of the split has no annotation: {file} is missing")
        roots[stem] = read_xml(file)
    seen = [(thing.findtext("name") or "").strip() for root in roots.values() for thing in root.findall("object")]
    vocabulary = _classes(path, classes, seen)
    ids = image_ids(stems)
    images = tuple(_image(path, stem, root, number, vocabulary.names, invalid_boxes) for number, (stem, root) in zip(ids, roots.items()))
    return AnnotationSet(classes=vocabulary, images=images)


def _stems(path: Path, split: str | None) -> tuple[str, ...]:
    if split is None:
        return tuple(p.relative_to(path / "Annotations").with_suffix("").as_posix() for p in sorted((path / "Annotations").rglob("*.xml")))
    file = path / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        have = sorted(p.stem for p in file.parent.glob("*.txt")) if file.parent.is_dir() else []
        raise FileNotFoundError(f"the split must be a file, got {file}; there are {have[:8]}")
    return split_names(file)


def _classes(path: Path, given: Sequence[str] | Vocabulary | None, seen: Sequence[str]) -> Vocabulary:
    listed = path / "labelmap.txt"
    if given is not None:
        return load_vocabulary(given)
    if listed.is_file():
        return Vocabulary.of([n for n in _labels(read_text(listed)) if n not in _RESERVED])
    known = load_vocabulary("voc")
    if set(seen) <= set(known.names):
        return known
    return Vocabulary.of(sorted(set(seen)))


def _labels(text: str) -> list[str]:
    """Return the names of a labelmap.txt; a line that begins with "#" is a comment, unless it has the fields of a label."""
    found = [(line, _LABEL.fullmatch(line)) for line in text.splitlines() if line.strip()]
    return [(match[1] if match else line).strip() for line, match in found if match or not line.startswith("#")]


def _image(path: Path, stem: str, root: Element, number: int, names: tuple[str, ...], invalid_boxes: InvalidBoxes) -> AnnotatedImage:
    where = path / "Annotations" / f"{stem}.xml"
    height, width = (int(v) for v in voc_numbers(root.find("size"), ("height", "width"), f"{where}: size"))
    objects = root.findall("object")
    boxes = [box_xyxy(*voc_numbers(thing.find("bndbox"), _SIDES, f"{where}: object {n}: bndbox")) for n, thing in enumerate(objects, 1)]
    good = check_boxes(np.array(boxes, dtype=np.float64).reshape(-1, 4), [f"object {n}" for n in range(1, len(boxes) + 1)], where, invalid_boxes)
    instance_HW = _png(path / "SegmentationObject" / f"{stem}.png", (height, width))
    class_HW = _png(path / "SegmentationClass" / f"{stem}.png", (height, width))
    masks = _instances(instance_HW, len(objects), where)
    things = [_thing(thing, box, mask, names, f"{where}: object {n}")
              for n, (thing, box, mask, keep) in enumerate(zip(objects, boxes, masks, good), 1) if keep]
    if class_HW is not None and instance_HW is None:
        things += _regions(class_HW, names, path / "SegmentationClass" / f"{stem}.png")
    void = class_HW if class_HW is not None else instance_HW
    hollow = Mask.of_array(void == IGNORE_LABEL) if void is not None and (void == IGNORE_LABEL).any() else None
    extra = {key: root.findtext(key).strip() for key in _IMAGE_TEXT if root.findtext(key)} | {"depth": (root.findtext("size/depth") or "3").strip()}
    extra |= {"source": {c.tag: (c.text or "").strip() for c in root.find("source")}} if root.find("source") is not None else {}
    return AnnotatedImage(file_name=_file_name(root, stem), size_hw=(height, width), id=number, objects=tuple(things), void=hollow,
                          extra={"voc": extra | {"regions": class_HW is not None}})


def _file_name(root: Element, stem: str) -> str:
    said = (root.findtext("filename") or "").strip().replace("\\", "/")
    return said if said and inside(said, "").as_posix() == stem else f"{stem}.jpg"


def _png(path: Path, size_hw: tuple[int, int]) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with Image.open(path) as png:
            if png.mode not in ("P", "L"):
                raise ValueError(f"it must have one number a pixel (a palette, or grey), got mode {png.mode}")
            if png.size != size_hw[::-1]:
                raise ValueError(f"it must have the image's size {str(size_hw)[:80]}, got {png.size[::-1]}")
            found = np.asarray(png)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a label map: {error}") from None
    return found


def _instances(instance_HW: np.ndarray | None, count: int, where: Path) -> list[Mask | None]:
    if instance_HW is None:
        return [None] * count
    values = set(np.unique(instance_HW).tolist()) - {0, IGNORE_LABEL}
    if values and max(values) > count:
        raise ValueError(f"{where}: SegmentationObject has an object {max(values)}, the XML has {count}")
    return [Mask.of_array(instance_HW == n) if n in values else None for n in range(1, count + 1)]


def _regions(class_HW: np.ndarray, names: tuple[str, ...], path: Path) -> list[AnnotatedObject]:
    found = []
    for k in sorted(set(np.unique(class_HW).tolist()) - {0, IGNORE_LABEL}):
        if k > len(names):
            raise ValueError(f"{path}: must hold 0 (background), classes 1..{len(names)} and {IGNORE_LABEL}, got {k}; give classes=")
        mask = Mask.of_array(class_HW == k)
        found.append(AnnotatedObject(name=names[k - 1], box_xyxy=mask.box_xyxy(), mask=mask, stuff=True))
    return found


def _thing(node: Element, box: tuple, mask: Mask | None, names: Sequence[str], where: str) -> AnnotatedObject:
    name = (node.findtext("name") or "").strip()
    if name not in names:
        raise ValueError(f"{where}: the name {name[:80]!r} is not among the {len(names)} classes; repair it, or give classes=")
    flags = {flag: (node.findtext(flag) or "0").strip() == "1" for flag in _FLAGS}
    parts = [{"name": (p.findtext("name") or "").strip(), "box": voc_numbers(p.find("bndbox"), _SIDES, f"{where}: part")} for p in node.findall("part")]
    extra = {"parts": parts} if parts else {}
    pose = (node.findtext("pose") or "").strip()
    attributes = {"pose": pose} if pose not in ("", "Unspecified") else {}
    return AnnotatedObject(name=name, box_xyxy=box, mask=mask, attributes=attributes, extra={"voc": extra}, **flags)


def files(data: AnnotationSet, folder: Path, split: str) -> list[Path]:
    """Return the XML file of each image, whatever the split."""
    return places(data.images, folder / "Annotations", ".xml")


def write(data: AnnotationSet, folder: Path, *, split: str = "train") -> None:
    """Write Annotations, ImageSets/Main/SPLIT.txt, labelmap.txt and, for images with masks, the PNGs and ImageSets/Segmentation/SPLIT.txt.

    Where masks overlap, the smaller object has the pixel; a warning says how many have none left. Crowds are marked difficult. Boxes keep their fractions of
    a pixel. ValueError for names of images and classes that VOC's files would not give back.
    """
    xml_files = files(data, folder, split)
    stems = [p.relative_to(folder / "Annotations").with_suffix("").as_posix() for p in xml_files]
    used = {thing.name for thing in data.objects()}
    names = [name for name in data.classes.names if name not in _RESERVED or name in used]  # VOC has a background itself
    index = {name: k for k, name in enumerate(names, 1)}
    if len(index) > MOST_OBJECTS and any(o.mask for o in data.objects()):
        raise ValueError(f"label maps of VOC hold {MOST_OBJECTS} classes, got {len(index)}; take the classes that you need, or another format")
    colours = _palette().reshape(-1, 3).tolist()
    lines = [f"{name}:{','.join(map(str, colours[k % 256]))}::" for k, name in enumerate(("background", *names))]
    _require_kept(names, _labels(_text(lines[1:])), "labelmap.txt, a class", lambda name: name in _RESERVED)
    _require_kept(stems, listed_names(_text(stems)), "lists of images, an image", is_strange)
    covered = [_write_maps(image, stem, folder, index) for stem, image in zip(stems, data.images)]
    if any(covered):
        warnings.warn(f"voc has one object a pixel: {sum(n or 0 for n in covered)} masks have none left, others cover them", stacklevel=3)
    segmented = [stem for stem, n in zip(stems, covered) if n is not None]
    for file, image in zip(xml_files, data.images):
        replace_file(file, xml_bytes(_xml(image, folder)), durable=False)
    _write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", stems)
    if segmented:
        _write_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt", segmented)
    _write_lines(folder / "labelmap.txt", ["# label:color_rgb:parts:actions", *lines])


def _require_kept(names: Sequence[str], back: Sequence[str], what: str, refused: Callable[[str], bool]) -> None:
    """Raise ValueError for the first name that the file would not give back: it is read as another, or refused (VOC's own, no name of a file)."""
    bad = next((name for n, name in enumerate(names) if refused(name) or n >= len(back) or back[n] != name), None)
    if bad is not None:
        raise ValueError(f"in VOC's {what} cannot be named {bad[:80]!r}: it would not be read as that name again; rename it")


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    replace_file(path, _text(lines))


def _xml(image: AnnotatedImage, folder: Path) -> Element:
    extra = image.extra.get("voc", {})
    root = Element("annotation")
    SubElement(root, "folder").text = extra.get("folder", folder.name)
    SubElement(root, "filename").text = image.file_name
    if "source" in extra:
        _fields(SubElement(root, "source"), extra["source"])
    _fields(SubElement(root, "size"), {"width": image.size_hw[1], "height": image.size_hw[0], "depth": extra.get("depth", 3)})
    SubElement(root, "segmented").text = extra.get("segmented", str(int(any(o.mask is not None for o in image.objects))))
    for thing in (o for o in image.objects if not o.stuff):
        node = SubElement(root, "object")
        flags = {flag: int(getattr(thing, flag)) for flag in _FLAGS} | {"difficult": int(thing.difficult or thing.crowd)}
        _fields(node, {"name": thing.name, "pose": thing.attributes.get("pose", "Unspecified"), **flags})
        x1, y1, x2, y2 = thing.box_xyxy
        _fields(SubElement(node, "bndbox"), dict(zip(_SIDES, map(text_of, (x1 + 1, y1 + 1, x2, y2)))))
        for part in thing.extra.get("voc", {}).get("parts", ()):
            inner = SubElement(node, "part")
            SubElement(inner, "name").text = part["name"]
            _fields(SubElement(inner, "bndbox"), dict(zip(_SIDES, map(text_of, part["box"]))))
    indent(root)
    return root


def _fields(parent: Element, fields: dict) -> None:
    for tag, value in fields.items():
        SubElement(parent, tag).text = str(value)


def _write_maps(image: AnnotatedImage, stem: str, folder: Path, index: dict[str, int]) -> int | None:
    """Write an image's PNGs; return how many masks have no pixel left in them, None if there was nothing to write."""
    things = [o for o in image.objects if not o.stuff]
    if all(o.mask is None for o in image.objects) and image.void is None and not image.extra.get("voc", {}).get("regions"):
        return None
    if len(things) > MOST_OBJECTS:
        raise ValueError(f"{image.file_name}: SegmentationObject of VOC holds {MOST_OBJECTS} objects, got {len(things)}")
    masked = [o for o in image.objects if o.mask is not None]
    covered = _write_png(folder / "SegmentationClass" / f"{stem}.png", image, masked, [index[o.name] for o in masked])
    numbered = [(n, o) for n, o in enumerate(things, 1) if o.mask is not None]
    if numbered:
        covered = _write_png(folder / "SegmentationObject" / f"{stem}.png", image, [o for _, o in numbered], [n for n, _ in numbered])
    return covered


def _write_png(path: Path, image: AnnotatedImage, things: Sequence[AnnotatedObject], values: Sequence[int]) -> int:
    """Write the masks' values, small masks over large ones; return how many masks have no pixel left."""
    masks = np.stack([o.mask.to_array() for o in things]) if things else np.zeros((0, *image.size_hw), dtype=bool)
    picture = paint(masks, values, image.size_hw, 0)
    if image.void is not None:
        picture[image.void.to_array()] = IGNORE_LABEL
    png = Image.fromarray(picture)
    png.putpalette(_palette().tobytes())
    with atomic_write(path, durable=False) as file:
        png.save(file, "PNG")
    left = set(np.unique(picture).tolist())
    return sum(value not in left and bool(mask.any()) for mask, value in zip(masks, values))


def _palette() -> np.ndarray:
    """Return VOC's colours (256, 3) uint8: the bits of the number, three at a time, from the highest bit of each colour down."""
    number = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((number >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours

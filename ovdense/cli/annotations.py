"""ovdense annotations: from one format to another; the same as tools/convert_annotations.py."""
import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ovdense.cli.output import outcome
from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors

OPTIONS = {"invalid_boxes='drop'": "--drop", "unknown='drop'": "--drop", "images=": "--images DIR", "classes=": "--classes FILE"}  # Python's: ours
FORMATS = ("coco", "cvat", "labelme", "voc", "yolo")
READ = {"labelme": ".json", "voc": ".xml", "yolo": ".txt"}  # the labels below a folder


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Convert annotations between COCO (and LVIS), YOLO, Pascal VOC, LabelMe and CVAT for images 1.1: boxes, masks, and what else both formats "
        "hold. What the new format has no place for is said. The pictures are not copied. Labels of images that are in a folder already are not written over.",
        epilog="COCO and CVAT are one file; YOLO (with data.yaml), VOC (with Annotations/) and LabelMe are a folder.")
    parser.add_argument("source", help="file or folder to read")
    parser.add_argument("out", help="file or folder to write")
    parser.add_argument("--from", dest="form", choices=FORMATS, help="format of SOURCE (default: recognised by its name and content)")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of OUT")
    parser.add_argument("--split", metavar="NAME", help="split to read of a YOLO (default: train) or VOC folder (default: all images)")
    parser.add_argument("--out-split", metavar="NAME", help="split to write of a YOLO or VOC folder (default: SPLIT, else train)")
    parser.add_argument("--images", metavar="DIR", help="where the pictures of a YOLO split lie, if not where data.yaml says (their sizes are needed)")
    parser.add_argument("--classes", metavar="NAME|FILE", help="the classes of a VOC folder, in the order of its label maps")
    parser.add_argument("--boxes", action="store_true", help="write boxes to YOLO even for objects that have masks")
    parser.add_argument("--drop", action="store_true", help="leave out, with a warning, boxes of no size, and points and lines, which have no area")
    parser.add_argument("--overwrite", action="store_true", help="write over labels that are in the folder OUT already, perhaps corrected by hand")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors(), _in_options(), outcome(args.json) as found:
        from ovdense.interchange import guess_format, read_annotations, write_annotations
        from ovdense.interchange.formats import label_files

        form = args.form or guess_format(args.source)
        reading = {"split": args.split, "images": args.images, "classes": args.classes} | _dropping(form, args.drop)
        data = read_annotations(args.source, form, **{key: value for key, value in reading.items() if value is not None})
        split = args.out_split or args.split
        writing = {"split": split if args.to in ("voc", "yolo") else None, "masks": False if args.boxes else None}
        _require_free(args, form, label_files(data, args.out, args.to, split or "train"))
        write_annotations(data, args.out, args.to, **{key: value for key, value in writing.items() if value is not None})
        objects = list(data.objects())
        masks = sum(thing.mask is not None for thing in objects)
        found |= {"from": form, "to": args.to, "images": len(data), "objects": len(objects), "masks": masks, "classes": len(data.classes), "out": args.out}
        print(f"{len(data)} images, {len(objects)} objects ({masks} with masks) of {len(data.classes)} classes: {form} -> {args.to}, written to {args.out}")
    return 0


@contextmanager
def _in_options() -> Iterator[None]:
    """Say what to do in this command's options where an error of the readers names Python's."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        said = re.sub("|".join(map(re.escape, OPTIONS)), lambda found: OPTIONS[found[0]], str(error))
        if said == str(error):
            raise
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(said) from None


def _require_free(args: argparse.Namespace, form: str, files: Sequence[Path]) -> None:
    """Raise ValueError where OUT is a file that is read, or where labels in the folder OUT would be lost."""
    there = [file for file in files if file.exists()]
    source = Path(args.source).expanduser()
    if args.to in ("coco", "cvat"):
        if there and source.is_dir() and there[0].suffix == READ.get(form) and there[0].resolve().is_relative_to(source.resolve()):
            raise ValueError(f"OUT must be another file than those of SOURCE, {args.out} is one of its labels")
        source = source / "annotations.xml" if source.is_dir() else source
        if there and source.exists() and there[0].samefile(source):
            raise ValueError(f"OUT must be another file than SOURCE, got {args.out} for both")
    elif there and not args.overwrite:
        raise ValueError(f"{args.out} has labels of {len(there)} of these images already, such as {there[0]}, perhaps corrected by hand; "
                         "give another folder, or --overwrite")  # fmt: skip


def _dropping(form: str, drop: bool) -> dict[str, str]:
    """Return what --drop means for the reader of a format; ValueError where it means nothing."""
    if not drop:
        return {}
    if form == "yolo":
        raise ValueError("--drop: reading YOLO leaves nothing out, its labels are taken as they are; leave the option out")
    return {"unknown": "drop"} if form in ("cvat", "labelme") else {"invalid_boxes": "drop"}

"""Coverage-guided fuzzing of what reads users' files, for long runs: python -m tests.atheris_parsers coco -max_total_time=600

Readers: coco, voc, odvg, grounding, rle, image, vocabulary, and of the interchange cvat, labelme, yolo, voc_folder.
Needs atheris (pip install "ovdense[fuzz]"). Only ValueError and its kind may come out;
anything else stops the run and leaves the input in a file crash-*. The short forms, in the test suite, are tests/test_fuzz*.py.
"""
import json
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ovdense.data", "ovdense.compat", "ovdense.text", "ovdense.structures", "ovdense.interchange"]):
    from ovdense.compat.images import decode_upright
    from ovdense.compat.segmentations import encode_segmentation
    from ovdense.data.annotations import read_coco, read_voc
    from ovdense.data.grounding import GroundingDetection
    from ovdense.data.masks import decode_masks
    from ovdense.interchange import read_annotations
    from ovdense.text.vocabulary import load_vocabulary
    from tests.test_fuzz import CLASSES, COCO, PICTURES, VOC
    from tests.test_fuzz_data import GROUNDING, ODVG

from tests.interchange import test_fuzz as interchange

FOLDER = Path(tempfile.mkdtemp(prefix="ovdense_atheris_"))


def _file(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def coco(data: bytes) -> None:
    read_coco(_file("a.json", data), with_masks=True)


def voc(data: bytes) -> None:
    _file("Annotations/a.xml", data)
    read_voc(_file("ImageSets/Main/val.txt", b"a\n"), ("cat",))


def grounding(data: bytes, name: str = "g.json") -> None:
    _file("a.png", PICTURES["png"])
    found = GroundingDetection(ann_file=str(_file(name, data)), image_prefix=str(FOLDER))
    for n in range(len(found)):
        found[n]


def odvg(data: bytes) -> None:
    grounding(data, "g.jsonl")


def rle(data: bytes) -> None:
    decode_masks([encode_segmentation({"counts": data, "size": [30, 40]}, (30, 40), "a")], (30, 40))


def image(data: bytes) -> None:
    decode_upright(data, "a.png")


def vocabulary(data: bytes) -> None:
    load_vocabulary(_file("v.json" if data[:1] in b"[{" else "v.txt", data))


def _masks(data) -> None:
    for thing in data.objects():
        if thing.mask is not None and thing.mask.size_hw[0] * thing.mask.size_hw[1] < 1e6:
            thing.mask.to_array()


def cvat(data: bytes) -> None:
    _masks(read_annotations(_file("cvat/a.xml", data), "cvat", unknown="drop"))


def labelme(data: bytes) -> None:
    _masks(read_annotations(_file("labelme/a.json", data), "labelme", unknown="drop"))


def yolo(data: bytes) -> None:
    head, _, lines = data.partition(b"\0")
    if b"/" not in head.replace(b"images/train", b"").replace(b"images/val", b""):  # another folder of this machine
        interchange.yolo_folder(FOLDER / "yolo", interchange.YOLO, "")
        _file("yolo/data.yaml", head)
        _file("yolo/labels/train/a.txt", lines)
        _masks(read_annotations(FOLDER / "yolo", "yolo"))


def voc_folder(data: bytes) -> None:
    _file("voc/Annotations/a.xml", data)
    _masks(read_annotations(FOLDER / "voc", "voc"))


READERS = {f.__name__: f for f in (coco, voc, grounding, odvg, rle, image, vocabulary, cvat, labelme, yolo, voc_folder)}
SEEDS = {"coco": [json.dumps(COCO).encode()], "voc": [VOC.encode()], "grounding": [json.dumps(GROUNDING).encode()],
         "odvg": ["\n".join(map(json.dumps, ODVG)).encode()], "rle": [b"0\xc2\x80", b"052n0"], "image": list(PICTURES.values()),
         "vocabulary": [json.dumps(CLASSES).encode(), b"cat\ndog\n"], "cvat": [interchange.CVAT.encode()],
         "labelme": [json.dumps(interchange.LABELME).encode()], "yolo": [(interchange.YOLO + "\0" + interchange.LINES).encode()],
         "voc_folder": [interchange.VOC.encode()]}  # fmt: skip


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in READERS:
        raise SystemExit(f"the reader must be one of {', '.join(READERS)}, got {name!r}")
    seeds = FOLDER / "seeds"
    for n, seed in enumerate(SEEDS[name]):
        _file(f"seeds/{n}", seed)

    def one(data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                READERS[name](data)
            except (ValueError, FileNotFoundError):
                pass

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

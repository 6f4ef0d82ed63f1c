"""Make grounding data from published files: python tools/build_grounding.py refcoco refs.p instances_train2014.json --split train --out OUT.json"""
import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Make grounding data in MDETR's form (images with captions, boxes with tokens_positive) from published files.")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="what is written")
    kinds = parser.add_subparsers(dest="kind", required=True)

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=text, description=text)

    flickr = kind("flickr", "Flickr30k Entities: the folder with Sentences/ and Annotations/, and a list of photos")
    flickr.add_argument("folder")
    flickr.add_argument("photos", help="train.txt, val.txt or test.txt: a photo's name a line")
    flickr.add_argument("--merged", action="store_true", help="one box around all boxes of an entity")
    refcoco = kind("refcoco", "RefCOCO, RefCOCO+, RefCOCOg: refs(unc).p or refs(umd).p, and COCO's instances_train2014.json")
    refcoco.add_argument("refs")
    refcoco.add_argument("instances")
    refcoco.add_argument("--split", default="train", help="train, val, test, testA or testB (default: %(default)s)")
    refcoco.add_argument("--name", default="refcoco", help="dataset_name of every row (default: %(default)s)")
    refcoco.add_argument("--root", action="store_true", help="only an expression's main phrase stands for its box (needs ovdense[phrases])")
    phrasecut = kind("phrasecut", "PhraseCut: refer_SPLIT.json and image_data_split.json")
    phrasecut.add_argument("refer")
    phrasecut.add_argument("image_data")
    gqa = kind("gqa", "GQA: SPLIT_balanced_questions.json and SPLIT_sceneGraphs.json; test splits, which have no scene graphs: --images instead, no boxes")
    gqa.add_argument("questions", help="a file, or a folder of them (train_all_questions)")
    gqa.add_argument("scene_graphs", nargs="?", help="left out for testdev and test")
    gqa.add_argument("--images", metavar="FOLDER", help="the images, whose sizes are read where there are no scene graphs")
    gqa.add_argument("--answers", metavar="FILE", help="gqa_answer2id_by_type.json of MDETR's release, for question answering (default: none, for pretraining)")
    lvis = kind("lvis", "LVIS v1: a row of each class in an image, and of each class known to be absent from it")
    lvis.add_argument("annotations")
    lvis.add_argument("--share", type=float, default=1.0, help="the share of images to take, as published: 0.01, 0.1 or 1 (default: %(default)s)")
    coco = kind("coco-captions", "COCO: captions_*.json and instances_*.json; boxes of the classes that a caption names")
    coco.add_argument("captions")
    coco.add_argument("instances")
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> dict:
    """Return the content of the new file."""
    from ovdense.compat.flickr_entities import read_sentences
    from ovdense.data import grounding_builders as builders
    from ovdense.data.annotations import read_json

    def content(name: str):
        path = Path(getattr(args, name))
        if name == "questions" and path.is_dir():
            return {number: question for part in sorted(path.glob("*.json")) for number, question in read_json(part).items()}
        if not path.is_file():
            raise FileNotFoundError(f"{name} must be an existing file, got {path}")
        return read_json(path)

    if args.kind == "flickr":
        names = Path(args.photos).read_text(encoding="utf8").split()
        return builders.flickr_entities(((n, *read_sentences(Path(args.folder), n)) for n in names), merged=args.merged)
    if args.kind == "refcoco":
        from ovdense.text.noun_chunks import root_phrase

        root = root_phrase if args.root else builders.whole
        return builders.referring_expressions(builders.read_refer(Path(args.refs)), content("instances"), args.split, dataset=args.name, root=root)
    if args.kind == "phrasecut":
        return builders.phrase_cut(content("refer"), content("image_data"))
    if args.kind == "gqa":
        return _gqa(args, content, builders.gqa)
    if args.kind == "lvis":
        from ovdense.data.lvis_subset import lvis_subset
        from ovdense.structures import ClassEntry

        lvis = content("annotations")
        return builders.lvis_modulation(lvis, keep=lvis_subset(lvis, args.share), clean=lambda name: ClassEntry(name=name).noun)
    from ovdense.text.mentions import mentions_of

    return builders.coco_captions(content("captions"), content("instances"), mentions_of)


def _gqa(args: argparse.Namespace, content: Callable[[str], Any], make: Callable[..., dict]) -> dict:
    """Return GQA's content; the sizes of images are those of the scene graphs or, without these, of the files in `--images`."""
    from ovdense.compat.images import upright_size

    if (args.scene_graphs is None) == (args.images is None):
        raise ValueError("either the scene graphs (train, val) or --images FOLDER (test splits) must be given, got " + ("both" if args.images else "neither"))

    @cache
    def size_of(image: str) -> tuple[int, int]:
        return upright_size(Path(args.images) / f"{image}.jpg")

    graphs, answers = (content(name) if getattr(args, name) else None for name in ("scene_graphs", "answers"))
    return make(content("questions"), graphs, answers, size_of=size_of)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        from ovdense.cli.output import require_other
        from ovdense.compat.atomic import replace_file

        require_other(args.out, [value for name, value in vars(args).items() if isinstance(value, str) and name not in ("out", "kind", "split")], "--out")
        made = build(args)
        out = Path(args.out)
        replace_file(out, json.dumps(made))
        print(f"{len(made['images'])} captions with {len(made['annotations'])} boxes written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

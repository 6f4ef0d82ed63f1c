"""Make grounding data from published files: python tools/build_grounding.py refcoco refs.p instances_train2014.json --split train --out OUT.json"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

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
    gqa = kind("gqa", "GQA: SPLIT_balanced_questions.json and SPLIT_sceneGraphs.json")
    gqa.add_argument("questions")
    gqa.add_argument("scene_graphs")
    gqa.add_argument("--answers", metavar="FILE", help="gqa_answer2id_by_type.json of MDETR's release, for question answering (default: none, for pretraining)")
    lvis = kind("lvis", "LVIS v1: a row of each class in an image, and of each class known to be absent from it")
    lvis.add_argument("annotations")
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
        return builders.gqa(content("questions"), content("scene_graphs"), content("answers") if args.answers else None)
    if args.kind == "lvis":
        from ovdense.structures import ClassEntry

        return builders.lvis_modulation(content("annotations"), clean=lambda name: ClassEntry(name=name).noun)
    from ovdense.text.mentions import mentions_of

    return builders.coco_captions(content("captions"), content("instances"), mentions_of)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        from ovdense.compat.atomic import replace_file

        made = build(args)
        out = Path(args.out)
        replace_file(out, json.dumps(made))
        print(f"{len(made['images'])} captions with {len(made['annotations'])} boxes written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""ovdense predict: find what a text says in photos; the same as demo/image_demo.py."""
import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovdense.cli.output import outcome, progress, table
from ovdense.cli.parser import PARTLY, Parser
from ovdense.cli.picture_names import PREDICTIONS, SHEET, picture_names, record_names, require_free
from ovdense.runs import Settings, add_data_root, clean_errors, use_data_root

MODEL = "mini"
DRAWN, PHOTOS = "desco_lvis_mini", "desco_coco_photos"
ROWS = 10  # of the table, an image


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Find what texts say in a photo, or in all photos of a folder. Writes the photos with boxes or masks, and predictions.json in COCO's form.",
        epilog='Examples: ovdense predict photo.jpg --texts "cat. sofa"; ovdense predict photos/ --model desco_coco_photos --weights CHECKPOINT '
        '--texts "a red chair left of the table. not: a stool". ovdense info --models lists the models.',
    )  # fmt: skip
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them; several may be given")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--texts", metavar="TEXT", help='what to look for, each with a full stop: "cat. a red chair left of the table. not: a stool"')
    asked.add_argument("--vocab", metavar="NAME|FILE", 
                       help="classes to look for: lvis, coco, voc, or a file (.txt, a name a line; .json); neither: those of folded --weights")  # fmt: skip
    asked.add_argument("--caption", metavar="TEXT", help='a caption whose phrases to find, for models that read captions: "a dog left of the red sofa"')
    asked.add_argument("--exemplars", metavar="DIR", help="example pictures, DIR/CLASS/*.jpg, perhaps with masks *.mask.png, in place of names; for segmenters")
    parser.add_argument("--phrases", metavar="TEXT", help='the phrases of --caption, with semicolons: "a dog; the red sofa" (default: its noun chunks)')
    parser.add_argument("--negatives", metavar="TEXT", default=(),
                        help="things that only compete: what is more like one of them is not reported; given as --texts")  # fmt: skip
    parser.add_argument("--prompt", choices=("names", "descriptions", "texts"), 
                        help="ask by names, descriptions, or whole texts (default: names; descriptions where --vocab is a JSON file of them)")  # fmt: skip
    parser.add_argument("--model", "--config", dest="config", metavar="NAME|CONFIG|RUN", default=MODEL,
                        help="a model's name, a config file, or the folder of a training run (default: %(default)s, a segmenter that "
                        "works at once; see ovdense info --models)")  # fmt: skip
    parser.add_argument("--weights", metavar="CHECKPOINT", 
                        help="checkpoint (default: the newest one in the run's folder, or in work_dirs/<config name>; none for a method "
                        "that is not trained)")  # fmt: skip
    add_data_root(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE", help="change the config, such as model.background_thr=0.6")
    parser.add_argument("--masks", metavar="FILE", help="weights of SAM (vit_b, vit_l or vit_h): boxes get masks by it, label maps its borders")
    parser.add_argument("--heat", action="store_true", help="write NAME_heat.jpg beside each picture: how well its places match each class; not for MDETR")
    parser.add_argument("--score-thr", type=float, default=0.3, metavar="SCORE", help="leave out detections below this score (default: %(default)s)")
    parser.add_argument("--out", default="demo_out", metavar="DIR", help="folder for what is written (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: an accelerator if there is one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as said:
        return _run(args, said)


def _run(args: argparse.Namespace, said: dict[str, Any]) -> int:
    with clean_errors():
        _check(args)
        use_data_root(args.data_root)
        from ovdense.compat.images import image_files
        from ovdense.zoo import config_path, run_folder

        files = list(dict.fromkeys(file for given in args.images for file in image_files(given)))
        names = picture_names(files)
        out = require_free(args.out, names, files, args.heat)
        config = config_path(args.config)
        weights = args.weights or run_folder(args.config) or _newest_weights(config, args.cfg_options)
        if config.stem == DRAWN and not all(_is_drawn(file) for file in files):
            print(f"note: this model was trained on drawn shapes and has never seen a photo; for photos pass --model {PHOTOS} (trained with ovdense train)")
        from ovdense.api import load

        predictor = load(config, weights, device=args.device, masks=args.masks, options=args.cfg_options)
        _ask(predictor, args)
        _check_heat(predictor, args)
        found = _predict(predictor, dict(zip(files, names)), out, args)
    said |= found.content | {"out": args.out, "errors": found.errors, "shares": found.shares}
    if not args.json and found.rows:
        table(*((("image", "class", "share of the pixels"), found.rows) if found.shares else (("image", "found", "score", "box (x1 y1 x2 y2)"), found.rows)))
    print(f"{len(found.content['images'])} of {len(files)} images done; pictures and predictions.json are in {args.out}")
    for message in found.errors:
        print(f"error: {message}", file=sys.stderr)
    return PARTLY if found.errors else 0


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not go together, or that cannot be."""
    from ovdense.text.wanted import wanted_of

    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr must lie in 0..1, got {args.score_thr}")
    if args.phrases is not None and args.caption is None:
        raise ValueError("--phrases are those of a caption: give --caption with them")
    asked = args.texts if args.texts is not None else args.vocab
    if args.prompt is not None and asked is None:
        raise ValueError("--prompt says how --texts or --vocab are asked; a caption and example pictures are asked as they are, so leave it out")
    if args.caption is not None and args.negatives:
        raise ValueError("--negatives go with --texts or --vocab; in a caption the phrases compete with each other")
    if asked is None and args.negatives:
        raise ValueError("--negatives compete with what is looked for: give --texts or --vocab with it")
    if asked is None and args.caption is None and args.exemplars is None and args.weights is None:
        raise ValueError('what to look for must be given: --texts "cat. a red chair", --vocab lvis, or --caption "a cat on a red chair"')
    if asked is not None:
        wanted_of(_wanted(args), negatives=args.negatives)


def _wanted(args: argparse.Namespace) -> Any:
    """Return --texts as a list, so that no text is taken for a file, or --vocab as it is."""
    from ovdense.text.phrases import parse_queries

    return args.vocab if args.texts is None else parse_queries(args.texts)


def _is_drawn(path: Path) -> bool:
    """Return whether an image is one of the embedded shapes."""
    from ovdense.data.roots import cache_root

    return path.resolve().is_relative_to(cache_root().resolve())


def _newest_weights(config: Path, options: dict[str, Any] | None) -> str | None:
    """Return the newest checkpoint of the config's own run; None for a method that is not trained, FileNotFoundError when there is none yet."""
    from ovdense.api import load_config
    from ovdense.methods.checkpoints import newest_readable
    from ovdense.runs import is_training_free
    from ovdense.zoo import card_of

    card = card_of(config)
    if is_training_free(load_config(config, options)):
        return None
    folder = Path("work_dirs") / config.stem
    newest = newest_readable(folder)
    if newest is None:
        raise FileNotFoundError(f"no weights in {folder} yet; make them with: ovdense train {card.config if card else config}, or give --weights CHECKPOINT")
    return str(newest)


def _ask(predictor: Any, args: argparse.Namespace) -> None:
    """Tell the predictor what to look for."""
    if args.caption is not None:
        phrases = [p.strip() for p in args.phrases.split(";") if p.strip()] if args.phrases else None
        print("phrases:", "; ".join(predictor.set_caption(args.caption, phrases)))
    elif args.exemplars is not None:
        print("classes:", ", ".join(predictor.set_exemplars(args.exemplars)))
    elif args.texts is not None or args.vocab is not None:
        predictor.set_vocabulary(_wanted(args), prompt=args.prompt, negatives=args.negatives)
    elif predictor.vocabulary is None:
        raise ValueError("what to look for must be given with --texts or --vocab; only weights of ovdense vocab fold bring it along")


@dataclass(kw_only=True)
class _Found:
    """What was found in all images: COCO's form, rows of the table, shares of the pixels of label maps, and what is wrong with files."""

    content: dict[str, Any]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, name: str, results: Any, score_thr: float) -> None:
        image_id, rows = len(self.content["images"]) + 1, self.content["annotations"]
        self.content["images"].append({"id": image_id, "file_name": name, "height": int(results.size_hw[0]), "width": int(results.size_hw[1])})
        rows += [{"id": len(rows) + n, **row, "image_id": image_id} for n, row in enumerate(results.to_coco(), start=1)]
        if results.label_map_HW is None:
            self.rows += _box_rows(name, results, score_thr)
        else:
            self.shares.append(_shares(results))
            self.rows += _area_rows(name, self.shares[-1])

    def write(self, out: Path, names: Sequence[str]) -> None:
        from ovdense.compat.atomic import replace_file

        self.content["categories"] = [{"id": k, "name": name} for k, name in enumerate(names)]
        replace_file(out / PREDICTIONS, json.dumps(self.content, indent=1, ensure_ascii=False))


def _check_heat(predictor: Any, args: argparse.Namespace) -> None:
    from ovdense.methods.base import OpenVocabModel

    if args.heat and type(predictor.model).score_maps is OpenVocabModel.score_maps:
        raise ValueError(f"--heat: {type(predictor.model).__name__} scores objects, not places, so that it has no heat maps; DesCo and all segmenters have")


def _predict(predictor: Any, name_of: Mapping[Path, str], out: Path, args: argparse.Namespace) -> _Found:
    """Predict and draw each file, one at a time, its pictures by their names in `out`; return what was found.

    Where something stops it (Ctrl-C), what was found until then is written as well.
    """
    from ovdense.compat.images import load_image, write_picture
    from ovdense.drawing import contact_sheet

    out.mkdir(parents=True, exist_ok=True)
    names, drawn, said_as = predictor.vocabulary.names, [], record_names(list(name_of))
    found = _Found(content={"info": predictor.model.protocol(), "images": [], "annotations": [], "categories": []})
    try:
        with progress("predicting", len(name_of)) as step:
            for (file, name), said in zip(name_of.items(), said_as, strict=True):
                step()
                try:
                    image = load_image(file)
                except (OSError, ValueError) as error:
                    found.errors.append(str(error))
                    continue
                results, picture = _look(predictor, image, out / name, args)
                names = results.names
                found.add(said, results, args.score_thr)
                drawn += [picture] if len(drawn) < 24 else []
        if len(drawn) > 1:
            write_picture(out / SHEET, contact_sheet(drawn, columns=4), quality=90)
    except BaseException:
        if found.content["images"]:
            with suppress(OSError):
                found.write(out, names)
                print(f"stopped: what was found in {len(found.content['images'])} of {len(name_of)} images is in {out / PREDICTIONS}", file=sys.stderr)
        raise
    found.write(out, names)
    return found


def _look(predictor: Any, image: Any, place: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    """Predict one image and write its pictures, PLACE.jpg and PLACE_heat.jpg; return the results and the picture."""
    from ovdense.compat.images import write_picture
    from ovdense.drawing import heat_sheet

    results = predictor.predict(image, score_thr=args.score_thr)
    picture = results.draw(score_thr=args.score_thr)
    write_picture(place.with_name(f"{place.name}.jpg"), picture, quality=92)
    if args.heat:
        maps = predictor.heat_maps(image)
        write_picture(place.with_name(f"{place.name}_heat.jpg"), heat_sheet(image, list(maps.values()), list(maps)), quality=92)
    return results, picture


def _box_rows(name: str, results: Any, score_thr: float) -> list[tuple[str, ...]]:
    """Return the rows of one image's boxes, its name in the first."""
    if not len(results):
        return [(name, f"nothing of score {score_thr} or more", "", "")]
    rows = [("", results.names[k], f"{s:.2f}", " ".join(f"{v:.0f}" for v in box)) for k, s, box in
            zip(results.labels[:ROWS].tolist(), results.scores[:ROWS].tolist(), results.boxes_xyxy[:ROWS].tolist())]  # fmt: skip
    more = [("", f"and {len(results) - ROWS} more", "", "")] if len(results) > ROWS else []
    return [(name, *rows[0][1:]), *rows[1:], *more]


def _area_rows(name: str, shares: dict[str, float]) -> list[tuple[str, ...]]:
    """Return the rows of one image's classes, its name in the first."""
    rows = [(name if n == 0 else "", kind, f"{share:.1%}") for n, (kind, share) in enumerate(list(shares.items())[:ROWS])]
    return rows + ([("", f"and {len(shares) - ROWS} more", "")] if len(shares) > ROWS else [])


def _shares(results: Any) -> dict[str, float]:
    """Return each class's share of the pixels, largest first; those that are not there are left out."""
    share = results.label_map_HW.flatten().bincount(minlength=len(results.names)) / results.label_map_HW.numel()
    return {results.names[k]: round(float(share[k]), 5) for k in share.argsort(descending=True, stable=True).tolist() if share[k] > 0}

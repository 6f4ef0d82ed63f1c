"""Find what a text says in photos: python demo/image_demo.py photo.jpg --texts "cat. a red chair left of the table" """
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ovdense.runs import clean_errors

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "desco_lvis_mini.py"
PHOTOS = "configs/desco_coco_photos.py"
EXIT_UNREADABLE = 1


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Find what texts say in a photo, or in all photos of a folder. Writes the photos with boxes, and predictions.json in COCO's form.",
        epilog='Example: python demo/image_demo.py photo.jpg --texts "cat. a red chair left of the table"',
    )
    parser.add_argument("image", help="an image file, or a folder of them")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--texts", metavar="TEXT", help='what to look for, each with a full stop: "cat. a red chair left of the table"')
    asked.add_argument("--vocab", metavar="NAME|FILE", 
                       help="classes to look for: lvis, coco, voc, or a file (.txt, a name a line; .json); neither: those of folded --weights")  # fmt: skip
    asked.add_argument("--caption", metavar="TEXT", help='a caption whose phrases to find, for models that read captions: "a dog left of the red sofa"')
    asked.add_argument("--exemplars", metavar="DIR", help="example pictures, DIR/CLASS/*.jpg, perhaps with masks *.mask.png, in place of names; for segmenters")
    parser.add_argument("--phrases", metavar="TEXT", help='the phrases of --caption, with semicolons: "a dog; the red sofa" (default: its noun chunks)')
    parser.add_argument("--negatives", metavar="TEXT", help="things that only compete: what is more like one of them is not reported; given as --texts")
    parser.add_argument("--prompt", choices=("names", "descriptions"), default="names", help="ask --vocab by names or by descriptions (default: %(default)s)")
    parser.add_argument("--config", default=str(CONFIG),
                        help=f"config of the model (default: configs/{CONFIG.name}, trained on drawn shapes; for photos: {PHOTOS})")  # fmt: skip
    parser.add_argument("--weights", metavar="CHECKPOINT", 
                        help="checkpoint (default: the newest one in work_dirs/<config name>; none for a method that is not trained)")  # fmt: skip
    parser.add_argument("--masks", metavar="FILE", help="weights of SAM (vit_b, vit_l or vit_h): boxes get masks by it, label maps its borders")
    parser.add_argument("--score-thr", type=float, default=0.3, metavar="SCORE", help="leave out detections below this score (default: %(default)s)")
    parser.add_argument("--out", default="demo_out", metavar="DIR", help="folder for what is written (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: an accelerator if there is one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        from ovdense.compat.images import image_files

        vocabulary = _vocabulary(args)
        files = image_files(args.image)
        weights = args.weights or (None if _needs_no_weights(args.config) else _newest_weights(args.config))
        if Path(args.config).resolve() == CONFIG and not _is_drawn(Path(args.image)):
            print(f"note: this model was trained on drawn shapes and has never seen a photo; for photos pass --config {PHOTOS} (trained with tools/train.py)")
        from ovdense.api import OpenVocabPredictor, load_model
        from ovdense.vision.sam import SamMasks

        masks = None if args.masks is None else SamMasks(args.masks, device=args.device)
        predictor = OpenVocabPredictor(load_model(args.config, weights, args.device), masks=masks)
        if args.caption is not None:
            phrases = [p.strip() for p in args.phrases.split(";") if p.strip()] if args.phrases else None
            print("phrases:", "; ".join(predictor.set_caption(args.caption, phrases)))
        elif args.exemplars is not None:
            print("classes:", ", ".join(predictor.set_exemplars(args.exemplars)))
        elif vocabulary is not None:
            predictor.set_vocabulary(vocabulary, prompt=args.prompt)
        elif predictor.vocabulary is None:
            raise ValueError("what to look for must be given with --texts or --vocab; only weights of tools/fold_vocabulary.py bring it along")
        found, unreadable = _predict(predictor, files, args)
    _print_table(found, args.score_thr)
    for message in unreadable:
        print(f"error: {message}", file=sys.stderr)
    return EXIT_UNREADABLE if unreadable else 0


def _vocabulary(args: argparse.Namespace):
    from ovdense.structures import ClassEntry, Vocabulary
    from ovdense.text.phrases import parse_queries
    from ovdense.text.vocabulary import load_vocabulary

    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr must lie in 0..1, got {args.score_thr}")
    if args.phrases is not None and args.caption is None:
        raise ValueError("--phrases are those of a caption: give --caption with them")
    if args.caption is not None:
        if args.negatives is not None:
            raise ValueError("--negatives go with --texts or --vocab; in a caption the phrases compete with each other")
        return None
    if args.texts is None and args.vocab is None and args.weights is None:
        raise ValueError('what to look for must be given: --texts "cat. a red chair", --vocab lvis, or --caption "a cat on a red chair"')
    if args.texts is None and args.vocab is None:
        if args.negatives is not None:
            raise ValueError("--negatives compete with what is looked for: give --texts or --vocab with it")
        return None
    wanted = load_vocabulary(args.vocab) if args.texts is None else Vocabulary.of(parse_queries(args.texts))
    rivals = () if args.negatives is None else tuple(ClassEntry(name=text, is_background=True) for text in parse_queries(args.negatives))
    return Vocabulary((*wanted, *rivals))


def _is_drawn(path: Path) -> bool:
    """Return whether an image or folder is one of the embedded shapes."""
    from ovdense.data.roots import cache_root

    return path.resolve().is_relative_to(cache_root().resolve())


def _needs_no_weights(config: str) -> bool:
    """Return whether the config's method is not trained."""
    from ovdense.api import load_config
    from ovdense.runs import is_training_free

    return is_training_free(load_config(config))


def _newest_weights(config: str) -> str:
    from ovdense.methods.checkpoints import newest_readable

    if not Path(config).is_file():
        raise FileNotFoundError(f"the config {config} does not exist")
    folder = Path("work_dirs") / Path(config).stem
    newest = newest_readable(folder)
    if newest is None:
        shown = Path(config).resolve().relative_to(ROOT) if Path(config).resolve().is_relative_to(ROOT) else config
        raise FileNotFoundError(f"no weights in {folder} yet; make them with: python tools/train.py {shown}, or give --weights CHECKPOINT")
    return str(newest)


def _predict(predictor, files: Sequence[Path], args: argparse.Namespace) -> tuple[list[tuple[Path, object]], list[str]]:
    """Predict and draw each file; return the results, and what is wrong with files that cannot be read."""
    from ovdense.api import load_image
    from ovdense.compat.atomic import replace_file
    from ovdense.compat.images import write_picture
    from ovdense.drawing import contact_sheet, draw_results

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    found, unreadable, drawn, images, annotations = [], [], [], [], []
    stems = [f.stem for f in files]
    for file in files:
        try:
            image = load_image(file)
        except (FileNotFoundError, ValueError) as error:
            unreadable.append(str(error))
            continue
        results = predictor.predict(image, score_thr=args.score_thr)
        found.append((file, results))
        picture = draw_results(image, results, score_thr=args.score_thr)
        unique = file.stem if stems.count(file.stem) == 1 else file.name.replace(".", "_")
        write_picture(out / f"{unique}.jpg", picture, quality=92)
        if len(drawn) < 24:
            drawn.append(picture)
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": file.name, "height": image.shape[0], "width": image.shape[1]})
        annotations += [{"id": len(annotations) + n, **row, "image_id": image_id} for n, row in enumerate(results.to_coco(), start=1)]
    if len(drawn) > 1:
        write_picture(out / "contact_sheet.jpg", contact_sheet(drawn, columns=4), quality=90)
    categories = [{"id": k, "name": name} for k, name in enumerate(predictor.vocabulary.names)]
    content = {"info": predictor.model.protocol(), "images": images, "annotations": annotations, "categories": categories}
    replace_file(out / "predictions.json", json.dumps(content, indent=1, ensure_ascii=False))
    print(f"{len(found)} of {len(files)} images done; pictures and predictions.json are in {out}")
    return found, unreadable


def _print_table(found, score_thr: float, most: int = 10) -> None:
    from rich.console import Console

    if found and found[0][1].label_map_HW is not None:
        Console().print(_area_table(found, most))
    elif found:
        Console().print(_box_table(found, score_thr, most))


def _box_table(found, score_thr: float, most: int):
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "found", "score", "box (x1 y1 x2 y2)")
    for file, results in found:
        for n in range(min(most, len(results))):
            box = " ".join(f"{v:.0f}" for v in results.boxes_xyxy[n].tolist())
            table.add_row(Text(file.name if n == 0 else ""), Text(results.names[int(results.labels[n])]), f"{float(results.scores[n]):.2f}", box)
        if len(results) > most:
            table.add_row("", f"and {len(results) - most} more", "", "")
        if len(results) == 0:
            table.add_row(Text(file.name), f"nothing of score {score_thr} or more", "", "")
    return table


def _area_table(found, most: int):
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "share of the pixels")
    for file, results in found:
        share = results.label_map_HW.flatten().bincount(minlength=len(results.names)) / results.label_map_HW.numel()
        order = [k for k in share.argsort(descending=True, stable=True).tolist() if share[k] > 0]
        for n, k in enumerate(order[:most]):
            table.add_row(Text(file.name if n == 0 else ""), Text(results.names[k]), f"{float(share[k]):.1%}")
        if len(order) > most:
            table.add_row("", f"and {len(order) - most} more", "")
    return table


if __name__ == "__main__":
    sys.exit(main())

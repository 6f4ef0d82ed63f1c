"""ovdense support show: a sheet of ReCo's support sets; the same as tools/show_support.py."""
import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="Draw, a row a class, the images that ReCo retrieves for it, how much the others support each place, and the seed that was taken.",
        epilog='Example: ovdense support show reco_mini --texts "cat. zebra" --data-root DATA',
    )  # fmt: skip
    parser.add_argument("config", help="config of a ReCo model, such as configs/reco_mini.py, or a model's name")
    parser.add_argument("--texts", required=True, metavar="TEXT", help='class names, each with a full stop: "cat. zebra"')
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="images a class, best first (default: %(default)s)")
    parser.add_argument("--out", default="support.jpg", metavar="FILE", help="picture (default: %(default)s)")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the archive (default: OVDENSE_DATA, else data)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors():
        if args.data_root:
            os.environ["OVDENSE_DATA"] = args.data_root
        import numpy as np

        from ovdense.api import load_model
        from ovdense.compat.images import write_picture
        from ovdense.methods.reco.model import ReCo
        from ovdense.structures import ClassEntry
        from ovdense.text.phrases import parse_queries

        model = load_model(args.config)
        if not isinstance(model, ReCo):
            raise ValueError(f"{args.config} must be of a ReCo model, got {type(model).__name__}")
        contexts = model.builder.contexts()
        rows = []
        for name in parse_queries(args.texts):
            rows.append(class_row(model, name, model.builder.said(ClassEntry(name=name)), contexts, args.columns))
        write_picture(args.out, np.concatenate(rows), **({"quality": 90} if Path(args.out).suffix.lower() in (".jpg", ".jpeg") else {}))
    print(f"written: {args.out}; the square is the seed, brighter is supported more")
    return 0


def class_row(model, name: str, said: Sequence[str], contexts, columns: int, px: int = 160):
    """Return one class's picture (H, W, 3): a caption, the images, and below them the support maps with their seeds."""
    import numpy as np
    from PIL import Image, ImageDraw

    from ovdense.data.center_crop import center_square

    found, support = model.builder.cosegment(said, contexts)
    height, width = found.support_NHW.shape[1:]
    sheet = Image.new("RGB", (columns * px, 2 * px + 18), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 3), f"{name}: {len(support)} images, similarity {support.images[0].details['similarity']:.2f} ... "
                      f"{support.images[-1].details['similarity']:.2f}", fill="black")  # fmt: skip
    low, high = float(found.support_NHW.min()), float(found.support_NHW.max())
    for n, image in enumerate(support.images[:columns]):
        picture = Image.fromarray(center_square(image.read(), px))
        share = ((found.support_NHW[n].cpu().numpy() - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
        heat = Image.fromarray(share).resize((px, px), Image.Resampling.BILINEAR)
        y, x = found.seed_yx_N2[n].tolist()
        box = [n * px + x * px / width, 18 + y * px / height, n * px + (x + 1) * px / width, 18 + (y + 1) * px / height]
        sheet.paste(picture, (n * px, 18))
        sheet.paste(Image.blend(picture.convert("L"), heat, 0.75).convert("RGB"), (n * px, 18 + px))
        for down in (0, px):
            draw.rectangle([box[0], box[1] + down, box[2], box[3] + down], outline=(255, 40, 40), width=3)
    return np.asarray(sheet)


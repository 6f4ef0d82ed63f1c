"""ovdense support show: a sheet of ReCo's support sets; the same as tools/show_support.py."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.runs import add_data_root, clean_errors, use_data_root


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
    add_data_root(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors():
        if args.columns < 1:
            raise ValueError(f"--columns must be at least 1, got {args.columns}")
        use_data_root(args.data_root)
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
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        write_picture(args.out, np.concatenate(rows), **({"quality": 90} if Path(args.out).suffix.lower() in (".jpg", ".jpeg") else {}))
    print(f"written: {args.out}; the frame is the seed, brighter is supported more")
    return 0


def class_row(model, name: str, said: Sequence[str], contexts, columns: int, px: int = 160):
    """Return one class's picture (H, W, 3): a title, the images, and below them the support maps, all on one scale; frames are the seeds."""
    import numpy as np

    from ovdense.data.center_crop import center_square
    from ovdense.drawing import draw_heat, named_rows
    from ovdense.drawing.canvas import blend_frame

    found, support = model.builder.cosegment(said, contexts)
    height, width = found.support_NHW.shape[1:]
    maps = found.support_NHW.cpu().numpy()
    low, high = float(maps.min()), float(maps.max())
    pictures, heats = [], []
    for n, image in enumerate(support.images[:columns]):
        picture = center_square(image.read(), px)
        y, x = found.seed_yx_N2[n].tolist()
        box = (x * px / width, y * px / height, (x + 1) * px / width, (y + 1) * px / height)
        for row, drawn in ((pictures, picture), (heats, draw_heat(picture, maps[n], low=low, high=high, min_side=1, scale=False))):
            canvas = drawn.astype(np.float32)
            blend_frame(canvas, box, 5, (0, 0, 0), 1.0)
            blend_frame(canvas, box, 3, (0, 255, 120), 1.0)
            row.append(canvas.round().clip(0, 255).astype(np.uint8))
    blank = [np.full((px, px, 3), 255, np.uint8)] * (columns - len(pictures))
    similar = [image.details["similarity"] for image in support.images]
    title = f"{name}: {len(support)} images, best first, similarity {similar[0]:.2f} to {similar[-1]:.2f}; the frame is the seed"
    rows = [np.concatenate(pictures + blank, axis=1), np.concatenate(heats + blank, axis=1)]
    return named_rows(rows, ["image", f"support\n{low:.3g} dark\n{high:.3g} bright"], title=title)

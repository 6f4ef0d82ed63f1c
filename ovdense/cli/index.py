"""ovdense index: embeddings of a folder of photos, kept for ReCo and OVDiff; and a search in it by text."""
import argparse
from collections.abc import Sequence
from typing import Any

from ovdense.cli.output import outcome, table
from ovdense.cli.parser import PARTLY, Parser
from ovdense.runs import add_data_root, clean_errors, use_data_root

DEFAULT = "configs/reco_mini.py"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Embed the photos of a folder and the folders below it with the retriever of a model, so that its support sets are found at once; or, with "
        "--find, look for the photos that a text says. Only photos that were never embedded are computed; broken ones are reported.",
        epilog='Example: ovdense index photos/ --find "zebra. a red car" --top 5',
    )  # fmt: skip
    parser.add_argument("folder", help="folder of photos")
    parser.add_argument("--model", "--config", dest="config", default=DEFAULT, metavar="NAME|CONFIG",
                        help="model whose retriever is used, one of ReCo (default: %(default)s, which needs no download)")  # fmt: skip
    parser.add_argument("--find", metavar="TEXT", help='what to look for, each with a full stop: "zebra. a red car"')
    parser.add_argument("--top", type=int, default=5, metavar="N", help="photos a text, best first (default: %(default)s)")
    parser.add_argument("--engine", choices=("exact", "faiss"), default="exact", help="compare with all photos, or by FAISS (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photos embedded together (default: %(default)s)")
    add_data_root(parser)
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: an accelerator if there is one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        return _index(args, found)


def _index(args: argparse.Namespace, found: dict[str, Any]) -> int:
    with clean_errors():
        from ovdense.api import load_model
        from ovdense.methods.dual_encoder import ImageEmbedder
        from ovdense.support.retrieval import folder_images, index_images
        from ovdense.text.phrases import parse_queries

        if args.top < 1:
            raise ValueError(f"--top must be at least 1, got {args.top}")
        use_data_root(args.data_root)
        texts = parse_queries(args.find) if args.find is not None else []
        files = folder_images(args.folder)
        model = load_model(args.config, device=args.device)
        if not hasattr(model, "retriever"):
            raise ValueError(f"the model must have a retriever (ReCo's have), {args.config} is of {type(model).__name__}; give one with --model")
        rules = model.builder.retrieval
        embedder = ImageEmbedder(model.retriever, px=rules.index_px, square=rules.index_square)
        index = index_images(files, embedder, batch_size=args.batch_size, progress=not args.json)
        hits = index.top_k(model.retriever.encode_text(texts).rows_MD, args.top, engine=args.engine) if texts else None
    found |= {"photos": len(index), "width": embedder.width, "kept_in": str(index.pool.folder), "left_out": {str(p): why for p, why in index.skipped.items()}}
    if hits is not None:
        rows = [(text, round(score, 4), str(index.paths[place])) for text, places, scores in zip(texts, hits.position_Qk.tolist(), hits.score_Qk.tolist())
                for place, score in zip(places, scores)]  # fmt: skip
        found["found"] = [{"text": text, "similarity": score, "file": file} for text, score, file in rows]
        if not args.json:
            table(("text", "similarity", "photo"), [(t, f"{s:.3f}", f) for t, s, f in rows], right=("similarity",))
    if not args.json:
        print(f"{len(index)} photos are indexed, {len(index.skipped)} left out; the embeddings are in {index.pool.folder}")
    return PARTLY if index.skipped else 0

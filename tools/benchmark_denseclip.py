"""DenseCLIP against the published arithmetic, re-enacted, in one run: python tools/benchmark_denseclip.py configs/denseclip_r50_ade20k.py

Published: every forward, and every window of a slide test, encodes the whole vocabulary anew, each name as a full sequence
[start, contexts, name, end, padding]; in training the text tower's parameters are in the graph. Both use the same image network.
"""
import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import PeakMemory, print_rows
from ovdense.runs import clean_errors

NAME_TOKENS = 5  # of a name with start and end, padding included


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure how many times faster DenseCLIP runs here than with the published arithmetic, at equal outputs: one forward, a slide test over a "
        "large image, a training step; peak memory beside each.",
        epilog="Take timings on an idle machine.",
    )
    parser.add_argument("config", help="config file of a DenseClip segmenter with contexts, such as configs/denseclip_r50_ade20k.py")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="image of the forward and of training (default: 512 512)")
    parser.add_argument("--large", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"), help="image of the slide test (default: 1024 2048)")
    parser.add_argument("--batch", type=int, default=4, help="images a training step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="times each is timed, after a warm-up, median (default: %(default)s; slide tests once)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=("forward", "slide", "train"), default=("forward", "slide", "train"), help="measure these (default: all)")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    return parser.parse_args(argv)


def whole_sequences(encoder, tokenized, contexts_BND):
    """Return what `encoder.encode_names` gives, computed as released: (B * K) padded sequences through the tower."""
    import torch

    text, (num_sets, num_contexts, _) = encoder.text, contexts_BND.shape
    ids_KL = torch.nn.functional.pad(tokenized.ids_BL, (0, max(0, NAME_TOKENS - tokenized.ids_BL.shape[1])))
    token_BKLD = text.token_embedding(ids_KL).expand(num_sets, -1, -1, -1)
    shared = contexts_BND[:, None].expand(-1, len(ids_KL), -1, -1)
    x = torch.cat([token_BKLD[:, :, :1], shared, token_BKLD[:, :, 1:]], 2).flatten(0, 1)
    length = x.shape[1]
    x = text.ln_final(text.transformer(x + text.positional_embedding[:length], attn_mask=text.attn_mask[:length, :length]))
    end = (ids_KL.argmax(-1) + num_contexts).repeat(num_sets)
    return (x[torch.arange(len(x)), end] @ text.text_projection).unflatten(0, (num_sets, -1))


class PublishedArithmetic:
    """While open, text is encoded at every forward, name by name in full, with the tower's parameters in the graph."""

    def __init__(self, model) -> None:
        self.model = model

    def __enter__(self) -> None:
        model, encoder = self.model, self.model.text_encoder
        encoder.encode_names = lambda tokenized, contexts: whole_sequences(encoder, tokenized, contexts)
        score = type(model).score
        model.score = lambda features, text: score(model, features, model.encode_text(model.vocabulary))  # each window anew
        encoder.requires_grad_(True)

    def __exit__(self, *_) -> None:
        self.model.text_encoder.requires_grad_(False)
        del self.model.text_encoder.encode_names, self.model.score


def sample(output):
    """Return enough of an output to compare, so that the other arithmetic has the same memory left."""
    return output[..., ::8, ::8].clone() if hasattr(output, "clone") else output


def both(model, run: Callable[[], object], repeats: int) -> tuple[list[dict], list]:
    """Return a row for each arithmetic, published first, and what `run` gave with each."""
    rows, outputs = [], []

    def measure(name: str) -> None:
        outputs.append(sample(run()))  # warms up
        times = []
        with PeakMemory() as memory:
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
        rows.append({"arithmetic": name, "seconds": sorted(times)[len(times) // 2], "peak_mib": memory.mib})

    with PublishedArithmetic(model):
        measure("published")
    measure("ours")
    slow = rows[0]
    for row in rows:
        row["times_faster"] = round(slow["seconds"] / row["seconds"], 2)
        row["memory_share"] = round(row["peak_mib"] / slow["peak_mib"], 2)
    for row in rows:
        row["seconds"], row["peak_mib"] = round(row["seconds"], 3), round(row["peak_mib"])
    return rows, outputs


def testing(model, size: Sequence[int], repeats: int, *, slide: bool) -> list[dict]:
    """Return the rows of a forward, or a slide test, over one image of noise; with how far the outputs differ."""
    import torch

    from ovdense.methods.denseclip.model import SegmentTest

    test = model.test
    if slide and test.crop is None:
        raise ValueError("the config's model must be tested by windows (model.test.crop) to measure a slide test; leave slide out of --only")
    model.eval()
    model.test = test if slide else SegmentTest()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rows, (theirs, ours) = both(model, lambda: model.segment(image), repeats)
    model.test = test
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    return [row | {"largest_difference": f"{difference:.1e}"} for row in rows]


def training(model, size: Sequence[int], batch: int, repeats: int) -> list[dict]:
    """Return the rows of a training step without the optimizer."""
    import torch

    from ovdense.structures import ImageTarget

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *size, generator=generator)
    label = torch.randint(0, len(model.trained_on), (batch, *size), generator=generator)
    targets = [ImageTarget(image_id=b, file_name="", size_hw=tuple(size), original_size_hw=tuple(size), boxes_xyxy=torch.zeros(0, 4),
                           labels=torch.zeros(0, dtype=torch.long), label_map_HW=label[b]) for b in range(batch)]  # fmt: skip
    model.train()

    def step() -> float:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        loss = sum(model.loss(images, targets).values())
        loss.backward()
        return loss.item()

    rows, (theirs, ours) = both(model, step, repeats)
    model.zero_grad(set_to_none=True)
    return [row | {"largest_difference": f"{abs(ours - theirs) / abs(theirs):.1e}"} for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        import torch

        from ovdense.api import load_model
        from ovdense.methods.denseclip.model import DenseClip

        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        model = load_model(args.config, None, "cpu")
        if not isinstance(model, DenseClip) or getattr(getattr(model, "pixel_text", None), "num_contexts", 0) == 0 or model.decoder.task != "semantic":
            raise ValueError(f"the published arithmetic is that of a DenseClip segmenter with contexts, {args.config} has another model")
        model.set_vocabulary(model.trained_on)
        numbers = {"config": args.config, "classes": len(model.trained_on), "threads": args.threads, "torch": torch.__version__}
        title = f"{args.config}: {len(model.trained_on)} classes, {args.threads} threads"
        if "forward" in args.only:
            numbers["forward"] = testing(model, args.size, args.repeats, slide=False)
            print_rows(f"{title}; forward, {args.size[0]}x{args.size[1]}", numbers["forward"])
        if "train" in args.only:
            numbers["train"] = training(model, args.size, args.batch, max(1, args.repeats - 1))
            print_rows(f"{title}; training step, {args.batch} images of {args.size[0]}x{args.size[1]}, without the optimizer", numbers["train"])
        if "slide" in args.only:
            numbers["slide"] = testing(model, args.large, 1, slide=True)
            print_rows(f"{title}; slide test, {args.large[0]}x{args.large[1]}", numbers["slide"])
    if args.out:
        replace_file(args.out, json.dumps(numbers, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""DesCo against the published arithmetic, re-enacted, in one run: python tools/benchmark_published.py configs/desco_lvis.py

Published: every prompt chunk runs the image backbone, the pyramid, the language model and the head anew, captions are
padded to 256 tokens, and fusion holds its matrices of similarities. Both use the same kernels for all the rest. A few chunks of
each are timed and all are counted; outputs are compared.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import PeakMemory, median_seconds, print_rows
from ovdense.runs import clean_errors

PADDED = 256


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure how many times faster DesCo runs here than with the published arithmetic, at equal outputs: 1,203 LVIS classes by names "
        "(40 a chunk) and by descriptions (8 a chunk), and a training step.",
        epilog="Take timings on an idle machine.",
    )
    parser.add_argument("config", help="config file of a Desco model, such as configs/desco_lvis.py")
    parser.add_argument("--checkpoint", help="weights (default: fresh ones, their scores spread; the time is the same)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="image size (default: 480 640)")
    parser.add_argument("--chunks", type=int, default=2, metavar="N", help="chunks timed; all are counted (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="times each is timed, after a warm-up; the median counts (default: %(default)s)")
    parser.add_argument("--prefilter", type=float, default=0.25, metavar="SHARE", help="share of chunks for the row with the pre-filter (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images a training step (default: %(default)s)")
    parser.add_argument("--only", choices=("test", "train"), help="leave out the other half")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    return parser.parse_args(argv)


def published_attention(attention):
    """Return the forward of the released fusion attention: one matrix of similarities, clamped, two softmaxes over it."""
    import torch

    def forward(image_BVC, text_BLD, valid_BL):
        heads = attention._heads
        places = heads(attention.v_proj(image_BVC)) * (attention.v_proj.out_features // attention.num_heads) ** -0.5
        similarity = (places @ heads(attention.l_proj(text_BLD)).transpose(2, 3)).clamp(-50_000, 50_000)
        for_text = similarity.transpose(2, 3)
        to_text = (for_text - for_text.amax(-1, keepdim=True)).clamp(-50_000, 50_000).softmax(-1)
        to_image = similarity.masked_fill(~valid_BL[:, None, None], float("-inf")).softmax(-1)
        p = attention.dropout if attention.training else 0.0
        from_text = torch.dropout(to_image, p, attention.training) @ heads(attention.values_l_proj(text_BLD))
        from_image = torch.dropout(to_text, p, attention.training) @ heads(attention.values_v_proj(image_BVC))
        return attention.out_v_proj(from_text.transpose(1, 2).flatten(2)), attention.out_l_proj(from_image.transpose(1, 2).flatten(2))

    return forward


class PublishedArithmetic:
    """While open, the model's fusion attention computes as released."""

    def __init__(self, model) -> None:
        self.attentions = [block.fuse.attn for block in model.head.blocks]

    def __enter__(self) -> None:
        for attention in self.attentions:
            attention.forward = published_attention(attention)

    def __exit__(self, *_) -> None:
        for attention in self.attentions:
            del attention.forward


def tokens_padded_to(tokenized, length: int):
    """Return the captions padded to `length` tokens."""
    from torch.nn import functional as F

    extra = length - tokenized.ids_BL.shape[1]
    if extra < 0:
        raise ValueError(f"captions must have at most {length} tokens, got {tokenized.ids_BL.shape[1]}")
    return replace(tokenized, ids_BL=F.pad(tokenized.ids_BL, (0, extra)), valid_BL=F.pad(tokenized.valid_BL, (0, extra)),
                   char_spans=tuple((*spans, *[None] * extra) for spans in tokenized.char_spans))


def published_chunk(model, images, prompt):
    """Return class scores (Q, K), boxes and centerness of a chunk, everything computed anew."""
    from ovdense.heads.anchors import decode_deltas, grid_anchors
    from ovdense.heads.similarity import pool_tokens
    from ovdense.text.phrases import phrase_map

    features = model.encode_image(images)
    tokenized = tokens_padded_to(model.text_encoder.tokenizer.encode([prompt.caption], max_tokens=PADDED), PADDED)
    out = model.head([f.tensor_BCHW for f in features], model.text_encoder.encode(tokenized), tokenized.valid_BL)
    anchors = grid_anchors(out.sizes_hw, [f.stride for f in features], scale=model.criterion.anchor_scale)
    tokens_KL = phrase_map(tokenized, 0, prompt.spans_per_class).tokens_PL
    return pool_tokens(out.tokens.logit_BQL.sigmoid(), tokens_KL)[0], decode_deltas(out.delta_BQ4, anchors)[0], out.centerness_BQ[0].sigmoid()


def testing(model, images, prompt: str, max_classes: int, args: argparse.Namespace) -> dict:
    """Return one row: seconds an image over all chunks, for both arithmetics (and with the pre-filter), and how far the outputs differ."""
    from ovdense.text.prompts import chunk_vocabulary
    from ovdense.text.vocabulary import load_vocabulary

    vocabulary = load_vocabulary("lvis")
    prompts = chunk_vocabulary(vocabulary, model.text_encoder.tokenizer, prompt=prompt, max_classes=max_classes)
    step = max(1, len(prompts) // args.chunks)
    model.test = replace(model.test, max_classes=max_classes, prefilter_keep=1.0)
    model.set_vocabulary(vocabulary, prompt=prompt)
    text = model.text()
    picked = list(range(0, len(prompts), step))[: args.chunks]
    features = model.encode_image(images)
    image_seconds = median_seconds(lambda: model.encode_image(images), args.repeats)
    chunk_seconds = median_seconds(lambda: [list(model.score(features, [text[n]])) for n in picked], args.repeats) / len(picked)
    model.test = replace(model.test, prefilter_keep=args.prefilter)
    look_seconds = median_seconds(lambda: model.promising(features, [text[n] for n in picked]), args.repeats) / len(picked)
    ours = [next(model.score(features, [text[n]]))[0] for n in picked]
    with PublishedArithmetic(model):
        published_seconds = median_seconds(lambda: [published_chunk(model, images, prompts[n]) for n in picked], args.repeats) / len(picked)
        theirs = [published_chunk(model, images, prompts[n]) for n in picked]
    off = max(float((o.score_QK - t[0]).abs().max()) for o, t in zip(ours, theirs))
    off_box = max(float((o.boxes_Q4 - t[1]).abs().max()) for o, t in zip(ours, theirs))
    whole, published = image_seconds + len(prompts) * chunk_seconds, len(prompts) * published_seconds
    filtered = image_seconds + len(prompts) * (look_seconds + args.prefilter * chunk_seconds)
    tokens = sum(len(c.hidden_LD) for c in text) / len(text)
    spread = max(float(o.score_QK.max() - o.score_QK.min()) for o in ours)
    return {
        "prompt": prompt, "chunks": len(prompts), "tokens": round(tokens), "published_s": round(published, 1), "ours_s": round(whole, 1),
        "times_faster": round(published / whole, 2), f"keep_{args.prefilter:g}": round(published / filtered, 2), "scores_span": round(spread, 3),
        "scores_off": f"{off:.0e}", "boxes_off_px": f"{off_box:.0e}",
    }  # fmt: skip


def training(model, args: argparse.Namespace) -> list[dict]:
    """Return two rows, one training step each: ours, and with captions padded and matrices held as published."""
    import torch
    from benchmark import noise_batch

    batch = noise_batch(tuple(args.size), args.batch)
    data = model.data_preprocessor(batch, True)
    model.train()
    tokenizer = model.text_encoder.tokenizer
    encode = tokenizer.encode

    def step() -> None:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        sum(model(**data, mode="loss").values()).backward()

    def measured(name: str) -> dict:
        step()
        with PeakMemory() as memory:
            seconds = median_seconds(step, args.repeats)
        return {"arithmetic": name, "seconds": seconds, "peak_gib": memory.mib / 1024}

    ours = measured("ours")
    with PublishedArithmetic(model):
        tokenizer.encode = lambda *given, **named: tokens_padded_to(encode(*given, **named), PADDED)
        try:
            published = measured("published")
        finally:
            del tokenizer.encode
    model.eval()
    return [
        {"arithmetic": row["arithmetic"], "seconds": round(row["seconds"], 2), "times_faster": round(published["seconds"] / row["seconds"], 2),
         "peak_gib": round(row["peak_gib"], 2), "memory_share": round(row["peak_gib"] / published["peak_gib"], 2)}
        for row in (published, ours)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        import torch

        from ovdense.api import load_model
        from ovdense.methods.desco.model import Desco

        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        model = load_model(args.config, args.checkpoint, "cpu")
        if not isinstance(model, Desco):
            raise ValueError(f"the published arithmetic is that of Desco, {args.config} has {type(model).__name__}")
        if args.checkpoint is None:
            model.head.embedding_head.log_scale.data.fill_(-4.0)  # fresh scores are all alike: spread them, so that comparing them means something
        image = torch.randint(0, 256, (3, *args.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = model.data_preprocessor({"images": [image]}, False)["images"]
        numbers = {"config": args.config, "size_hw": list(args.size), "threads": args.threads, "torch": torch.__version__}
        if args.only != "train":
            with torch.inference_mode():
                numbers["test"] = [testing(model, images, "names", 40, args), testing(model, images, "descriptions", 8, args)]
            print_rows(f"{args.config}: one image of {args.size[0]}x{args.size[1]}, 1,203 LVIS classes, {args.threads} threads", numbers["test"])
        if args.only != "test":
            numbers["train"] = training(model, args)
            print_rows(f"a training step, {args.batch} images of {args.size[0]}x{args.size[1]}, without the optimizer", numbers["train"])
    if args.out:
        replace_file(args.out, json.dumps(numbers, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

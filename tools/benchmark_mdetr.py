"""MDETR against the published arithmetic, re-enacted, in one run: python tools/benchmark_mdetr.py

Published: frozen norms as a product and a sum after every convolution, attention that also returns its weights, image features
repeated and projected for every 32 captions, every layer's heads, detections as lists of numbers. Both use the same kernels for all the
rest and the same weights; outputs are compared.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median_high

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import PeakMemory, interleaved_seconds, print_rows
from ovdense.runs import clean_errors

CHUNK = 32
ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure how many times faster MDETR runs here than with the published arithmetic, at equal outputs: a forward pass, a training step, "
        "and LVIS names on one image, one name a caption (published) and many.",
        epilog="Weights are random, and a BERT of RoBERTa's size with embedded word pieces reads the text: times do not depend on it. "
        "Take timings on an idle machine.",
    )
    config = ROOT / "configs" / "mdetr_lvis_r101.py"
    parser.add_argument("--config", default=str(config), help="config of a Mdetr model with a ResNet (default: mdetr_lvis_r101.py)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="image size (default: 480 640)")
    parser.add_argument("--names", type=int, nargs="+", default=(20, 100), metavar="N", help="numbers of LVIS names asked (default: 20 100)")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="captions computed together by ours (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="times each is timed, in turns; the median counts (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images a training step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--whole-lvis", action="store_true", help="also ask all 1,203 names, many a caption, and count what the detections take")
    parser.add_argument("--only", choices=("test", "train"), help="leave out the other half")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    return parser.parse_args(argv)


def published_norm(conv, x):
    """Return the release's frozen norm after a convolution: a product and a sum."""
    from torch.nn import functional as F

    y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    scale = conv.scale.reshape(1, -1, 1, 1) * (conv.var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
    return y * scale + (conv.shift.reshape(1, -1, 1, 1) - conv.mean.reshape(1, -1, 1, 1) * scale)


def published_attention(module, query, key, value, valid=None):
    """Return torch's multi-head attention as nn.MultiheadAttention calls it by default: sequence first, with the weights averaged over heads."""
    from torch.nn import functional as F

    turned = [t.transpose(0, 1) for t in (query, key, value)]
    out, _ = F.multi_head_attention_forward(
        *turned, turned[0].shape[-1], module.num_heads, module.in_proj_weight, module.in_proj_bias, None, None, False, module.dropout,
        module.out_proj.weight, module.out_proj.bias, training=module.training, key_padding_mask=None if valid is None else ~valid, need_weights=True,
    )
    return out.transpose(0, 1)


class PublishedArithmetic:
    """While open, norms and attention compute as released."""

    def __enter__(self) -> None:
        from ovdense.layers.joint_transformer import PackedAttention
        from ovdense.vision.resnet import Bottleneck, FoldedConv, FrozenNormResNet

        self.kept = [(kind, kind.forward) for kind in (FoldedConv, PackedAttention, FrozenNormResNet, Bottleneck)]
        FoldedConv.forward, PackedAttention.forward = published_norm, published_attention
        FrozenNormResNet.forward, Bottleneck.forward = _plain_resnet, _plain_block

    def __exit__(self, *_) -> None:
        for kind, forward in self.kept:
            kind.forward = forward


def _plain_block(block, x):
    from torch.nn import functional as F

    y = F.relu(block.conv2(F.relu(block.conv1(x), inplace=True)), inplace=True)
    y = block.conv3(y)
    y += x if block.shortcut is None else block.shortcut(x)
    return F.relu(y, inplace=True)


def _plain_resnet(net, images):
    from torch.nn import functional as F

    from ovdense.structures import FeatureMap

    x = F.max_pool2d(F.relu(net.stem(images), inplace=True), 3, 2, 1)
    for stage in net.stages:
        x = stage(x)
    return [FeatureMap(tensor_BCHW=x, stride=32)]


def build(args: argparse.Namespace):
    """Return the config's model with random weights and a stand-in for its text encoder."""
    import torch

    from ovdense.api import load_config
    from ovdense.methods.mdetr.model import Mdetr
    from ovdense.registry import MODELS
    from ovdense.text.encoders import BertTextEncoder
    from ovdense.vision.resnet import FrozenNormResNet

    cfg = load_config(args.config)
    if cfg.model.type is not Mdetr or cfg.model.backbone.type is not FrozenNormResNet:
        raise ValueError(f"the published arithmetic is that of Mdetr with a ResNet, {args.config} has {cfg.model.type.__name__}")
    cfg.model.text_encoder = dict(type=BertTextEncoder, weights=None, frozen=False)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("head.box.layers.2", "transformer.slots")):
            parameter.data.mul_(4)  # fresh boxes are all alike: spread them, so that comparing them means something
    return model


def published_lvis(model, images, prompts, target):
    """Return the release's detections of one image: backbone once, everything else for every 32 captions, lists of numbers."""
    import torch

    from ovdense.methods.mdetr.decode import object_scores, pixel_boxes
    from ovdense.methods.mdetr.transformer import ImageTokens

    maps = model.backbone(images)
    valid = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
    found = []
    for start in range(0, len(prompts), CHUNK):
        group = prompts[start : start + CHUNK]
        text = torch.nn.utils.rnn.pad_sequence([p.text_LC for p in group], batch_first=True)
        real = torch.arange(text.shape[1])[None] < torch.tensor([len(p.text_LC) for p in group])[:, None]
        repeated = [type(maps[-1])(tensor_BCHW=maps[-1].tensor_BCHW.repeat(len(group), 1, 1, 1), stride=32)]
        one = model.transformer.image_tokens(repeated, valid.repeat(len(group), 1, 1))
        image = ImageTokens(source_BCHW=one.source_BCHW, valid_BHW=one.valid_BHW, positions_BPC=one.positions_BPC)
        out, *_ = model.run(image, text, real, last_only=False)
        for logit, boxes, prompt in zip(out.logit_NBQT[-1], out.boxes_NBQ4[-1], group):
            scores, pixels = object_scores(logit), pixel_boxes(boxes, target.original_size_hw)
            found += [{"category_id": int(prompt.classes[0]), "bbox": b, "score": s} for b, s in zip(pixels.tolist(), scores.tolist())]
    return found


def compared(what: str, ours, published, repeats: int) -> dict:
    """Return the row of both, timed in turns after one call each that warms up and shows the memory."""

    def as_published() -> None:
        with PublishedArithmetic():
            published()

    memory = {}
    for name, run in (("ours", ours), ("published", as_published)):
        with PeakMemory() as memory[name]:
            run()
    seconds = {name: median_high(times) for name, times in interleaved_seconds({"ours": ours, "published": as_published}, repeats, warm_up=0).items()}
    return {"what": what, "published_s": round(seconds["published"], 2), "ours_s": round(seconds["ours"], 2),
            "times_faster": round(seconds["published"] / seconds["ours"], 2), "off": "",
            "published_gib": round(memory["published"].mib / 1024, 2), "ours_gib": round(memory["ours"].mib / 1024, 2)}  # fmt: skip


def testing(model, args: argparse.Namespace) -> list[dict]:
    """Return the rows of a forward pass and of LVIS names on one image."""
    from dataclasses import replace

    import torch

    from ovdense.structures import ImageTarget, Vocabulary
    from ovdense.text.vocabulary import load_vocabulary

    size = tuple(args.size)
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = ImageTarget(image_id=0, file_name="", size_hw=size, original_size_hw=size, boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    images = model.data_preprocessor({"images": [pixels]}, False)["images"]
    lvis = load_vocabulary("lvis")
    rows = []

    def compare(what: str, ours, published, same=None) -> None:
        rows.append(compared(what, ours, published, args.repeats) | {"off": same() if same else ""})

    caption = "a man in a red shirt rides a brown horse next to two dogs on the beach"

    def forward(last_only: bool):
        tokenized = model.tokenize([caption])
        text = model.transformer.text_projection(model.text_encoder.encode(tokenized))
        return model.run(model.encode_image(images, [size]), text, tokenized.valid_BL, last_only=last_only)[0]

    def forward_off() -> str:
        mine = forward(True)
        with PublishedArithmetic():
            theirs = forward(False)
        return f"{float((mine.logit_NBQT[-1] - theirs.logit_NBQT[-1]).abs().max()):.0e}"

    compare("forward", lambda: forward(True), lambda: forward(False), forward_off)
    for count in args.names:
        vocabulary = Vocabulary(lvis.entries[:count])

        def ask(prompts: str, vocabulary=vocabulary):
            model.test = replace(model.test, prompts=prompts, pairs=args.pairs)
            model.set_vocabulary(vocabulary)
            return model.text()

        alone = ask("one")

        def one():
            return model.predict(images, [target])[0]

        def scores_off(alone=alone) -> str:
            mine = one()
            with PublishedArithmetic():
                theirs = published_lvis(model, images, alone, target)
            best = torch.tensor(sorted((d["score"] for d in theirs), reverse=True))
            return f"{float((mine.scores - best).abs().max()):.0e}"

        compare(f"{count} names, one a caption", one, lambda alone=alone: published_lvis(model, images, alone, target), scores_off)
        published_seconds, published_gib = rows[-1]["published_s"], rows[-1]["published_gib"]
        captions = len(ask("many"))
        with PeakMemory() as memory:
            one()
        many = median_high(interleaved_seconds({"many": one}, args.repeats, warm_up=0)["many"])
        rows.append({"what": f"{count} names, {captions} captions", "published_s": published_seconds, "ours_s": round(many, 2), "off": "",
                     "times_faster": round(published_seconds / many, 2), "published_gib": published_gib, "ours_gib": round(memory.mib / 1024, 2)})  # fmt: skip
    if args.whole_lvis:
        model.test = replace(model.test, prompts="many")
        model.set_vocabulary(lvis)
        captions = len(model.text())
        with PeakMemory() as memory:
            seconds = _once(one)
        result = one()
        held = result.boxes_xyxy.nbytes + result.scores.nbytes + result.labels.nbytes
        what = f"1203 names, {captions} captions: {len(result)} detections, {held / 2**20:.1f} MiB"
        rows.append({"what": what, "ours_s": round(seconds, 2), "ours_gib": round(memory.mib / 1024, 2)})
    return rows


def _once(run) -> float:
    import time

    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def steps(model, losses, config: str):
    """Return two functions, each a whole step of training: the config's optimizer and average, and the release's (engine.py and util/optim.py)."""
    from copy import deepcopy

    import torch
    from mmengine.model import ExponentialMovingAverage
    from mmengine.optim import build_optim_wrapper

    from ovdense.api import load_config

    wrapper = load_config(config).optim_wrapper
    optim = build_optim_wrapper(model, wrapper)
    average = ExponentialMovingAverage(model, momentum=0.0002)
    groups = [{"params": group["params"], "lr": group["lr"]} for group in optim.param_groups]
    plain = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4, foreach=False, fused=False)
    kept, max_norm = deepcopy(model).state_dict(), wrapper.clip_grad.max_norm

    def ours() -> None:
        optim.update_params(losses())
        average.update_parameters(model)

    def published() -> None:
        loss = losses()
        plain.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=False)
        plain.step()
        with torch.no_grad():
            now = model.state_dict()
            for name, value in kept.items():
                value.copy_(value * 0.9998 + (1.0 - 0.9998) * now[name])

    return ours, published


def training(model, args: argparse.Namespace) -> list[dict]:
    """Return the rows of forward and backward, and of a whole training step: with clipping, optimizer and moving average of the weights."""
    import torch

    from ovdense.structures import ImageTarget

    size, generator = tuple(args.size), torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(args.batch)]
    corners = torch.rand(6, 2, generator=generator) * 0.5
    boxes = torch.cat([corners, corners + 0.2], 1) * torch.tensor([size[1], size[0]] * 2)
    caption = "a man in a red shirt rides a brown horse next to two dogs on the beach"
    spans = (((0, 5),), ((9, 20),), ((27, 40),), ((49, 57),), ((49, 57),), ((61, 70),))
    targets = [ImageTarget(image_id=b, file_name="", size_hw=size, original_size_hw=size, boxes_xyxy=boxes, labels=torch.zeros(6, dtype=torch.int64),
                           caption=caption, positive_spans=spans) for b in range(args.batch)]  # fmt: skip
    data = model.data_preprocessor({"images": pixels, "targets": targets}, True)
    model.train()

    def losses() -> torch.Tensor:
        torch.manual_seed(0)
        return sum(v for k, v in model(**data, mode="loss").items() if k.startswith("loss"))

    def gradients() -> None:
        model.zero_grad(set_to_none=True)
        losses().backward()

    rows = [compared(f"forward and backward, {args.batch} images", gradients, gradients, args.repeats)]
    ours, published = steps(model, losses, args.config)
    rows.append(compared(f"training step, {args.batch} images", ours, published, args.repeats) | {"published_gib": "", "ours_gib": ""})
    model.eval()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        import torch

        torch.set_num_threads(args.threads)
        model, rows = build(args), []
        if args.only != "train":
            with torch.inference_mode():
                rows += testing(model, args)
        if args.only != "test":
            rows += training(model, args)
        rows = [{key: row.get(key, "") for key in rows[0]} for row in rows]
        print_rows(f"{Path(args.config).name}: {args.size[0]}x{args.size[1]}, {args.threads} threads", rows)
    if args.out:
        numbers = {"config": args.config, "size_hw": list(args.size), "threads": args.threads, "torch": torch.__version__, "rows": rows}
        replace_file(args.out, json.dumps(numbers, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

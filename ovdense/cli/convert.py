"""ovdense convert: published GLIP, DesCo, DenseCLIP, MDETR weights -> a checkpoint of ours; the same as tools/convert_weights.py."""
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import outcome
from ovdense.cli.parser import Parser
from ovdense.runs import Settings, clean_errors

UNUSED = "head.cls_logits."  # the published files carry it, nothing reads it; mmdet's leave it out


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Convert a published GLIP, DesCo-GLIP, DenseCLIP or MDETR checkpoint, or mmdet's of GLIP, to our names, check that it fits the "
        "config's model, and write it. Nothing in the file can run code.",
        epilog="Then: ovdense test configs/desco_lvis.py DST, or ovdense train with --cfg-options load_from=DST",
    )  # fmt: skip
    parser.add_argument("src", help="published file")
    parser.add_argument("dst", help="checkpoint to write, such as desco_glip_tiny_ours.pth")
    parser.add_argument("--config", default="configs/desco_lvis.py", help="config whose model it must fit, or a model's name (default: %(default)s)")
    parser.add_argument("--keep-bgr", action="store_true",
                        help="GLIP, DesCo: leave the first convolution as published, for BGR images (default: turn its channels; ours are RGB)")  # fmt: skip
    parser.add_argument("--clip", metavar="FILE", help="DenseCLIP: continue the text tower's 13 positions with those of this CLIP file, for names of more than "
                        "five tokens; the config's text_encoder then has context_length=77")  # fmt: skip
    parser.add_argument("--to-published", action="store_true",
                        help="DenseCLIP, back: SRC is a checkpoint of ours, DST gets a plain state dict with the published names")  # fmt: skip
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE",
                        help="change the config, such as model.text_encoder.context_length=77")  # fmt: skip
    parser.add_argument("--no-ema", action="store_true", help="of an MDETR file take `model` instead of `model_ema`, which its published figures are of")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        _convert(args, found)
    return 0


def _convert(args: argparse.Namespace, found: dict[str, Any]) -> None:
    with clean_errors():
        import torch

        from ovdense.api import load_config
        from ovdense.methods.checkpoints import model_state, write_checkpoint
        from ovdense.registry import MODELS

        src, dst = Path(args.src).expanduser(), Path(args.dst).expanduser()
        if dst.is_dir() or dst.exists() and src.exists() and dst.samefile(src):
            raise ValueError(f"DST must be another file than SRC, and no folder, got {dst}")
        cfg = load_config(args.config, args.cfg_options)
        if args.to_published:
            found |= _back(model_state(src), src, dst, args.config, cfg)
            return
        mdetr = _read_mdetr(src)
        published = model_state(src) if mdetr is None else mdetr.get("model") or mdetr
        if args.keep_bgr and (mdetr is not None or _is_denseclip(published)):
            raise ValueError(f"--keep-bgr is for files of GLIP and DesCo, which were trained on BGR; {src} was trained on RGB, so leave it out")
        if mdetr is not None:
            ours = _converted_mdetr(mdetr, src, ema=not args.no_ema)
        else:
            ours = _denseclip(published, args.clip) if _is_denseclip(published) else _converted(published, src, bgr_to_rgb=not args.keep_bgr)
        expected = {n: t.shape for n, t in MODELS.build(cfg.model).state_dict().items()}
        unused = [n for n in expected if n.startswith(UNUSED) and n not in ours]
        ours |= {n: torch.zeros(expected[n]) for n in unused}
        _require_same(expected, {n: t.shape for n, t in ours.items()}, src, args.config)
        write_checkpoint(dst, {"state_dict": ours, "meta": {"converted_from": src.name, "channels": "BGR" if args.keep_bgr else "RGB"}})
    if unused:
        print(f"{', '.join(unused)}: not in {src} and read by nothing, set to zero")
    for part in dict.fromkeys(name.partition(".")[0] for name in ours):
        tensors = [t for name, t in ours.items() if name.partition(".")[0] == part]
        print(f"{part:13} {len(tensors):4} tensors {sum(t.numel() for t in tensors):12,} numbers")
    numbers = sum(t.numel() for t in ours.values())
    print(f"{'all':13} {len(ours):4} tensors {numbers:12,} numbers, of {len(published)} tensors in {src}; written to {dst}")
    found |= {"written": str(dst), "tensors": len(ours), "numbers": numbers, "published_tensors": len(published), "set_to_zero": unused}


def _converted(published: Mapping, src: Path, *, bgr_to_rgb: bool) -> dict:
    """Return the tensors under our names; ValueError where the file is of another model."""
    from ovdense.methods.desco.convert import convert_published, split_published

    try:
        lacking = [part for part, tensors in split_published(published).items() if not tensors]
        if lacking:
            raise ValueError(f"{src} must hold a whole GLIP or DesCo-GLIP model, it has no {' and no '.join(lacking)}")
        return convert_published(published, bgr_to_rgb=bgr_to_rgb)
    except KeyError as error:
        raise ValueError(f"{src}: {error.args[0]}") from None


def _is_denseclip(published: Mapping) -> bool:
    from ovdense.methods.denseclip.convert import is_denseclip

    return is_denseclip(published)


def _denseclip(published: Mapping, clip: str | None) -> dict:
    """Return DenseCLIP's tensors under our names; with a CLIP file, its positions after the released ones."""
    from ovdense.compat.weights import read_state_dict
    from ovdense.methods.denseclip.convert import convert_published, with_longer_contexts

    try:
        ours = convert_published(published)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if clip is None:
        return ours
    state = read_state_dict(clip)
    if "positional_embedding" not in state:
        raise ValueError(f"{clip} must be a CLIP model with the text tower's positional_embedding, got names like {list(state)[:3]}")
    return with_longer_contexts(ours, state["positional_embedding"])


def _back(ours: Mapping, src: Path, dst: Path, config: str, cfg) -> dict[str, Any]:
    """Write a DenseCLIP checkpoint of ours as a plain state dict with the published names."""
    import torch

    from ovdense.compat.atomic import atomic_write
    from ovdense.methods.denseclip.convert import to_published
    from ovdense.registry import MODELS

    _require_same({n: t.shape for n, t in MODELS.build(cfg.model).state_dict().items()}, {n: t.shape for n, t in ours.items()}, src, config)
    with atomic_write(dst) as file:
        torch.save(to_published(ours), file)
    print(f"{len(ours)} tensors under the published names written to {dst}")
    return {"written": str(dst), "tensors": len(ours)}


def _read_mdetr(src: Path) -> dict | None:
    """Return a released MDETR file's weights, which lie beside settings of their own kind; None for another file."""
    from ovdense.methods.mdetr.convert import is_published, read_published

    try:
        content = read_published(src)
    except ValueError:
        return None
    return content if is_published(content.get("model") or content) else None


def _converted_mdetr(content: Mapping, src: Path, *, ema: bool) -> dict:
    """Return MDETR's tensors under our names; ValueError where the file is of another model."""
    from ovdense.methods.mdetr.convert import convert_published

    try:
        return convert_published(content, ema=ema)
    except KeyError as error:
        raise ValueError(f"{src}: {error.args[0]}") from None


def _require_same(expected: Mapping, got: Mapping, src: Path, config: str) -> None:
    """Raise ValueError unless both have the same names and shapes."""
    missing, unknown = [n for n in expected if n not in got], [n for n in got if n not in expected]
    wrong = [f"{n} {tuple(got[n])} for {tuple(expected[n])}" for n in expected if n in got and got[n] != expected[n]]
    if missing or unknown or wrong:
        kinds = {"missing": missing, "unknown": unknown, "of wrong shape": wrong}
        parts = [f"{len(names)} {kind}, such as {', '.join(names[:3])}" for kind, names in kinds.items() if names]
        raise ValueError(f"{src} does not fit the model of {config}: {'; '.join(parts)}; give the config of this architecture with --config")


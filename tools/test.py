"""Test a checkpoint: python tools/test.py configs/desco_lvis_mini.py work_dirs/desco_lvis_mini/iter_2000.pth"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ovdense.runs import add_run_arguments, build_runner, clean_errors, clean_run_errors, configure, require_training_free


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test a checkpoint: prints the metrics with their protocol, and writes test_metrics.json to the work dir.")
    parser.add_argument("config", help="config file that the checkpoint was trained with")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file; or a run's folder, or the last_checkpoint in it, for its newest one; "
                        "none for a method that is not trained")  # fmt: skip
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="FILE.json", help="write the detections in COCO's result form, and the metrics to FILE.metrics.json")
    parser.add_argument("--show-dir", metavar="DIR", help="draw the detections of every image into this folder")
    parser.add_argument("--show-score-thr", type=float, default=0.3, metavar="SCORE", help="draw only detections of at least this score (default: %(default)s)")
    parser.add_argument("--prompt", choices=("names", "descriptions", "texts"),
                        help="ask for classes by name, by description, or by names that are whole texts (default: the config's)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        if args.out is not None and Path(args.out).suffix != ".json":
            raise ValueError(f"--out must end with .json, got {args.out!r}; pickles are not written, since reading one can run code")
        cfg = configure(args)
        if cfg.get("test_dataloader") is None or cfg.get("test_evaluator") is None:
            raise ValueError(f"{args.config} must have test_dataloader, test_cfg and test_evaluator to be tested")
        from ovdense.methods.checkpoints import load_weights, model_state

        if args.checkpoint is None:
            require_training_free(cfg, "give a checkpoint after the config")
        else:
            model_state(args.checkpoint)  # a wrong file is said before the model is built
        cfg.load_from, cfg.resume = None, False
        if args.prompt is not None:
            cfg.test_dataloader.dataset.prompt = args.prompt
        _add_outputs(cfg, args)
        runner = build_runner(cfg)
        if args.checkpoint is not None:
            load_weights(getattr(runner.model, "module", runner.model), args.checkpoint)
        runner.test_loop  # noqa: B018  (builds the data set: what is missing is said before testing)
    with clean_run_errors():
        runner.test()
    return 0


def _add_outputs(cfg, args: argparse.Namespace) -> None:
    hooks = list(cfg.get("custom_hooks") or [])
    if args.show_dir is not None:
        hooks.append(dict(type="OverlayHook", folder=args.show_dir, score_thr=args.show_score_thr))
    if args.out is not None:
        hooks = [h for h in hooks if _class_name(h["type"]) != "ReportHook"]
        hooks.append(dict(type="ReportHook", also=str(Path(args.out).with_suffix(".metrics.json"))))
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type="PredictionWriter", path=args.out)]
    cfg.custom_hooks = hooks


def _class_name(kind) -> str:
    """Return the name of a config's type: a class, or in a dumped config its dotted path."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


if __name__ == "__main__":
    sys.exit(main())

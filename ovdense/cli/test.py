"""ovdense test: test a checkpoint, or compare results that are there; the same as tools/test.py."""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import Report, outcome, require_other
from ovdense.cli.own_data import add_own_data_arguments, use_own_data
from ovdense.cli.parser import Parser
from ovdense.runs import add_run_arguments, build_runner, clean_errors, clean_run_errors, configure, require_training_free
from ovdense.zoo import run_folder


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Test a checkpoint: prints the metrics with their protocol, and writes test_metrics.json to the work dir. "
        "Or, with --compare, say in which numbers and protocol lines results differ.",
        epilog="Example: ovdense test configs/desco_lvis_mini.py work_dirs/desco_lvis_mini --show-dir overlays",
    )  # fmt: skip
    parser.add_argument("config", nargs="?", help="config file that the checkpoint was trained with, a model's name, or a run's folder")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file; or a run's folder, or the last_checkpoint in it, for its newest one; "
                        "none for a method that is not trained, or after a run's folder")  # fmt: skip
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="FILE.json", help="write the detections in COCO's result form, and the metrics to FILE.metrics.json")
    parser.add_argument("--show-dir", metavar="DIR", help="draw the detections of every image into this folder")
    parser.add_argument("--show-score-thr", type=float, default=0.3, metavar="SCORE", help="draw only detections of at least this score (default: %(default)s)")
    parser.add_argument("--prompt", choices=("names", "descriptions", "texts"),
                        help="ask for classes by name, by description, or by names that are whole texts (default: the config's)")
    parser.add_argument("--per-class", action="store_true", help="print the numbers of each class, too")
    parser.add_argument("--compare", nargs="+", metavar="RESULT.json",
                        help="print numbers of results side by side, and the protocol lines that differ; nothing is tested. Ends with 1 if any line differs")
    add_own_data_arguments(parser, training=False)
    args = parser.parse_args(argv)
    if args.compare is None and args.config is None:
        parser.error("a config is required, or --compare A.json B.json")
    if args.compare is not None and args.config is not None:
        parser.error(f"--compare takes results only, got the config {args.config}, too")
    return args


def compare(files: Sequence[str], found: dict[str, Any] | None = None) -> int:
    """Print what differs between results, and note it in `found`; return 1 if a protocol line does."""
    from rich.console import Console

    from ovdense.evaluation.comparison import comparison, differing_lines, read_report, short_names

    if len(files) < 2:
        raise ValueError(f"--compare needs at least two results, got {len(files)}")
    reports = [read_report(file) for file in files]
    names, differing = short_names(files), differing_lines([report["protocol"] for report in reports])
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(comparison(names, reports))  # a file has no edge
    if found is not None:
        found |= {"metrics": {n: r["metrics"] for n, r in zip(names, reports)}, "differing": {key: dict(zip(names, values)) for key, values in differing}}
    return int(bool(differing))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        if args.compare is not None:
            with clean_errors():
                return compare(args.compare, found)
        _test(args, found)
    return 0


def _test(args: argparse.Namespace, found: dict[str, Any]) -> None:
    with clean_errors():
        if args.out is not None and Path(args.out).suffix != ".json":
            raise ValueError(f"--out must end with .json, got {args.out!r}; pickles are not written, since reading one can run code")
        cfg = configure(args)
        args.checkpoint = args.checkpoint or run_folder(args.config)
        if cfg.get("test_dataloader") is None or cfg.get("test_evaluator") is None:
            raise ValueError(f"{args.config} must have test_dataloader, test_cfg and test_evaluator to be tested")
        use_own_data(cfg, args)
        if args.out is not None:
            require_other(args.out, (args.checkpoint, *_files_of(cfg.test_dataloader.dataset)), "--out")
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
    report = Report(Path(runner.work_dir) / "test_metrics.json")
    with clean_run_errors():
        runner.test()
    found |= report.read() or {}


def _files_of(settings: Any) -> list[Path]:
    """Return the JSON files that a data set's settings name."""
    from ovdense.compat.paths import data_path

    return [data_path(value, settings.get("data_root")) for value in settings.values() if str(value).endswith(".json")]


def _add_outputs(cfg, args: argparse.Namespace) -> None:
    hooks = list(cfg.get("custom_hooks") or [])
    if args.show_dir is not None:
        hooks.append(dict(type="OverlayHook", folder=args.show_dir, score_thr=args.show_score_thr))
    if args.out is not None or args.per_class:
        hooks = [h for h in hooks if _class_name(h["type"]) != "ReportHook"]
        also = None if args.out is None else str(Path(args.out).with_suffix(".metrics.json"))
        hooks.append(dict(type="ReportHook", also=also, per_class=args.per_class))
    if args.out is not None:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type="PredictionWriter", path=args.out)]
    cfg.custom_hooks = hooks


def _class_name(kind) -> str:
    """Return the name of a config's type: a class, or in a dumped config its dotted path."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


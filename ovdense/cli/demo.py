"""ovdense demo: the web page."""
import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.parser import Parser
from ovdense.runs import add_data_root, clean_errors, use_data_root


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description="Open a web page on this machine: drop a picture, type classes or descriptions, choose a model, see boxes, masks, heat maps "
        'and times. Nothing is fetched from elsewhere. Needs pip install "ovdense[web]".',
        epilog="Example: ovdense demo --model mini --model desco_coco_photos=work_dirs/desco_coco_photos",
    )  # fmt: skip
    parser.add_argument("--model", action="append", metavar="NAME|CONFIG[=CHECKPOINT]", dest="models",
                        help="a model to offer, with its weights where it needs some; may be given several times (default: mini, and those that have weights "
                        "in work_dirs)")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only; whoever reaches it may ask)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0 for any that is free (default: %(default)s)")
    add_data_root(parser)
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: an accelerator if there is one)")
    parser.add_argument("--max-upload-mib", type=float, default=16.0, metavar="MIB", help="largest file of a picture (default: %(default)s)")
    parser.add_argument("--max-megapixels", type=float, default=50.0, metavar="N", help="most pixels of a picture, in millions (default: %(default)s)")
    parser.add_argument("--max-classes", type=int, default=100, metavar="N", help="most classes of a question (default: %(default)s)")
    parser.add_argument("--max-waiting", type=int, default=8, metavar="N", help="questions that may wait; further ones are refused (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors():
        from ovdense.web.engine import Engine
        from ovdense.web.limits import Limits
        from ovdense.web.server import LOOPBACK, build_app

        if not 0 <= args.port < 65536:
            raise ValueError(f"--port must lie in 0..65535, got {args.port}")
        use_data_root(args.data_root)
        limits = Limits(upload_mib=args.max_upload_mib, megapixels=args.max_megapixels, classes=args.max_classes, waiting=args.max_waiting)
        engine = Engine(choices(args.models), limits=limits, device=args.device)
        app = build_app(engine, hosts=LOOPBACK if args.host in LOOPBACK else ("*",))
        serve(app, args.host, args.port, list(engine.choices))
    return 0


def choices(models: Sequence[str] | None) -> list[Any]:
    """Return the models to offer: those given, or "mini" and all that have weights in work_dirs.

    ValueError for one that needs weights and has none. Nothing is loaded yet: what else is wrong is said when it is first asked.
    """
    from ovdense.api import load_config
    from ovdense.methods.base import is_training_free
    from ovdense.methods.checkpoints import newest_readable
    from ovdense.web.engine import ModelChoice
    from ovdense.zoo import card_of, cards, config_path, run_folder

    if models is None:
        found = [(card.config, newest_readable(Path("work_dirs") / card.config)) for card in cards() if (Path("work_dirs") / card.config).is_dir()]
        given = [("mini", None), *((config, weights) for config, weights in found if weights is not None)]
    else:
        given = [(name, weights or None) for name, _, weights in (model.partition("=") for model in models)]
    made, again = [], Counter(name for name, _ in given)
    if len(set(given)) < len(given):
        raise ValueError(f"each --model must be given once, got {', '.join(models)}")
    for name, weights in given:
        path, given_weights, weights = config_path(name), weights, weights or run_folder(name)
        card = card_of(path)
        if card is not None and weights is None and card.needs not in ("nothing", "photos"):
            raise ValueError(f"{name} needs {card.advice}. Give it as --model {name}=CHECKPOINT")
        if card is None and weights is None and not is_training_free(load_config(path)):
            raise ValueError(f"the model of {name} is trained: give its weights as --model {name}=CHECKPOINT")
        about = f"{card.method}, answers with {card.task}. {card.about}" if card is not None else str(path)
        shown = f"{name}={given_weights}" if again[name] > 1 and given_weights else name  # one model with several weights
        made.append(ModelChoice(name=shown, config=path, weights=weights, about=about))
    return made


def serve(app: Any, host: str, port: int, names: Sequence[str]) -> None:
    """Serve until interrupted; the address is printed once it is taken. ValueError where it cannot be."""
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(128)  # who comes from now on waits until the server is up
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port, or 0 for any") from None
    shown = f"[{host}]" if ":" in host else host
    print(f"ovdense demo: http://{shown}:{taken.getsockname()[1]} ({', '.join(names)}); stop it with Ctrl-C", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("note: everyone who reaches this address may ask", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
        # without a log_config: uvicorn's own closes the log files of all that runs in this process
        uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=5)).run(sockets=[taken])

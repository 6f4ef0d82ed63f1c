"""ovdense vocab describe: descriptions for the classes of a vocabulary; the same as tools/describe_vocabulary.py."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import require_other
from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
EPILOG = """
examples:
  WordNet's definitions for COCO's classes, without any model:
    ovdense vocab describe coco --from lvis --out descriptions/coco.json
  your own file first, then a server's answers, then the definitions:
    export MY_KEY=...
    ovdense vocab describe names.txt --hand mine.json --from server lvis --base-url https://HOST/v1 --model NAME \\
        --api-key-env MY_KEY --requests-per-minute 60 --out descriptions/names.json
  a language model in a local folder:
    ovdense vocab describe names.txt --from local --model-folder models/instruct --device cuda --out descriptions/names.json

Then: description_file="descriptions/names.json" in the config's data set, or load the file as the vocabulary itself.
Interrupt it whenever you like: answers are kept in the file of --cache, and a second run asks only for what is missing.
The output is written anew each time: corrections belong into a file for --hand.
"""


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="Write a file that says for each class of a vocabulary what kind of thing it is, what can be seen of it, and what it is easily taken for. "
        "Each of the three comes from the first source that has it: files of --hand, then those of --from, in the order given.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("vocabulary", help="coco, lvis, voc, a .txt file of names, a .json file of classes, an annotation file, or a Pascal VOC folder")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .json")
    parser.add_argument("--hand", nargs="+", default=[], metavar="FILE",
                        help="files written by hand, the first counts most: {class name: description} and other forms")  # fmt: skip
    parser.add_argument("--from", nargs="+", default=["own"], metavar="SOURCE", dest="sources",
                        help="own (what the vocabulary itself says), server, local, or a vocabulary with definitions: lvis, .. (default: own)")  # fmt: skip
    server = parser.add_argument_group("server", "any that speaks OpenAI's chat completions")
    server.add_argument("--base-url", metavar="URL", help="such as http://127.0.0.1:8000/v1")
    server.add_argument("--model", metavar="NAME", help="name of the model on the server")
    server.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable that holds the key (default: no key is sent); the key is never written")
    server.add_argument("--json-mode", action="store_true", help="ask for JSON by response_format, where the server knows it")
    server.add_argument("--requests-per-minute", type=float, metavar="N", help="at most (default: no limit)")
    server.add_argument("--workers", type=int, default=4, metavar="N", help="questions at once (default: %(default)s)")
    server.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for one reply (default: %(default)s)")
    server.add_argument("--tries", type=int, default=6, metavar="N", help="requests for one answer when the server is busy or fails (default: %(default)s)")
    local = parser.add_argument_group("local model")
    local.add_argument("--model-folder", metavar="DIR", help="folder of a causal language model: config.json, *.safetensors, tokenizer; its code is not run")
    local.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, .. (default: %(default)s)")
    both = parser.add_argument_group("both")
    both.add_argument("--temperature", type=float, metavar="T", help="(default: the server's own; a local model takes the likeliest words)")
    both.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default: the server's own; 256 for a local model)")
    both.add_argument("--attempts", type=int, default=3, metavar="N", help="answers asked for when they are broken (default: %(default)s)")
    both.add_argument("--cache", metavar="FILE", help="file that keeps every answer (default: the output's name with .answers.jsonl)")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not go together."""
    for source, needed, others in (("server", ("base_url", "model"), ("api_key_env",)), ("local", ("model_folder",), ())):
        given = [name for name in (*needed, *others) if getattr(args, name) is not None]
        missing = [name for name in needed if getattr(args, name) is None]
        if source in args.sources and missing:
            raise ValueError(f"--from {source} needs {' and '.join(_flag(name) for name in missing)}")
        if source not in args.sources and given:
            raise ValueError(f"{_flag(given[0])} is for {source!r}, which --from does not name; got --from {' '.join(args.sources)}")
    repeated = [source for source in args.sources if args.sources.count(source) > 1]
    if repeated:
        raise ValueError(f"--from must name each source once, got {repeated[0]!r} twice")
    out = Path(args.out).expanduser()
    if out.suffix != ".json" or out.is_dir():
        raise ValueError(f"--out must be a .json file, got {out}")
    require_other(out, (args.vocabulary, *args.hand, *args.sources), "--out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def build_model(source: str, args: argparse.Namespace) -> Any:
    """Return the language model that "server" or "local" stands for."""
    if source == "local":
        from ovdense.text.language_models import LocalModel

        return LocalModel(args.model_folder, temperature=args.temperature, max_tokens=256 if args.max_tokens is None else args.max_tokens, device=args.device)
    from ovdense.text.chat_server import ChatServer, ServerSpec

    return ChatServer(ServerSpec(
        base_url=args.base_url, model=args.model, api_key_env=args.api_key_env, temperature=args.temperature, max_tokens=args.max_tokens,
        json_mode=args.json_mode, requests_per_minute=args.requests_per_minute, timeout=args.timeout, tries=args.tries))  # fmt: skip


def ask(vocabulary: Any, before: Any, model: Any, cache: Any, args: argparse.Namespace) -> Any:
    """Return the model's Answers about the classes of which `before`, what earlier sources say, leaves something open."""
    from rich.console import Console
    from rich.progress import Progress

    from ovdense.text.describe import FIELDS, ask_model

    wanted = [k for k, entry in enumerate(before) if not entry.is_background and not all(getattr(entry, field) for field in FIELDS)]
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"asking {model.name}", total=None)
        return ask_model(vocabulary, wanted, model, cache, workers=args.workers, attempts=args.attempts,
                         progress=lambda done, total: bar.update(task, completed=done, total=total))  # fmt: skip


def gather(vocabulary: Any, args: argparse.Namespace, cache_path: Path) -> tuple[list[tuple[str, Any]], dict[str, str], list[str]]:
    """Return the sources in order, each with what it says; the classes for which a model failed, and why; and notes for the user."""
    from ovdense.text.answer_cache import AnswerCache
    from ovdense.text.describe import from_definitions, from_file, merge
    from ovdense.text.vocabulary import load_vocabulary

    sources, failed, notes = [(f"by hand: {path}", from_file(vocabulary, path)) for path in args.hand], {}, []
    cache = AnswerCache(cache_path) if {"server", "local"} & set(args.sources) else None
    for source in args.sources:
        if source == "own":
            sources.append((f"own: {args.vocabulary}", vocabulary))
        elif source in ("server", "local"):
            model = build_model(source, args)
            answers = ask(vocabulary, merge(vocabulary, sources)[0], model, cache, args)
            sources.append((f"{source}: {model.name}", answers.described))
            failed |= answers.failed
            notes.append(f"{model.name}: {answers.num_asked} classes asked about, {answers.num_cached} answers from {cache_path}")
        else:
            sources.append((f"definitions: {source}", from_definitions(vocabulary, load_vocabulary(source))))
    if "own" not in args.sources and any(entry.descriptions for entry in vocabulary):
        notes.append(f"{args.vocabulary} has descriptions of its own, which are left out; name own in --from to keep them")
    return sources, failed, notes


def print_counts(counts: dict[str, dict[str, int]], vocabulary: Any) -> None:
    """Print how many classes got what from where."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    fields = list(next(iter(counts.values())))
    table = Table(title=f"what is said of {len(vocabulary)} classes, and where it comes from")
    table.add_column("source")
    for field in fields:
        table.add_column(field, justify="right")
    for name, row in counts.items():
        table.add_row(escape(name), *(str(row[field]) for field in fields))
    table.add_row("nowhere", *(str(len(vocabulary) - sum(row[field] for row in counts.values())) for field in fields), style="dim")
    Console().print(table)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors():
        from ovdense.text.describe import merge, write_descriptions
        from ovdense.text.language_models import AskingError
        from ovdense.text.vocabulary import load_vocabulary

        check_args(args)
        out = Path(args.out).expanduser()
        cache_path = Path(args.cache).expanduser() if args.cache else out.with_suffix(".answers.jsonl")
        vocabulary = load_vocabulary(args.vocabulary)
        try:
            sources, failed, notes = gather(vocabulary, args, cache_path)
        except AskingError as error:
            raise ValueError(f"{error} (good answers are kept in {cache_path}; run again to go on)") from None
        except KeyboardInterrupt:
            print(f"interrupted; the answers so far are kept in {cache_path}: run again to go on", file=sys.stderr)
            return EXIT_INTERRUPTED
        merged, counts = merge(vocabulary, sources)
        write_descriptions(out, merged, [name for name, _ in sources])
    print_counts(counts, vocabulary)
    for note in notes:
        print(note)
    print(f"written to {out}")
    if failed:
        print(f"error: no good answer for {len(failed)} classes; run again to ask for them once more:", file=sys.stderr)
        for name, reason in failed.items():
            print(f"  {name}: {reason}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


"""Parsers of the command line: argparse's, which says what a misspelt option, choice or command was probably meant to be.

A command's module has `parse_args(argv, prog)` and `main(argv, prog)`, which returns the exit code; it is imported when it is called.
"""
import argparse
import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

DONE, PARTLY, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = "exit codes: 0 all done, 1 done but for what was reported, 2 asked for what cannot be, 130 interrupted"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean X?" for the known names that are like `name`, or nothing."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


class Parser(argparse.ArgumentParser):
    """argparse's parser: unknown options and choices are said first of all, with those that they are like; `--json` by `json=True`."""

    def __init__(self, *args, json: bool = False, epilog: str | None = None, **kwargs) -> None:
        super().__init__(*args, epilog=epilog, **kwargs)
        if json:
            self.add_argument("--json", action="store_true", help="print the outcome as JSON on stdout; all other words go to stderr")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        args = list(sys.argv[1:] if args is None else args)
        if "" in args:  # as a path it would be the current folder
            self.error('an argument is empty (""); is a variable of the shell not set?')
        if self._subparsers is None:  # with commands, their own parsers look at what is theirs
            for text in args:
                if text == "--":
                    break
                name = text.partition("=")[0]
                if name.startswith("--") and " " not in name and not any(known.startswith(name) for known in self._option_string_actions):
                    shown = [known for action in self._actions if action.help != argparse.SUPPRESS for known in action.option_strings]
                    self.error(f"unknown option {name}{did_you_mean(name, [k for k in shown if k.startswith('--')])}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"must be one of {', '.join(known)}, got {value!r}{did_you_mean(str(value), known)}")

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(USER_ERROR)


@dataclass(frozen=True)
class Commands:
    """Commands by name, each with the module that has its `main` and a line that says what it does."""

    prog: str
    about: str
    table: Mapping[str, tuple[str, str]]
    epilog: str = ""

    def help(self) -> str:
        width = max(map(len, self.table)) + 2
        rows = "\n".join(f"  {name:{width}}{line}" for name, (_, line) in self.table.items())
        return (f"usage: {self.prog} COMMAND ...\n\n{self.about}\n\ncommands:\n{rows}\n\n"
                f"{self.prog} COMMAND --help says all about one of them.\n{self.epilog}")  # fmt: skip

    def run(self, argv: Sequence[str]) -> int:
        """Run the command that `argv` begins with; return its exit code."""
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(self.help(), end="", file=sys.stdout if argv else sys.stderr)
            return DONE if argv else USER_ERROR
        name, *rest = argv
        if name not in self.table:
            kind = "option" if name.startswith("-") else "command"
            hint = did_you_mean(name, list(self.table)) or did_you_mean(name, ["--help", "--version"])
            print(f"error: unknown {kind} {name!r} of {self.prog}{hint or '; it has: ' + ', '.join(self.table)}", file=sys.stderr)
            return USER_ERROR
        module = importlib.import_module(self.table[name][0])
        return module.main(rest, f"{self.prog} {name}")

"""ovdense vocab: vocabularies shown, described, folded into a model."""
from collections.abc import Sequence

from ovdense.cli.parser import Commands

COMMANDS = Commands(
    prog="ovdense vocab",
    about="Vocabularies: built in, from your files, with descriptions.",
    table={
        "list": ("ovdense.cli.vocab_list", "list the built-in vocabularies"),
        "show": ("ovdense.cli.vocab_show", "print the classes of a vocabulary, and what it says of them"),
        "describe": ("ovdense.cli.vocab_describe", "write descriptions: from definitions, a language model, or by hand"),
        "fold": ("ovdense.cli.vocab_fold", "write a trained DesCo for one vocabulary, without its language model"),
    },
)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    return COMMANDS.run(list(argv or ()))

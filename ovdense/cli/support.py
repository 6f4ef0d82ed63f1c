"""ovdense support: example pictures that stand for classes, built or looked at."""
from collections.abc import Sequence

from ovdense.cli.parser import Commands

COMMANDS = Commands(
    prog="ovdense support",
    about="Example pictures that stand for classes: drawn, retrieved, or your own.",
    table={
        "build": ("ovdense.cli.support_build", "build OVDiff's support images and prototypes of a vocabulary"),
        "show": ("ovdense.cli.support_show", "draw a sheet of what ReCo retrieves for classes, and its seeds"),
    },
)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    return COMMANDS.run(list(argv or ()))

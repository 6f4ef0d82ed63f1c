"""The command line: `ovdense predict photo.jpg --texts "cat. sofa"`. Only the command that is called is imported."""
import sys
from collections.abc import Sequence

from ovdense.cli.parser import EXIT_CODES, INTERRUPTED, Commands

COMMANDS = Commands(
    prog="ovdense",
    about="Open-vocabulary dense prediction: find and segment what a text says.",
    table={
        "predict": ("ovdense.cli.predict", "find what texts say in photos"),
        "demo": ("ovdense.cli.demo", "open a web page: drop a picture, type classes, see boxes and masks"),
        "train": ("ovdense.cli.train", "train a model from a config"),
        "test": ("ovdense.cli.test", "test a checkpoint, or compare results"),
        "index": ("ovdense.cli.index", "index a folder of photos, and search it by text"),
        "support": ("ovdense.cli.support", "build or look at the example pictures of classes (OVDiff, ReCo)"),
        "convert": ("ovdense.cli.convert", "read published weights (GLIP, DesCo, DenseCLIP, MDETR)"),
        "annotations": ("ovdense.cli.annotations", "convert annotations: COCO, YOLO, VOC, LabelMe, CVAT"),
        "export": ("ovdense.cli.export", "write a model for another runtime: ONNX, torch.export"),
        "vocab": ("ovdense.cli.vocab", "show, describe or fold a vocabulary"),
        "info": ("ovdense.cli.info", "print versions, devices, optional parts, and where caches lie"),
    },
    epilog=f"ovdense --version prints the version. OVDENSE_TRACEBACK=1 shows the whole trace of an error.\n{EXIT_CODES}\n",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["--version"], ["-V"]):
        from ovdense import __version__

        print(f"ovdense {__version__}")
        return 0
    try:
        return COMMANDS.run(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # what reads our output has enough, such as head
        sys.stderr.close()
        return 0

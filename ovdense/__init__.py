"""ovdense: open-vocabulary dense prediction; detectors and segmenters whose classes are given as text at run time."""
from importlib import import_module

from ovdense.compat.mmcv_ext import register as _register_mmcv_operators

# whatever imports mmcv.ops after us finds operators: its own compiled ones, or ours
_register_mmcv_operators()

__version__ = "0.3.2"

# Public names and where they live; resolved on first use, so that `import ovdense` stays light.
_PUBLIC = {
    "ClassEntry": "ovdense.structures",
    "Vocabulary": "ovdense.structures",
    "Results": "ovdense.results",
    "load": "ovdense.api",
    "load_image": "ovdense.api",
    "load_model": "ovdense.api",
    "load_vocabulary": "ovdense.text.vocabulary",
    "OpenVocabPredictor": "ovdense.api",
    "SamMasks": "ovdense.vision.sam",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ovdense' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""What a number depends on, beside what its metric says: versions, fingerprints; and which lines of two protocols differ."""
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {"torch": "torch", "numpy": "numpy", "mmengine": "onedl-mmengine", "hotcoco": "hotcoco"}


def package_version(name: str) -> str:
    """Return the version of an installed distribution, "unknown" for one that is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def software() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    import ovdense

    return {"ovdense": ovdense.__version__, "python": platform.python_version(), **{name: package_version(dist) for name, dist in PACKAGES.items()}}


def differences(a: Mapping[str, object], b: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Return (line, in a, in b) of each protocol line that differs, in the order of a, then those of b alone; None where a line is missing."""
    return [(key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key) or (key in a) != (key in b)]

"""Stand-in for mmcv's compiled operators (`mmcv._ext`), for mmcv installed as pure Python.

`register()` costs nothing: it teaches Python's import system where to find `mmcv._ext` when no compiled one is found.
`install()` imports it now. Both have to run before anything imports `mmcv.ops` (`mmdet.models` does). A compiled
`mmcv._ext` always wins. The operators are in `ovdense.compat.mmcv_operators`; one that is not there still imports and
raises NotImplementedError, with its name, when it is called.
"""
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType

NAME = "mmcv._ext"


class _StandInLoader(Loader):
    """Fill a module with our operators."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        from ovdense.compat import mmcv_operators

        module.__doc__ = mmcv_operators.__doc__
        module.__getattr__ = _missing
        vars(module).update(mmcv_operators.OPERATORS)


class _StandInFinder(MetaPathFinder):
    """Answer for `mmcv._ext`; stands last, so that it is asked only when nothing else has one."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return _spec() if fullname == NAME else None


_FINDER = _StandInFinder()


def _spec() -> ModuleSpec:
    return ModuleSpec(NAME, _StandInLoader(), origin="ovdense.compat.mmcv_operators")


def _missing(name: str) -> Callable:
    """Return a function that says which operator is missing; mmcv looks up all names when `mmcv.ops` is imported."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        from ovdense.compat.mmcv_operators import OPERATORS

        raise NotImplementedError(
            f"mmcv's operator {name!r} needs an mmcv with compiled operators; without one there are: {', '.join(sorted(OPERATORS))}"
        )

    return missing


def register() -> None:
    """Let `import mmcv._ext` find the stand-in when there is no compiled one. Imports nothing; may be called often."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


def is_stand_in() -> bool:
    """Return True if `mmcv._ext` has been imported and is the stand-in."""
    module = sys.modules.get(NAME)
    return module is not None and isinstance(getattr(module.__spec__, "loader", None), _StandInLoader)


def install() -> bool:
    """Import `mmcv._ext`; return True if it is the stand-in, False if it is a compiled one. May be called often.

    Raises ImportError when mmcv itself is not installed. A compiled `_ext` that cannot be loaded (built for another
    torch) gives a warning and the stand-in.
    """
    register()
    if NAME in sys.modules:
        return is_stand_in()
    try:
        mmcv = importlib.import_module("mmcv")
    except ModuleNotFoundError as error:
        if error.name != "mmcv":
            raise
        raise ImportError("mmcv must be installed, but there is none: pip install onedl-mmcv", name="mmcv") from error
    try:
        importlib.import_module(NAME)
    except ImportError as error:
        warnings.warn(
            f"the compiled {NAME} cannot be loaded ({error}); torchvision's operators are used, rebuild mmcv for this torch", stacklevel=2
        )
        spec = _spec()
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[NAME] = mmcv._ext = module
    return is_stand_in()

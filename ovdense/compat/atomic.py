"""Files that are there whole or not at all: the one way in which this package writes what it, or its user, reads again.

A file is written beside its target, flushed to the disk, and renamed over it; the folder is flushed as well. Killed at any moment, the old
file or the new one is there. What killed processes leave beside it is known by its name and a lock that died with them, and is removed.
"""
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no locks; what is left is told by its age alone
    fcntl = None  # type: ignore[assignment]

_LEFT = re.compile(r"\..*\.[0-9a-f]{12}\.ovdense\.(tmp|part|old)")
_LEFT_SECONDS = 60.0  # where another process may write as well: one on a machine whose locks are not seen here is this young at most
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WHY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of this user is used up; free some space",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "the folder may not be written to; change its permissions or choose another one",
    errno.EPERM: "the folder may not be written to; change its permissions or choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another one",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another one",
    errno.EISDIR: "a folder of this name is in the way; choose another name",
}
_swept: set[str] = set()


class NotWritten(OSError):
    """A file could not be written whole; the one that was there before is untouched. The message says which, why, and what to do; errno is the system's."""

    def __init__(self, path: str | Path, cause: OSError) -> None:
        why = _WHY.get(cause.errno or 0, cause.strerror or str(cause))
        super().__init__(cause.errno, f"{path} could not be written: {why}", str(path))

    def __str__(self) -> str:
        return self.args[1]


def is_full(error: OSError) -> bool:
    """Return whether there was no room: a full disk, a quota, a limit of the process."""
    return error.errno in _FULL


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", *, encoding: str | None = None, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a file ("wb" or "w") that takes the place of `path` when the block ends without an error; with one, nothing has changed.

    Missing folders are made. A symlink is replaced by the file; devices and pipes are written to as they are. `durable=False`: the disk
    is not waited for, for files that are checked when they are read and can be made again. NotWritten (an OSError) when there is no room or no permission.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f'mode must be "wb" or "w", got {mode!r}')
    path = Path(path)
    encoding = encoding or ("utf-8" if mode == "w" else None)
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/stdout, a pipe
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    with _said_clearly(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        temporary, file = _open_new(path, mode, encoding)
    try:
        with _said_clearly(path, _FULL), file:
            yield file
            with _said_clearly(path):
                file.flush()
                if path.is_file() and not path.is_symlink():
                    shutil.copymode(path, temporary)
                if durable:
                    os.fsync(file.fileno())
                os.replace(temporary, path)  # while the lock is held
        if durable:
            _flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _said_clearly(path: Path, only: Collection[int] = tuple(_WHY)) -> Iterator[None]:
    """Turn an OSError of these numbers, also one in whose wake another error came (torch.save hides them so), into NotWritten."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in only):
            cause = cause.__cause__ or cause.__context__
        if cause is None or isinstance(cause, NotWritten):
            raise
        raise NotWritten(path, cause) from error


def replace_file(path: str | Path, content: bytes | str, *, durable: bool = True) -> Path:
    """Write `content` (text as UTF-8) to `path`, as `atomic_write` does; return the path."""
    with atomic_write(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def append_whole(path: str | Path, content: bytes | str) -> None:
    """Append to a file, flushed to the disk; where that fails it is cut back to what it was. NotWritten as of `atomic_write`.

    A kill can leave the beginning of `content` at the end: readers take whole records only.
    """
    with _said_clearly(Path(path)), open(path, "ab", buffering=0) as file:
        append_to([(file, content.encode() if isinstance(content, str) else content)])


def append_to(parts: Sequence[tuple[FileIO, bytes]]) -> None:
    """Append to files that are open without a buffer, one after the other, each flushed to the disk; where that fails all are as long as before."""
    before = [(file, os.fstat(file.fileno()).st_size) for file, _ in parts]
    for file, content in parts:
        left = memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            for changed, size in before:
                with suppress(OSError):
                    os.ftruncate(changed.fileno(), size)
            raise NotWritten(str(file.name), error) from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder beside `path` that takes its place, files flushed, when the block ends without an error; with one, nothing has changed.

    An old folder stands aside while the new one moves in; after a kill between the two renames `remove_left` puts it back.
    """
    path = Path(path)
    building, aside = (path.with_name(_temporary_name(path.name, kind)) for kind in ("part", "old"))
    with _said_clearly(path):
        _sweep_once(path.parent)
        building.mkdir(parents=True)
        lock = os.open(building, os.O_RDONLY)
    try:
        with suppress(OSError):
            _lock(lock)
        with _said_clearly(path, _FULL):
            yield building
        with _said_clearly(path):
            for file in building.rglob("*"):
                _flush(file)
            if path.is_dir():
                path.rename(aside)
            building.rename(path)
            _flush(path.parent)
    finally:
        os.close(lock)
        if aside.exists() and not path.exists():
            aside.rename(path)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Hold a folder, which is made, for as long as the block lasts: other processes, and threads, that ask for it by this function wait.

    A lock of the system, which dies with its process; where there are none (Windows, some network file systems) nobody waits.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            _lock(handle)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile holds it too
        os.close(handle)


def is_held(folder: str | Path) -> bool:
    """Return whether somebody holds a folder by `alone_in` now; False where there are no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        _lock(handle, wait=False)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def remove_left(folder: str | Path, older_than: float = 0.0) -> int:
    """Remove what killed processes left half written in `folder`, untouched for `older_than` seconds; return how many files."""
    removed = 0
    try:
        names = [e.name for e in os.scandir(folder) if _LEFT.fullmatch(e.name)]
    except OSError:
        return 0
    for name in names:
        with suppress(OSError):
            removed += _remove_dead(Path(folder) / name, older_than)
    return removed


def _remove_dead(path: Path, older_than: float) -> bool:
    """Remove a temporary file or folder whose writer is gone; return whether it was removed. A folder that stood aside for none goes back."""
    if time.time() - path.stat().st_mtime < older_than:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle, wait=False)  # OSError: its writer lives
        target = path.with_name(path.name[1:].rsplit(".", 3)[0])
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(handle)
    return True


def _open_new(path: Path, mode: str, encoding: str | None) -> tuple[Path, IO[Any]]:
    """Return a new file beside `path`, locked for as long as it is open."""
    while True:
        temporary = path.with_name(_temporary_name(path.name, "tmp"))
        file = open(temporary, mode.replace("w", "x"), encoding=encoding)
        with suppress(OSError):  # a file system without locks
            _lock(file)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # swept away before it was locked


def _lock(file: IO[Any] | int, wait: bool = True) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _sweep_once(folder: Path) -> None:
    key = str(folder.absolute())
    if key not in _swept:
        _swept.add(key)
        remove_left(folder, _LEFT_SECONDS)


def _temporary_name(name: str, kind: str) -> str:
    return f".{_short(name)}.{uuid.uuid4().hex[:12]}.ovdense.{kind}"


def _short(name: str) -> str:
    return name.encode()[:180].decode(errors="ignore")  # a name may have 255 bytes


def _flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk; some file systems cannot flush folders."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

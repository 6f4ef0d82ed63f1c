"""Files are there whole or not at all: after an error, a kill, on a full disk, in a folder that may not be written to."""
import errno
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ovdense.compat import atomic
from ovdense.compat.atomic import NotWritten, alone_in, append_whole, atomic_folder, atomic_write, is_held, remove_left, replace_file
from ovdense.compat.images import read_upright, write_picture
from ovdense.support.pool import EmbeddingPool


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0\1", "Katze 猫\n"], ids=["empty", "bytes", "text"])
def test_replace_file__content_and_folders(tmp_path, content):
    path = replace_file(tmp_path / "a" / "b" / "f.bin", content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(path.parent) == ["f.bin"]


def test_atomic_write__text_and_long_names(tmp_path):
    name = "ü" * 120 + ".txt"  # 244 bytes, of 255 that a name may have
    with atomic_write(tmp_path / name, "w") as file:
        file.write("é")
        assert len(names(tmp_path)) == 1 and name not in names(tmp_path), "beside it, until it is whole"
    assert (tmp_path / name).read_text(encoding="utf8") == "é" and names(tmp_path) == [name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, PermissionError(errno.EACCES, "of another file")])
def test_atomic_write__an_error_changes_nothing(tmp_path, error):
    replace_file(tmp_path / "f", b"old")
    with pytest.raises(error if isinstance(error, type) else type(error)):
        with atomic_write(tmp_path / "f") as file:
            file.write(b"new")
            raise error
    assert (tmp_path / "f").read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_atomic_write__keeps_the_mode_and_replaces_a_link(tmp_path):
    (tmp_path / "outside").write_bytes(b"outside")
    replace_file(tmp_path / "f", b"1")
    (tmp_path / "f").chmod(0o640)
    replace_file(tmp_path / "f", b"2")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "outside").read_bytes() == b"outside" and not (tmp_path / "link").is_symlink()


def test_atomic_write__a_pipe_is_written_to(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from ovdense.compat.atomic import replace_file; replace_file('/dev/stdout', 'said')"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "said" and Path("/dev/stdout").exists()


def test_atomic_write__a_folder_in_the_way(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(NotWritten, match="f could not be written: a folder of this name"):
        replace_file(tmp_path / "f", b"")
    replace_file(tmp_path / "g", b"")
    with pytest.raises(NotWritten, match="a part of the path is a file"):
        replace_file(tmp_path / "g" / "h", b"")


@pytest.fixture
def no_room():
    """Files of this process may have 100,000 bytes: a full disk, wherever the tests run."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _save_tensors(path):
    with atomic_write(path) as file:
        torch.save({"w": torch.ones(10**5)}, file)


def _save_arrays(path):
    with atomic_write(path) as file:
        np.savez(file, a=np.ones(10**5))


@pytest.mark.parametrize("write", [lambda p: replace_file(p, bytes(10**6)), _save_tensors, _save_arrays,
                                   lambda p: write_picture(p.with_suffix(".bmp"), np.zeros((400, 400, 3), np.uint8))],
                         ids=["bytes", "torch.save", "numpy.savez", "picture"])  # fmt: skip
def test_full_disk__a_clear_error_and_the_old_file(tmp_path, no_room, write):
    for name in ("f", "f.bmp"):
        replace_file(tmp_path / name, b"old")
    with pytest.raises(NotWritten, match=r"f(\.bmp)? could not be written: the file would be larger") as caught:
        write(tmp_path / "f")
    assert caught.value.errno == errno.EFBIG and "\n" not in str(caught.value)
    assert names(tmp_path) == ["f", "f.bmp"] and {p.read_bytes() for p in tmp_path.iterdir()} == {b"old"}


def test_full_disk__a_line_is_appended_whole_or_not_at_all(tmp_path, no_room):
    append_whole(tmp_path / "l", "one\n")
    with pytest.raises(NotWritten):
        append_whole(tmp_path / "l", "x" * 200_000 + "\n")
    append_whole(tmp_path / "l", "two\n")
    assert (tmp_path / "l").read_text() == "one\ntwo\n"


def test_full_disk__an_index_keeps_its_batches_and_their_keys(tmp_path, no_room):
    """The vectors still find room, their keys and notes do not: neither is kept, and the next batch does not shift."""
    width = 1000
    writer = EmbeddingPool(tmp_path, width).writer()
    stat = tmp_path.stat()
    first, second = np.full((1, width), 1, np.float32), np.full((1, width), 2, np.float32)
    writer.append([b"1" * 16], first, [(Path("one"), stat, b"1" * 16)])
    with pytest.raises(NotWritten, match="shard-0000.files could not be written"):
        writer.append([b"x" * 16], second * 9, [(Path("x" * 200_000), stat, b"x" * 16)])
    writer.append([b"2" * 16], second, [(Path("two"), stat, b"2" * 16)])
    writer.close()
    pool = EmbeddingPool(tmp_path, width)
    assert len(pool) == 2 and np.array_equal(pool.rows(pool.places([b"1" * 16, b"2" * 16])), np.concatenate([first, second]))


def test_full_and_read_only__real_ones(tmp_path):
    """A tmpfs of 64 KiB, then the same one read-only, in a mount namespace of its own; where none can be made, the limits above stand for it."""
    script = "from ovdense.compat.atomic import *\nimport sys\nreplace_file('m/f', b'old')\ntry: replace_file('m/f', bytes(10**6))\n" \
             "except NotWritten as e: print(e, '|', open('m/f').read(), len(__import__('os').listdir('m')))\n" \
             "__import__('subprocess').run(['mount', '-o', 'remount,ro', 'm'], check=True)\ntry: replace_file('m/f', b'new')\n" \
             "except NotWritten as e: print(e, '|', open('m/f').read(), len(__import__('os').listdir('m')))\n"  # fmt: skip
    (tmp_path / "m").mkdir()
    command = f"mount -t tmpfs -o size=64k none {tmp_path}/m && cd {tmp_path} && exec {sys.executable} -c \"$0\""
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(["unshare", *root, "--mount", "sh", "-c", command, script], capture_output=True, text=True)
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no file system of its own here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["m/f could not be written: the disk is full; free some space | old 1",
                                        "m/f could not be written: the file system is read-only; choose another folder | old 1"], done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root; the next test asks the system's answer for it")
def test_read_only_folder__a_clear_error(tmp_path):
    replace_file(tmp_path / "f", b"old")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(NotWritten, match="the folder may not be written to"):
            replace_file(tmp_path / "f", b"new")
    finally:
        tmp_path.chmod(0o755)
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "may not be written to"), (errno.EROFS, "read-only"), (errno.ENOSPC, "the disk is full"),
                                               (errno.EDQUOT, "quota")])  # fmt: skip
def test_system_errors__each_has_its_words(tmp_path, monkeypatch, number, words):
    replace_file(tmp_path / "f", b"old")
    monkeypatch.setattr(atomic.os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(NotWritten, match=words):
        replace_file(tmp_path / "f", b"new")
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"old"


_WRITER = """
import sys, time
from ovdense.compat.atomic import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half"); file.flush(); print("writing", flush=True); time.sleep(60)
"""


def test_killed_writer__leaves_the_old_file_and_is_cleaned_up_only_when_dead(tmp_path):
    replace_file(tmp_path / "f", b"old")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "f")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    assert len(names(tmp_path)) == 2 and remove_left(tmp_path) == 0, "its writer lives"
    writer.kill()
    writer.wait()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert remove_left(tmp_path, older_than=60) == 0 and remove_left(tmp_path) == 1 and names(tmp_path) == ["f"]


def test_left_files__are_removed_with_the_first_write_to_their_folder(tmp_path):
    for name in (".f.0123456789ab.ovdense.tmp", ".f.ba9876543210.ovdense.tmp", ".vimrc.tmp", "f.ovdense.tmp"):
        (tmp_path / name).write_bytes(b"x")
    old = time.time() - 3600
    os.utime(tmp_path / ".f.0123456789ab.ovdense.tmp", (old, old))
    replace_file(tmp_path / "f", b"")
    assert names(tmp_path) == [".f.ba9876543210.ovdense.tmp", ".vimrc.tmp", "f", "f.ovdense.tmp"], "only ours, and only old ones"


def test_atomic_folder__takes_the_place_of_the_old_one(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "d") as building:
            (building / "sub").mkdir()
            (building / "sub" / text).write_text(text)
        assert names(tmp_path) == ["d"] and names(tmp_path / "d" / "sub") == [text]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "d") as building:
        (building / "half").touch()
        1 / 0  # noqa: B018
    assert names(tmp_path) == ["d"] and names(tmp_path / "d" / "sub") == ["new"]


_FOLDER_WRITER = """
import sys, time
from ovdense.compat.atomic import atomic_folder
with atomic_folder(sys.argv[1]) as folder:
    (folder / "half").touch(); print("writing", flush=True); time.sleep(60)
"""


def test_atomic_folder__what_a_killed_writer_leaves(tmp_path):
    replace_file(tmp_path / "d" / "old", b"")
    writer = subprocess.Popen([sys.executable, "-c", _FOLDER_WRITER, str(tmp_path / "d")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    assert remove_left(tmp_path) == 0 and len(names(tmp_path)) == 2, "its writer lives"
    writer.kill()
    writer.wait()
    assert remove_left(tmp_path) == 1 and names(tmp_path) == ["d"] and names(tmp_path / "d") == ["old"]
    (tmp_path / "d").rename(tmp_path / ".d.0123456789ab.ovdense.old")  # killed between the two renames
    (tmp_path / ".d.ba9876543210.ovdense.part").mkdir()
    assert remove_left(tmp_path) == 2 and names(tmp_path) == ["d"] and names(tmp_path / "d") == ["old"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_write_picture__forms(tmp_path, suffix):
    image = np.zeros((4, 6, 3), np.uint8)
    assert read_upright(write_picture(tmp_path / f"a{suffix}", image)).shape == (4, 6, 3)
    with pytest.raises(ValueError, match="must end in .jpg"):
        write_picture(tmp_path / "a.txt", image)
    assert names(tmp_path) == [f"a{suffix}"]


def test_alone_in__a_process_that_dies_lets_go(tmp_path):
    code = f"from ovdense.compat.atomic import alone_in\nwith alone_in({str(tmp_path / 'set')!r}):\n    print('held', flush=True)\n    input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n" and is_held(tmp_path / "set") and not is_held(tmp_path / "other")
    holder.kill()
    holder.wait()
    with alone_in(tmp_path / "set"):
        assert is_held(tmp_path / "set")
    assert not is_held(tmp_path / "set") and not list((tmp_path / "set").iterdir())

"""Hostile and odd weights files, made for tests: each does something when it is unpickled, or is not what its name says.

`corpus(folder, trap)` writes them all and returns (name, path, words of the error); code that runs creates the file `trap`.
"""
import argparse
import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

REFUSED = "could run code"
BROKEN = "not a whole checkpoint"


class Call:
    """Unpickles to `function(*arguments)`."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Stateful:
    """Unpickles through __setstate__ of a class of this module."""

    def __setstate__(self, state) -> None:
        Path(state).touch()

    def __getstate__(self):
        return self.trap


class InDict(dict):
    """A dict that calls while its items are set."""

    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def __reduce__(self):
        return OrderedDict, (), None, None, iter([("w", self.call)])


def _saved(content, **how) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def _with_member(data: bytes, name: str, content: bytes) -> bytes:
    """Return a checkpoint's zip with one member replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, content if member.filename.endswith(name) else old.read(member))
    return out.getvalue()


def _calls(trap: Path) -> dict[str, Call]:
    touch = f"open({str(trap)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {trap}"),
        "os.mkdir": Call(os.mkdir, str(trap)),
        "os.popen": Call(os.popen, f"touch {trap}"),
        "subprocess.call": Call(subprocess.call, ["touch", str(trap)]),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(trap)]),
        "exec": Call(builtins.exec, touch),
        "eval": Call(builtins.eval, f"open({str(trap)!r}, 'w')"),
        "open": Call(builtins.open, str(trap), "w"),
        "compile": Call(builtins.compile, touch, "x", "exec"),
        "import": Call(builtins.__import__, "antigravity"),
        "getattr": Call(getattr, "text", "upper"),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(trap)))),
        "torch.load": Call(torch.load, str(trap)),
        "torch.hub": Call(torch.hub.load, "a/b", "c"),
        "path.touch": Call(Path.touch, trap),
        "numpy.load": Call(np.load, str(trap)),
        "sys.exit": Call(sys.exit, 3),
        "partial": Call(__import__("functools").partial, os.mkdir, str(trap)),
    }


def corpus(folder: Path, trap: Path) -> list[tuple[str, Path, str]]:
    """Return (name, path, words of the error) of every file, written into `folder`."""
    weights = {"w": torch.ones(2)}
    cases: list[tuple[str, bytes, str]] = []
    for name, call in _calls(trap).items():  # a payload of each kind at the top of the file
        cases.append((f"top_{name}", _saved({"state_dict": weights, "x": call}), REFUSED))
    mkdir = Call(os.mkdir, str(trap))
    stateful = Stateful()
    stateful.trap = str(trap)
    nested = argparse.Namespace(lr=mkdir)
    for name, content in {  # one payload in each place
        "instead_of_the_mapping": mkdir,
        "under_state_dict": {"state_dict": {"w": mkdir}},
        "under_model": {"model": InDict(mkdir)},
        "in_meta": {"meta": {"config": mkdir}, "state_dict": weights},
        "in_optimizer": {"optimizer": {"state": [mkdir]}, "state_dict": weights},
        "in_message_hub": {"message_hub": {"log_scalars": mkdir}, "state_dict": weights},
        "in_namespace": {"args": nested, "model": weights},
        "in_tuple_key": {("k", 1): (mkdir,), "model": weights},
        "in_setstate": {"model": weights, "x": stateful},
    }.items():
        cases.append((name, _saved(content), REFUSED))
    cases.append(("legacy_format", _saved({"x": mkdir}, _use_new_zipfile_serialization=False), REFUSED))
    cases.append(("bare_pickle", pickle.dumps({"x": mkdir}), "a.pth|checkpoint|run code"))
    cases.append(("protocol_0", b"cos\nmkdir\n(S'" + str(trap).encode() + b"'\ntR.", "checkpoint|run code"))
    good = _saved({"state_dict": {"w": torch.arange(64.0)}, "meta": {"iter": 3}})
    cases.append(("swapped_data_pkl", _with_member(good, "data.pkl", pickle.dumps(mkdir, protocol=2)), REFUSED))
    for share in (0.01, 0.3, 0.7, 0.99):
        cases.append((f"cut_at_{share}", good[: int(share * len(good))], BROKEN))
    cases += [
        ("empty", b"", BROKEN),
        ("text", b"hello\n", BROKEN),
        ("html", b"<!DOCTYPE html><html>404</html>", BROKEN),
        ("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", BROKEN),
        ("zeros", bytes(4096), BROKEN),
        ("png", b"\x89PNG\r\n\x1a\n" + bytes(64), BROKEN),
        ("zip_of_nothing", _zip({}), BROKEN),
        ("zip_of_text", _zip({"archive/readme.txt": b"hi"}), BROKEN),
        ("missing_storage", _without(good, "data/0"), BROKEN),
        ("short_storage", _with_member(good, "data/0", b"1234"), BROKEN),
        ("zip_bomb", _zip({"archive/data.pkl": bytes(400 * 2**20)}, zipfile.ZIP_DEFLATED), "must unpack to about its size"),
        ("a_list", _saved([1, 2]), "must hold a mapping"),
        ("a_tensor", _saved(torch.ones(3)), "must hold a mapping"),
        ("an_empty_mapping", _saved({}), "must hold a mapping"),
        ("a_whole_module", _saved({"model": torch.nn.Linear(2, 2)}), REFUSED),
    ]
    written = []
    for name, data, words in cases:
        path = folder / f"{name}.pth"
        path.write_bytes(data)
        written.append((name, path, words))
    return written + _safetensors(folder) + _links(folder)


def _zip(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _without(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        return _zip({m.filename: old.read(m) for m in old.infolist() if not m.filename.endswith(name)})


def _safetensors(folder: Path) -> list[tuple[str, Path, str]]:
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    whole = struct.pack("<Q", len(header)) + header + bytes(16)
    cases = {
        "cut": whole[:-8],
        "header_longer_than_the_file": struct.pack("<Q", 2**40) + header,
        "broken_header": struct.pack("<Q", 10) + b"{not json}" + bytes(16),
        "offsets_outside": whole.replace(b"[0,16]", b"[0,99]"),
        "negative_shape": whole.replace(b"[4]", b"[-4]"),
    }
    for name, data in cases.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    return [(f"safetensors_{n}", folder / f"{n}.safetensors", BROKEN) for n in cases]


def _links(folder: Path) -> list[tuple[str, Path, str]]:
    (folder / "dangling.pth").symlink_to(folder / "gone.pth")
    (folder / "loop.pth").symlink_to(folder / "loop.pth")
    return [("dangling_link", folder / "dangling.pth", "existing file"), ("link_to_itself", folder / "loop.pth", "existing file|not a whole")]

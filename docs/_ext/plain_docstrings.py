"""Docstrings as they are written here (paragraphs, lists, `code`, examples) to what Sphinx reads.

Single backquotes mean code; stars and underscores mean themselves; lines that are indented below a paragraph are code.
"""
import re

_CODE = re.compile(r"``[^`]+``|`[^`]+`")
_SPECIAL = re.compile(r"([*|\\])|(?<=\w)_(?=\W|$)")


def convert(lines: list[str]) -> list[str]:
    """Return the reStructuredText of a docstring's lines."""
    out: list[str] = []
    in_code = in_example = False
    for line in lines:
        bare = line.strip()
        if bare.startswith(">>>"):
            in_example = True
            if out and out[-1].strip():
                out.append("")
        if in_example:
            in_example = bool(bare)
            out.append(line)
            continue
        indented = line.startswith("    ")
        if indented and bare and not in_code and not _continues(out):
            out += ["", ".. code-block:: text", ""]
            in_code = True
        if in_code and bare and not indented:
            in_code = False
            out.append("")
        if in_code:
            out.append(line)
            continue
        item = bare.startswith(("- ", "* "))
        if item and out and out[-1].strip() and not _in_list(out):
            out.append("")
        elif not item and bare and out and out[-1].strip() and _in_list(out) and not line.startswith(" "):
            out.append("")
        out.append(escape(line, item))
    return out


def _continues(out: list[str]) -> bool:
    """Return whether an indented line goes on with an item of a list."""
    return bool(out) and bool(out[-1].strip()) and _in_list(out)


def _in_list(out: list[str]) -> bool:
    for line in reversed(out):
        if not line.strip():
            return False
        if line.lstrip().startswith("- "):
            return True
    return False


def escape(line: str, item: bool) -> str:
    """Return the line with code in double backquotes, and what has a meaning in reStructuredText escaped elsewhere."""
    head, body = ("", line) if not item else (line[: line.index(line.strip()[0]) + 2].replace("*", "-"), line[line.index(line.strip()[0]) + 2:])
    parts, last = [], 0
    for found in _CODE.finditer(body):
        parts += [_plain(body[last:found.start()]), "``" + found.group().strip("`") + "``"]
        after = body[found.end():found.end() + 1]
        parts.append("\\ " if after.isalnum() else "")
        last = found.end()
    return head + "".join(parts) + _plain(body[last:])


def _plain(text: str) -> str:
    return _SPECIAL.sub(lambda m: "\\" + m.group(), text).replace("`", "\\`")


def setup(app):
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: lines.__setitem__(slice(None), convert(lines)))
    return {"parallel_read_safe": True}

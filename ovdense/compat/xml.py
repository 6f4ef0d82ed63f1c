"""XML of annotation files, read as data: no DTD, no entities; and written so that it can be read."""
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, tostring

_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that XML cannot hold, not even as references


def read_xml(path: str | Path) -> Element:
    """Return the root of an XML file; ValueError for a broken one, with line and column, and for one with a DTD (whose entities could fill the memory)."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        return parse(path, forbid_dtd=True).getroot()
    except ParseError as error:
        line, column = error.position
        raise ValueError(f"{path}: must be XML, broken at line {line} column {column}: {error}") from None
    except DefusedXmlException as error:
        raise ValueError(f"{path}: annotations must be XML without a DTD or entities, got {type(error).__name__}; remove the DOCTYPE") from None
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{path}: must be XML in a known encoding: {error}") from None


def xml_bytes(root: Element, *, declaration: bool = False) -> bytes:
    """Return a tree as a file in UTF-8; ValueError for a text that XML cannot hold (control characters, halves of surrogate pairs)."""
    text = tostring(root, encoding="unicode")
    found = _IMPOSSIBLE.search(text)
    if found:
        around = text[max(0, found.start() - 20) : found.start() + 20]
        raise ValueError(f"XML cannot hold the character {found[0]!r} of {around!r}; take it out of the name or text")
    return (b"<?xml version='1.0' encoding='utf-8'?>\n" if declaration else b"") + text.encode("utf8")

"""XML of annotation files, read as data: no DTD, no entities."""
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError


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

"""What the converter makes of docstrings as they are written here."""
import sys

import pytest

from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "docs" / "_ext"))
from plain_docstrings import convert  # noqa: E402


@pytest.mark.parametrize("lines, expected", [
    (["Return `x` of DIR/CLASS/*.jpg."], ["Return ``x`` of DIR/CLASS/\\*.jpg."]),
    (["Names `not_` and a_ end."], ["Names ``not_`` and a\\_ end."]),
    (["One:", "- a", "  more", "- b"], ["One:", "", "- a", "  more", "- b"]),
    (["So:", "", "    model = load('*')", "    model()", "", "Then."],
     ["So:", "", "", ".. code-block:: text", "", "    model = load('*')", "    model()", "", "", "Then."]),
    (["Say.", ">>> f('*')", "'*'", "", "Done *."], ["Say.", "", ">>> f('*')", "'*'", "", "Done \\*."]),
    ([], []),
])
def test_convert__keeps_what_was_meant(lines, expected):
    assert convert(lines) == expected

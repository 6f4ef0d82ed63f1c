"""The pages build without a warning, every link inside them resolves, and the table of models holds every config."""
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT


class Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(page.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        self.links += [given[k] for k in ("href", "src") if given.get(k)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    how = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "trees")]
    run = subprocess.run([sys.executable, "-m", "sphinx", *how, str(ROOT / "docs"), str(out / "html")], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-4000:]
    return out / "html"


@pytest.mark.slow
def test_docs__build_and_every_link_inside_resolves(site):
    pages = {p: Links(p) for p in site.rglob("*.html")}
    assert len(pages) > 25
    broken, outside = [], set()
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside.add((parts.scheme, link))
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []
    assert {scheme for scheme, _ in outside} <= {"http", "https", "mailto", "data"}


@pytest.mark.slow
def test_docs__fetch_nothing_when_they_are_read(site):
    """No page loads a script, style, font or picture from elsewhere."""
    class Loaded(HTMLParser):
        def handle_starttag(self, tag, attrs):
            given = dict(attrs)
            where = given.get("src") if tag in ("script", "img", "iframe") else given.get("href") if tag == "link" and given.get("rel") != "canonical" else None
            if where and urlsplit(where).netloc:
                raise AssertionError(f"{tag} loads {where}")

    for page in site.rglob("*.html"):
        Loaded().feed(page.read_text(encoding="utf8"))


@pytest.mark.slow
def test_docs__every_config_is_in_the_table(site):
    from ovdense.zoo import PARTS

    text = (site / "models.html").read_text(encoding="utf8")
    configs = [p.stem for p in (ROOT / "configs").glob("*.py") if not p.stem.startswith("_") and p.stem not in PARTS]
    assert len(configs) > 50 and [c for c in configs if f">{c}<" not in text] == []


def test_docs__name_files_that_exist():
    """Paths of the source tree in `code` of the pages."""
    import re

    lost, tops = [], "ovdense|tools|configs|tests|text|vision|layers|heads|support|methods|data|evaluation|compat"
    for page in (ROOT / "docs").rglob("*.md"):
        for path in re.findall(rf"`((?:{tops})/[\w./]+\.py)`", page.read_text(encoding="utf8")):
            if not (ROOT / path).is_file() and not (ROOT / "ovdense" / path).is_file() and path not in ("configs/mine.py", "configs/NAME.py"):
                lost.append(f"{page.name}: {path}")
    assert lost == []


def test_docs__numbers_of_ours_are_in_one_place():
    """Method pages point to the results; they do not repeat reproduced figures."""
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        assert "../results.md" in page.read_text(encoding="utf8"), page.name


def test_citation__is_yaml_with_what_it_needs():
    import yaml

    import ovdense

    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(content) and len(content["references"]) == 5
    assert content["version"] == ovdense.__version__

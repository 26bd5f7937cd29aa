"""``make book`` renders what was run into pages that need no network, no kernel and no eyes to be read."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

pytestmark = [pytest.mark.needs_uml, pytest.mark.timeout(1500)]
READ_BOOK = Path(__file__).parents[1] / "browser" / "read_book.mjs"
PROSE = ("index", "istio", "instructors", "execution")
ELSEWHERE = re.compile(r"^(https?:)?//")


@pytest.fixture(scope="module")
def pages(book) -> dict[str, BeautifulSoup]:
    """The pages of the book by name, parsed."""
    paths = [path for path in book.glob("*.html") if path.name not in ("search.html", "genindex.html")]
    return {path.stem: BeautifulSoup(path.read_text(), "html.parser") for path in paths}


def test_every_notebook_has_a_page(pages, all_notebooks):
    """A notebook is in the book because it exists; nobody has to list it."""
    assert sorted(pages) == sorted([*PROSE, *(notebook.stem for notebook in all_notebooks)])


def test_no_page_loads_anything_from_elsewhere(pages):
    """On a train, in an exam room, in ten years: the page is all there."""
    loaded = []
    for soup in pages.values():
        loaded += [tag["src"] for tag in soup.find_all(src=True)]
        loaded += [tag["href"] for tag in soup.find_all("link", href=True)]

    assert [address for address in loaded if ELSEWHERE.match(address)] == []


def test_no_style_sheet_loads_anything_from_elsewhere(book):
    """Fonts and pictures come by style sheets."""
    sheets = {path.name: path.read_text() for path in book.rglob("*.css")}

    foreign = r"""(?:url\(|@import)\s*['"]?\s*(?:https?:)?//"""
    assert [name for name, sheet in sheets.items() if re.search(foreign, sheet)] == []


def test_every_image_is_described(pages):
    """A page is read aloud, too."""
    pictures = [tag for soup in pages.values() for tag in soup.select("img, .cell_output svg")]

    assert pictures != []
    assert [tag for tag in pictures if not (tag.get("alt") or tag.get("aria-label") or "").strip()] == []


def test_no_widget_is_an_empty_box(pages):
    """A page holds no view of a widget that only a kernel could fill, and no name of one instead."""
    for soup in pages.values():
        assert soup.find_all("script", type=re.compile("jupyter")) == []
        outputs = soup.select("div.cell_output")
        assert [
            output for output in outputs if not output.get_text().strip() and not output.find("img")
        ] == []
        assert [
            output
            for output in outputs
            if re.match(r"\s*\w+\((children|description|value)=", output.get_text())
        ] == []


def test_execution_page_says_how_long_each_notebook_took_and_where(pages, all_notebooks):
    """A reader can tell what was measured on which machine."""
    page = pages["execution"]
    rows = {
        row.find("a")["href"]: row.get_text(" ") for row in page.find("table").find_all("tr") if row.find("a")
    }

    for notebook in all_notebooks:
        kernel = re.escape(nbformat.read(notebook, as_version=4).metadata.kernelspec.display_name)
        assert re.search(rf"\d+\.\d +{kernel} +3\.\d+", rows[f"{notebook.stem}.html"])
    machine = page.find_all("table")[1].get_text(" ")
    for fact in ("Linux", "Python", "matplotlib"):
        assert fact in machine
    assert "cnlab" in machine


@pytest.mark.browser
def test_browser_shows_every_page_in_light_and_in_dark_without_the_network(book, pictures):
    """The browser decides what a page loads, what fails in it and what does not fit the window."""
    pages = sorted(str(path) for path in book.glob("*.html"))
    done = subprocess.run(
        ["node", READ_BOOK, pictures, *pages], check=True, capture_output=True, text=True, timeout=1000
    )
    readings = json.loads(done.stdout)

    assert len(readings) == 2 * len(pages)
    for reading in readings:
        assert reading["theme"] == reading["colorScheme"]
        assert [url for url in reading["requests"] if not url.startswith(("file:", "data:"))] == []
        assert reading["complaints"] == reading["broken"] == reading["undescribed"] == []
        assert reading["overflow"] == 0

"""The site: it builds without a warning, its links lead somewhere, and browsers show its pages."""

import html.parser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import CHROMIUM
from tests.docs.pages import PAGES, ROOT

pytest.importorskip("sphinx")

_NARROW = {"width": 400, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Sphinx runs in a process of its own, since it changes logging and this process's warnings."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "doctrees"), "docs"]
    built = subprocess.run([*words, str(folder / "html")], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "html"


class _Page(html.parser.HTMLParser):
    """The links, sources and anchors of a page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src", "action", "poster") and value is not None:
                self.links.append(value)


def broken_links(folder: Path) -> Iterator[str]:
    """What a site's pages refer to and is not there."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                if not re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?|localhost(:\d+)?", parts.netloc):
                    yield f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = parts.scheme in ("", "data", "mailto") and (parts.scheme or target.is_file())
            anchor = unquote(parts.fragment)
            if found and anchor and target in pages and anchor not in pages[target].anchors:
                found = False
            if not found:
                yield f"{path.name}: {link}"


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 20
    assert list(broken_links(site)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="a.html#x"><a href="a.html#y"><img src="none.png"><a href="https://">'
    )
    assert list(broken_links(tmp_path)) == ["a.html: a.html#y", "a.html: none.png", "a.html: https://"]


def test_the_site_refers_to_no_other_host(site: Path) -> None:
    """Neither scripts and styles nor pictures: only links that a reader may follow."""
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)", path.read_text()
        )
        assert loaded == [], path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?https?:", path.read_text()), path.name


def _slugs(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = next(n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found | set(re.findall(r"<a (?:name|id)=\"([^\"]+)\"", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_work_on_github(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        missing = not target.exists() or ROOT not in target.parents
        if missing or (anchor and target.suffix == ".md" and anchor not in _slugs(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
def test_browsers_show_the_pages_without_a_network(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    names = ["index", "training", "heads", "api", "configuration", "commands", "reproduce", "search"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=_NARROW)
        said, asked = [], []
        page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        for name in names:
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= _NARROW["width"], name
            page.evaluate("for (const one of document.images) one.loading = 'eager'")
            page.wait_for_function("[...document.images].every(one => one.complete)")
            assert page.evaluate("[...document.images].filter(one => !one.naturalWidth).map(one => one.src)") == []
        page.goto((site / "search.html").as_uri() + "?q=min_steps")
        page.wait_for_selector("#search-results li a")
        found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
        assert found[0] == "configuration.html#train-min-steps"
        assert any(link.startswith("training.html") for link in found)
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []

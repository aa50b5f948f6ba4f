"""Pages as tests read them, and in headless Chromium."""

import html
import html.parser
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A window of headless Chromium is never as narrow as a phone, but a frame can be.
_FRAME = """<!doctype html><meta charset="utf-8"><title></title>
<iframe srcdoc="{page}" style="width: {width}px; height: 90000px; border: 0"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument
  const broken = [...page.images].filter(one => !one.complete || !one.naturalWidth).length
  document.title = `width ${{page.documentElement.scrollWidth}} broken ${{broken}}`
}})
</script>"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess:
    """Opens a page; stdout is its DOM, stderr holds its console."""
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,900", *options]
    words += [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def console(page: Path) -> list[str]:
    """What a page says on the console: errors, and requests that its policy refuses."""
    shown = browse(page)
    assert "<h1>" in shown.stdout, shown.stderr
    return [line for line in shown.stderr.splitlines() if "CONSOLE" in line]


def width(page: Path, frame: int) -> int:
    """Pixels that a page takes in a frame of that width; all its pictures decode."""
    probe = page.with_name("probe.html")
    probe.write_text(_FRAME.format(page=html.escape(page.read_text(encoding="utf-8")), width=frame), encoding="utf-8")
    found = re.search(r"<title>width (\d+) broken (\d+)</title>", browse(probe).stdout)
    assert found
    assert found[2] == "0"
    return int(found[1])


class Tags(html.parser.HTMLParser):
    """The tags of a page; each that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

"""Parts of a self-contained HTML page: no script, no network, readable on phones, light or dark."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from divdet.engine.errors import printable

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --faint: #5b636b; --line: #d8dce0; --panel: #f4f6f8;
  --first: #0072b2; --second: #b45100; --third: #00795a; --fourth: #a6437d; --fifth: #6b5b00;
  --bad: #b3261e; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e6e9ec; --faint: #a3abb3; --line: #353b41;
  --panel: #1e2226; --first: #56b4e9; --second: #e69f00; --third: #2fc49b; --fourth: #e79ac6;
  --fifth: #f0e442; --bad: #ff8a80; --good: #7bd39a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, li, figcaption { overflow-wrap: anywhere; }
.faint, figcaption { color: var(--faint); }
.bad { color: var(--bad); } .good { color: var(--good); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; margin: 0; }
.cards div { background: var(--panel); border-radius: .4rem; padding: .6rem .8rem; }
.cards dt { color: var(--faint); font-size: .875rem; } .cards dd { margin: 0; font-size: 1.25rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { vertical-align: bottom; font-weight: 400; color: var(--faint); }
tbody th { font-weight: 400; overflow-wrap: break-word; min-width: 6rem; max-width: 20rem; }
td { white-space: nowrap; }
th:first-child, td.text, th.text, td.bars, th.bars { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
td.bars { min-width: 5.5rem; }
.bar { display: block; height: .4rem; min-width: 1px; background: var(--first); border-radius: .2rem; }
.bar.second { background: var(--second); }
summary { cursor: pointer; color: var(--first); padding: .3rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figcaption { font-size: .875rem; }
figure img { width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: contain; display: block; }
figure img, .pair { background: var(--panel); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
.pair img { aspect-ratio: 1; image-rendering: pixelated; }
ul { padding-left: 1.4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 0 1.5rem; }
.charts > div { display: flex; flex-direction: column; max-width: 27rem; }
.charts figure { margin-top: auto; }
.charts figure > svg { width: 100%; height: auto; display: block; }
.legend { list-style: none; padding: 0; margin: 0 0 .3rem; display: flex; flex-wrap: wrap; gap: 0 1rem;
  font-size: .875rem; }
.legend .sample { width: 26px; height: 8px; margin-right: .35rem; vertical-align: middle; }
.swatch { display: inline-block; width: .9rem; height: .9rem; margin-right: .35rem; vertical-align: -.1rem;
  border: 1px solid var(--faint); }
.stack { display: grid; gap: 1.2rem; grid-template-columns: minmax(0, 1fr); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13.5rem), 1fr)); gap: .4rem; }
.panels p { margin: .1rem 0 .3rem; font-size: .875rem; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
.crops { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.crops figure img { aspect-ratio: 1; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; margin: 1rem 0; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 30rem) { .facts { grid-template-columns: minmax(0, 1fr); } .facts dd { margin-bottom: .3rem; } }
.heat { background: color-mix(in srgb, var(--first) var(--share), transparent); }
"""


def text(value: object) -> str:
    """Any text, such as a file's name, as HTML."""
    return escape(printable(str(value)))


def fraction(value: float | None) -> str:
    """A share of 0…1 with three decimals, – where it is not defined."""
    return "–" if value is None or value < 0 or math.isnan(value) else f"{value:.3f}"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML ``parts``."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
    )
    body = "\n".join(part for part in parts if part)
    return f"{head}<body>\n<main>\n<h1>{text(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"


def section(title: str, *parts: str) -> str:
    """A heading and HTML ``parts``; empty without any."""
    held = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{held}\n</section>" if held else ""


def cards(values: Iterable[tuple[str, object]]) -> str:
    """Numbers with what they count."""
    held = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values)
    return f'<dl class="cards">{held}</dl>'


def facts(values: Iterable[tuple[str, object]]) -> str:
    """Texts with what they are."""
    held = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values)
    return f'<dl class="facts">{held}</dl>'


def bullets(lines: Iterable[object]) -> str:
    """A list of texts; empty without any."""
    held = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{held}</ul>" if held else ""


def paragraph(content: object, style: str = "") -> str:
    """A text."""
    return f'<p class="{style}">{text(content)}</p>' if style else f"<p>{text(content)}</p>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], styles: str = "") -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        caption: what it shows.
        head: texts.
        rows: cells of HTML (see ``text`` and ``bar``); the first one heads its row.
        styles: a letter for each column: t for texts, b for bars, others for numbers; the first one is a text anyway.
    """
    names = [
        {"t": ' class="text"', "b": ' class="bars"'}.get(letter, "") for letter in styles.ljust(len(head))[: len(head)]
    ]
    heads = "".join(f'<th scope="col"{name}>{text(title)}</th>' for title, name in zip(head, names, strict=True))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{name}>{cell}</td>" for cell, name in zip(others, names[1:], strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    label = f'aria-label="{text(caption)}"'
    return (
        f"<h3>{text(caption)}</h3>\n"
        f'<div class="scroll" role="region" tabindex="0" {label}><table {label}>'
        f"\n<thead><tr>{heads}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def columns(*parts: str) -> str:
    """HTML parts side by side where there is room."""
    return '<div class="columns">' + "".join(f"<div>{part}</div>" for part in parts if part) + "</div>"


def folded(summary: str, content: str) -> str:
    """HTML that opens on a click."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def pictures(figures: Iterable[str], style: str = "") -> str:
    """Figures in a grid, whose ``style`` may be ``wide`` or ``crops``; empty without any."""
    held = "".join(figures)
    return f'<div class="{f"pictures {style}".strip()}">{held}</div>' if held else ""


def stack(figures: Iterable[str]) -> str:
    """Figures one below the other; empty without any."""
    held = "".join(figures)
    return f'<div class="stack">{held}</div>' if held else ""


def key(colors: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """What colors mean, RGB."""
    swatch = '<span class="swatch" style="background:rgb{}"></span>'
    return (
        f'<ul class="legend">{"".join(f"<li>{swatch.format(color)}{text(name)}</li>" for color, name in colors)}</ul>'
    )


def bar(value: object, share: float, second: bool = False) -> str:
    """A number over a bar whose length is ``share``, 0…1, of the cell; ``second`` is the other color."""
    style = "bar second" if second else "bar"
    length = f'<span class="{style}" style="width:{100 * min(share, 1):.1f}%"></span>' if share > 0 else ""
    return f"{text(value)}{length}"


def heat(value: object, share: float) -> str:
    """A number before a color as strong as ``share``, 0…1."""
    return f'<div class="heat" style="--share:{55 * min(max(share, 0), 1):.0f}%">{text(value)}</div>'


def charts(parts: Iterable[str]) -> str:
    """Charts in a grid; empty without any."""
    held = "".join(parts)
    return f'<div class="charts">{held}</div>' if held else ""


def image(rgb: np.ndarray, alt: str, most: float = float("inf")) -> str:
    """A picture, uint8 RGB [H, W, 3], as JPEG inside the page, of lower quality where it has over ``most`` bytes."""
    for quality in (82, 60, 35, 12):
        data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(data) <= most:
            break
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    height, width = rgb.shape[:2]
    return f'<img src="{source}" width="{width}" height="{height}" alt="{text(alt)}">'


def figure(content: str, caption: object, above: bool = False) -> str:
    """HTML pictures with a text below, or ``above``."""
    words = f"<figcaption>{text(caption)}</figcaption>"
    return f"<figure>{words + content if above else content + words}</figure>"

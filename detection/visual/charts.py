"""Charts for a page: SVG by matplotlib, in the page's own colors and font, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detection.visual.html import figure, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that no chart uses otherwise, and the page's colors (see ``detection.visual.html``). The series' colors are
# of Okabe and Ito's color-blind safe palette, and each has its own dashes.
_INK, _FAINT, _LINE = "#010101", "#010102", "#010103"
SERIES = ("first", "second", "third", "fourth", "fifth")
_COLORS = {_INK: "text", _FAINT: "faint", _LINE: "line"} | {f"#02020{n}": name for n, name in enumerate(SERIES)}
_DASHES = ("", "5 2", "1.5 1.5", "6 1.5 1.5 1.5", "8 3")
_SIZE = (5.0, 3.1)  # inches; a 360-pixel column shows a point as a pixel
_FONT = 11


class Series(NamedTuple):
    """A line of a chart; ``y`` may have NaN."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


def lines(
    title: str,
    series: Sequence[Series],
    axes: tuple[str, str],
    caption: str = "",
    *,
    top: float | None = None,
    zero: bool = True,
    whole: bool = False,
    diagonal: bool = False,
) -> str:
    """Lines over a common axis, with marks where there are few points.

    Args:
        title: what the chart shows.
        series: up to five differ in color and dashes.
        axes: what x and y are, with units.
        caption: what to see in it.
        top: upper end of y.
        zero: whether y begins at 0.
        whole: whether x counts.
        diagonal: whether the line y = x is drawn.
    """
    chart, drawn = _axes(*axes)
    if diagonal:
        drawn.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8)
    for number, one in enumerate(series):
        known = np.isfinite(np.asarray(one.y, float))
        x, y = np.asarray(one.x, float)[known], np.asarray(one.y, float)[known]
        color, dashes = f"#02020{number % len(SERIES)}", _DASHES[number % len(_DASHES)]
        style = (0, [float(part) for part in dashes.split()]) if dashes else "-"
        drawn.plot(x, y, color=color, linestyle=style, linewidth=1.8, marker="o" if len(x) < 12 else "", markersize=3.5)
    if zero:
        drawn.set_ylim(bottom=0)
    if top is not None:
        drawn.set_ylim(top=top)
    if whole:
        drawn.xaxis.get_major_locator().set_params(integer=True)
    return _figure(title, chart, caption, [one.name for one in series] if len(series) > 1 else [])


def histogram(title: str, values: np.ndarray, axes: tuple[str, str], edges: np.ndarray, caption: str = "") -> str:
    """How many values lie between edges."""
    chart, drawn = _axes(*axes)
    counts, _ = np.histogram(values, edges)
    drawn.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#020200", edgecolor=_LINE, linewidth=0.5)
    drawn.yaxis.get_major_locator().set_params(integer=True)
    return _figure(title, chart, caption, [])


def _axes(x: str, y: str) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure  # slow to import

    chart = Figure(figsize=_SIZE, layout="constrained")
    drawn = chart.add_subplot()
    chart.patch.set_visible(False)
    drawn.patch.set_visible(False)
    drawn.set_xlabel(x, color=_FAINT, fontsize=_FONT)
    drawn.set_ylabel(y, color=_FAINT, fontsize=_FONT)
    drawn.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=_FONT, length=3)
    drawn.grid(color=_LINE, linewidth=0.7)
    drawn.set_axisbelow(True)
    for name, spine in drawn.spines.items():
        spine.set(color=_FAINT, visible=name in ("left", "bottom"))
    return chart, drawn


def _figure(title: str, chart: Any, caption: str, names: Sequence[str]) -> str:
    legend = "".join(f"<li>{_sample(number)}{text(name)}</li>" for number, name in enumerate(names))
    held = f'<ul class="legend">{legend}</ul>' if legend else ""
    return f'<div class="chart"><h3>{text(title)}</h3>{held}{figure(_svg(chart, title), caption)}</div>'


def _sample(number: int) -> str:
    color, dashes = SERIES[number % len(SERIES)], _DASHES[number % len(_DASHES)]
    style = f"stroke:var(--{color});stroke-width:2.5;stroke-dasharray:{dashes.replace(' ', ',') or 'none'}"
    return f'<svg class="sample" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" style="{style}"/></svg>'


def _svg(chart: Any, title: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # text stays text; the same chart, the same ids
        FigureCanvasSVG(chart).print_svg(written, metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style inside would hold for the whole page
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r"#0[12]0[12]0\d", lambda found: f"var(--{_COLORS[found[0]]})", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag[0]), svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {box[0]} role="img" aria-label="{text(title)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg[^>]*>", head, svg, count=1)).strip()

"""What the page shows of a result, as HTML: pictures, legend, times, table, JSON."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from detection.detections import Detections
from detection.drawing import class_color, draw_boxes, shrink, text_color
from detection.prediction_settings import PostprocessSettings
from divdet.demo.outputs import Outputs
from divdet.engine.words import counted

_MEMBER_SIDE = 800  # pixels of the longer side of a member's picture
_MOST_ROWS = 100  # of the table; the JSON has all
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90]
# Data addresses would be sent twice as link and picture.
_SAVE_PICTURE = "this.href = document.querySelector('#fused img').src"

EMPTY = """<div class="dd-empty"><strong>No image yet</strong>
Upload one, take one with the camera, paste one, or choose an example.</div>"""


def fused_panel(outputs: Outputs, found: Detections, names: Sequence[str]) -> str:
    """The picture with the final boxes."""
    what = "Fused" if len(found.members) > 1 else "Found"
    boxes = counted(len(found), "box", "boxes")
    picture = _picture(outputs.picture, outputs.scale, found, names, f"{what}: {boxes}")
    save = f'<a class="dd-button" download="fused.jpg" href="#" onclick="{_SAVE_PICTURE}">Save picture</a>'
    return f"<figure>{picture}<figcaption><b>{what}</b> {boxes}{save}</figcaption></figure>"


def member_panels(outputs: Outputs, found: Detections, names: Sequence[str], threshold: float) -> str:
    """The pictures of the members' own boxes, from the threshold on; nothing of one member, whose boxes are final."""
    if len(found.members) < 2:
        return ""
    picture, scale = shrink(outputs.picture, _MEMBER_SIDE)
    panels = []
    for number, member in enumerate(found.members, 1):
        own = member[member.scores >= threshold]
        boxes = counted(len(own), "box", "boxes")
        image = _picture(picture, outputs.scale * scale, own, names, f"Member {number}: {boxes}")
        panels.append(f"<figure>{image}<figcaption><b>Member {number}</b> {boxes}</figcaption></figure>")
    return f'<div class="dd-members">{"".join(panels)}</div>'


def summary(outputs: Outputs, found: Detections, find_seconds: float) -> str:
    """A legend of the classes found, and how long each part took."""
    counts = Counter(zip(found.labels.tolist(), found.names, strict=True))
    legend = "".join(
        f"<span>{_chip(label, name)}<i>{count}</i></span>" for (label, name), count in counts.most_common()
    )
    width, height = outputs.seen.size
    times = (
        ("decode + resize", outputs.read_seconds + outputs.resize_seconds),
        ("network", outputs.network_seconds),
        ("suppression + fusion" if len(found.members) > 1 else "suppression", find_seconds),
    )
    shown = "".join(f"<span>{what} <b>{_milliseconds(seconds)}</b></span>" for what, seconds in times)
    return (
        f'<div class="dd-legend">{legend or "nothing found above the thresholds"}</div>'
        f'<div class="dd-times"><span>{width} × {height} pixels</span>{shown}</div>'
    )


def table(found: Detections) -> str:
    """The boxes, by falling score."""
    rows = []
    columns = zip(found.labels.tolist(), found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    for number, (label, name, score, box) in enumerate(columns, 1):
        if number > _MOST_ROWS:
            rows.append(f'<tr><td colspan="7">and {len(found) - _MOST_ROWS} more, see JSON</td></tr>')
            break
        corners = "".join(f"<td>{value:.1f}</td>" for value in box)
        bar = f'<td class="dd-score" style="--score: {score:.3f}">{score:.3f}</td>'
        rows.append(f"<tr><td>{number}</td><td>{_chip(label, name)}</td>{bar}{corners}</tr>")
    body = "".join(rows) or '<tr><td colspan="7">no boxes</td></tr>'
    heads = "".join(f"<th>{head}</th>" for head in ("", "class", "score", "x1", "y1", "x2", "y2"))
    whole = f'<table class="dd-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="dd-scroll">{whole}</div>'


def json_panel(found: Detections, settings: PostprocessSettings, threshold: float) -> str:
    """The boxes as ``Detections.to_json`` writes them, an object a line, and the call that gives them."""
    text = found.to_json()
    lines = ",\n ".join(json.dumps(one, ensure_ascii=False) for one in json.loads(text))
    address = "data:application/json;base64," + base64.b64encode(text.encode()).decode()
    return (
        f'<a class="dd-button" download="detections.json" href="{address}">Save JSON</a>'
        f'<pre class="dd-json" tabindex="0">{escape(f"[{lines}]")}</pre>'
        f"<p>The same from Python:</p>"
        f'<pre class="dd-json dd-call" tabindex="0">{escape(_call(settings, threshold))}</pre>'
    )


def message(text: str) -> str:
    """A line that says what is wrong."""
    return f'<div class="dd-message" role="alert">{escape(text)}</div>'


def _call(settings: PostprocessSettings, threshold: float) -> str:
    default = PostprocessSettings()
    differing = {name: value for name, value in vars(settings).items() if value != getattr(default, name)}
    arguments = ", ".join(f"{name}={value!r}" for name, value in differing.items())
    predict = f"Detector.load(FILE, settings=settings).predict(IMAGE, {threshold:g})"
    imports = "from detection import Detector\nfrom detection.postprocess import PostprocessSettings\n"
    return f"{imports}\nsettings = PostprocessSettings({arguments})\n{predict}"


def _picture(image: np.ndarray, scale: np.ndarray, found: Detections, names: Sequence[str], alt: str) -> str:
    drawn = draw_boxes(image, found.boxes.numpy() * scale, found.labels.numpy(), names, found.scores.numpy())
    data = base64.b64encode(cv2.imencode(".jpg", drawn[..., ::-1], _JPEG)[1]).decode()
    height, width = image.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img alt="{escape(alt)}" {size} decoding="sync" src="data:image/jpeg;base64,{data}">'


def _chip(label: int, name: str) -> str:
    color = class_color(label)
    style = f"background: rgb{color}; color: rgb{text_color(color)}"
    return f'<span class="dd-chip" style="{style}">{escape(name)}</span>'


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"

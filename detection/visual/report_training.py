"""The curves of a training run, for its report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detection.visual.charts import Series, lines
from detection.visual.html import charts, section

_PARTS = {
    "train_localization": "localization",
    "train_classification": "classification",
    "train_centerness": "centerness",
}
_MEMBERS = 4  # that are drawn


def training(history: Sequence[dict[str, Any]]) -> str:
    """Losses, rate and AP by epoch, of the lines of metrics.jsonl; empty without any."""
    if not history:
        return ""
    names = {name for line in history for name in line}
    members = sorted(name for name in names if name.startswith("AP_member"))
    own = sorted(name for name in names if name.startswith("train_loss_member"))
    drawn = []
    if "train_loss" in names:
        whole = [("train_loss", "sum over the members" if len(own) > 1 else "loss")]
        caption = "What the optimizer lowers, mean of an epoch's batches."
        parts = [(name, f"member {name.removeprefix('train_loss_member')}") for name in own[:_MEMBERS]]
        drawn.append(_chart("Training loss", history, whole + parts, "loss", caption))
        parts = [(name, title) for name, title in _PARTS.items() if name in names]
        caption = "Boxes and classes, summed over the members." if len(members) > 1 else "Boxes and classes."
        drawn.append(_chart("Parts of the loss", history, parts, "loss", caption) if parts else "")
    if "train_cot" in names:
        caption = "Jensen-Shannon divergence of the members' class probabilities, before its weight."
        drawn.append(_chart("Co-training term", history, [("train_cot", "")], "divergence", caption))
    if "lr" in names:
        caption = "At the end of each epoch."
        drawn.append(_chart("Learning rate", history, [("lr", "")], "learning rate", caption))
    if sum(line.get("AP", -1) >= 0 for line in history) > 1:
        several = len(members) > 1
        parts = [("AP", "fused" if several else "AP")]
        parts += [(name, f"member {name.removeprefix('AP_member')}") for name in members[:_MEMBERS]] if several else []
        caption = "On the validation images, after the epochs that were evaluated."
        drawn.append(_chart("AP by epoch", history, parts, "AP", caption, zero=False))
        parts = [(name, name) for name in ("AP50", "AP75")]
        caption = f"At one IoU, 0.50 or 0.75{', of the fused boxes' * several}."
        drawn.append(_chart("AP at one IoU by epoch", history, parts, "AP", caption, zero=False))
    return section("Training", charts(drawn))


def _chart(
    title: str,
    history: Sequence[dict[str, Any]],
    parts: Iterable[tuple[str, str]],
    y: str,
    caption: str,
    zero: bool = True,
) -> str:
    series = []
    for key, name in parts:
        held = [line for line in history if key in line and line[key] >= 0]
        series.append(Series(name, [line["epoch"] for line in held], [line[key] for line in held]))
    return lines(title, series, ("epoch", y), caption, whole=True, zero=zero)

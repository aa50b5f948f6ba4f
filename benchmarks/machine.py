"""What figures were measured on, and tables of them."""

from divdet.engine.machine import describe, machine
from divdet.engine.timing import Timing

__all__ = ["describe", "machine", "table"]


def table(timings: list[Timing], reference: str) -> str:
    """The timings as a Markdown table."""
    lines = [f"| | median, ms | quartiles, ms | times {reference} |", "|---|---|---|---|"]
    for timing in timings:
        low, high = timing.quartiles
        lines.append(f"| {timing.name} | {timing.median:.4g} | {low:.4g} to {high:.4g} | {timing.ratio:.3g} |")
    return "\n".join(lines)

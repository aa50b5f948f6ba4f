"""Values of annotations, and how messages show them."""

import reprlib
from typing import Any

MAX_COORDINATE = 1e9  # pixels: far beyond any image, and far from float32's overflow


class Fault(Exception):
    """What is wrong with an entry, as the end of a sentence: "has no bbox"."""


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of at most ``MAX_COORDINATE``; true and false are no numbers."""
    return type(value) in (int, float) and -MAX_COORDINATE <= value <= MAX_COORDINATE  # NaN fails the comparison


def reads_as_number(word: str) -> bool:
    """Whether a word of a text file is a number, finite or not."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def show(value: Any) -> str:
    """A JSON value for a message: one line, shortened."""
    return one_line(repr(value) if isinstance(value, str) and len(value) < 200 else reprlib.repr(value))


def one_line(value: object) -> str:
    """Any text with single spaces for white space."""
    return " ".join(str(value).split())

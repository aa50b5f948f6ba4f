"""Numbers and names as text for people."""

from collections.abc import Sequence

_SHOWN = 5  # names


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things, of which ``one`` is the noun: 1 image, 2 images."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def named(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(map(repr, names[:_SHOWN])) + ", …" * (len(names) > _SHOWN)


def in_words(seconds: float) -> str:
    """A length of time: ``45 s``, ``4 min 30 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

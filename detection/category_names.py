"""Which texts can be the names of categories."""

import re
from typing import Any

_AROUND = re.compile(r"^[\s\u200b\u2060\ufeff]+|[\s\u200b\u2060\ufeff]+$")  # white space, visible or not
# No control characters, line breaks, or characters that change the direction of what follows; encodable as UTF-8
_NAME = re.compile("[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def category_name(value: Any) -> str | None:
    """Strips white space around a category's name (some converters leave the line's end).

    Returns:
        The name, or None if it is not text, is empty, or would break a line or disturb a terminal.
    """
    name = _AROUND.sub("", value) if isinstance(value, str) else ""
    return name if _NAME.fullmatch(name) else None

"""Valid documents and files turned hostile.

Every function takes ``draw``, a ``random.Random`` or hypothesis' own (``st.randoms(use_true_random=False)``), and
changes nothing that it is given.
"""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e-9, 1e9, 1.1e9, 1e38, 1e39, 1e308, -1e308, math.nan, math.inf, -math.inf),
]  # fmt: skip
TEXTS = [
    *("", " ", "0", "a\0b", "a\nb", "a\rb", "\x1b[2J", "\u2028", "\u202e", "\ud800", "\udcff", "é\u0301", "🐟", "名前"),
    *(
        "x" * 300,
        "x/" * 3000,
        "%s%n{0}",
        "~",
        "~nobody/x",
        "-1",
        "--help",
        "null",
        "true",
        "1e5",
        "NaN",
        ".inf",
        "*",
        "[",
    ),
    *("..", "../outside.png", "/etc/passwd", "a/../../outside.png", "link.png", "away/outside.png", "CON", "a:b", "\\"),
    *("file:///etc/passwd", "http://localhost/x", "!!python/object/apply:os.system ['touch owned']", "__class__"),
]
# A text that `as_json` writes as lists in lists, and as a list of many
DEEP, LONG = "<deep>", "<long>"


def value(draw: Random) -> Any:
    """Anything that a JSON or YAML file can hold and that is likely to be unexpected."""
    kind = draw.randrange(20)
    if kind < 8:
        return draw.choice(NUMBERS)
    if kind < 14:
        return draw.choice(TEXTS)
    if kind < 16:
        return draw.choice([None, True, False])
    if kind == 16:
        return draw.choice([DEEP, LONG])
    return draw.choice([[], {}, [[]], [None], {"": {}}, [1, 2, 3, 4], {"id": 1}, ["a"] * 5, {"a": {"b": {"c": [{}]}}}])


def document(draw: Random, valid: Any) -> Any:
    """``valid``, a tree of dicts and lists, with one to five changes."""
    changed = copy.deepcopy(valid)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
        places = list(_places(changed))
        if not places or draw.randrange(100) == 0:
            return value(draw)
        holder, key = draw.choice(places)
        match draw.randrange(7):
            case 0 | 1 | 2:
                holder[key] = value(draw)
            case 3:
                del holder[key]
            case 4:
                other, name = draw.choice(places)
                if key in holder if isinstance(holder, dict) else key < len(holder):
                    holder[key] = copy.deepcopy(other[name])
            case 5:
                if isinstance(holder, list):
                    holder.insert(key, copy.deepcopy(holder[key]))
                else:
                    holder[draw.choice([*TEXTS, *map(str, holder)])] = value(draw)
            case 6:
                holder[key] = _nudged(draw, holder[key])
    return changed


def _places(node: Any) -> Any:
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def _nudged(draw: Random, old: Any) -> Any:
    if isinstance(old, bool) or not isinstance(old, int | float | str):
        return [old]
    if isinstance(old, str):
        return draw.choice([old + draw.choice(TEXTS), draw.choice(TEXTS) + old, old.upper(), old[:-1], old * 2])
    whole: list[Any] = [old + 1, old - 1, -old, old * 1000, str(old), bool(old)]
    return draw.choice(whole if abs(old) > 2**1000 else [*whole, old / 3, float(old)])


def as_json(draw: Random, tree: Any) -> bytes:
    """The tree as a JSON file; NaN and infinity as Python writes them, and lone surrogates escaped."""
    text = json.dumps(tree, indent=draw.choice((None, 1)))
    return expanded(draw, text).encode()


def expanded(draw: Random, text: str) -> str:
    """``text`` with `DEEP` and `LONG` written out."""
    depth = draw.choice((10, 200, 900, 5_000, 200_000))
    for name in (f'"{DEEP}"', f"'{DEEP}'", DEEP):
        text = text.replace(name, "[" * depth + "]" * depth)
    for name in (f'"{LONG}"', f"'{LONG}'", LONG):
        text = text.replace(name, "[" + "0, " * draw.choice((10, 2_000)) + "0]")
    return text


_INTEGERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]


def damaged(draw: Random, valid: bytes, other: bytes = b"") -> bytes:
    """``valid`` with one to five changes of bytes; parts of ``other`` may come into it."""
    data = bytearray(valid)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
        if not data:
            break
        # Headers are short and decide most.
        at = draw.randrange(min(len(data), draw.choice((16, 128, 1024, len(data)))))
        length = draw.choice((1, 2, 4, 16, 64, 512))
        match draw.randrange(9):
            case 0 | 1:
                data[at] ^= 1 << draw.randrange(8)
            case 2:
                data[at] = draw.randrange(256)
            case 3 | 4:
                size, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
                data[at : at + size] = (draw.choice(_INTEGERS) % 256**size).to_bytes(size, order)
            case 5:
                del data[draw.randrange(len(data)) :]
            case 6:
                del data[at : at + length]
            case 7:
                data[at:at] = data[at : at + length] if draw.randrange(2) else bytes([draw.randrange(256)]) * length
            case 8:
                start = draw.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + length]
    return bytes(data)

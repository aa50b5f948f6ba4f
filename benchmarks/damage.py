"""Damages a checkpoint in hundreds of ways: each is refused with one line, or read as it was written, bit for bit.

    python benchmarks/damage.py                       # of a small detector
    python benchmarks/damage.py runs/mine/best.pt --bits 200 --others 140

Flips bits, and zeroes, cuts off, doubles, loses and swaps blocks. Prints a line per kind; exit code 1 if a damaged
file is read as something else than was written. ``--headers`` flips every bit outside the records' own content.
"""

import argparse
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from detection import create_ssd
from divdet.engine import checkpoint
from tests.fuzz.damage import KINDS, damage, judge_damage


def outside_content(path: Path) -> list[int]:
    """The positions of the bytes outside the records' content: headers, padding and directory."""
    data = path.read_bytes()
    inside: set[int] = set()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            start = at + 30 + int.from_bytes(data[at + 26 : at + 28], "little")
            start += int.from_bytes(data[at + 28 : at + 30], "little")
            inside.update(range(start, start + entry.file_size))
    return [place for place in range(len(data)) if place not in inside]


def main() -> None:
    """Runs all damages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: a small detector's")
    parser.add_argument("--bits", type=int, default=200)
    parser.add_argument("--others", type=int, default=140, help="damages of the other kinds, in turn")
    parser.add_argument("--headers", action="store_true", help="also flip every bit outside the records' content")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = Random(arguments.seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.pt"
        if arguments.checkpoint:
            path.write_bytes(arguments.checkpoint.read_bytes())
        else:
            meta = {"categories": [{"id": 1, "name": "cat"}]}
            state = create_ssd("resnet10_16", 2, 1).state_dict()
            checkpoint.save(checkpoint.Checkpoint("detection", state, meta=meta), path)
        data = path.read_bytes()
        written = checkpoint.load(path)
        kinds = ["bit"] * arguments.bits + [KINDS[1 + i % (len(KINDS) - 1)] for i in range(arguments.others)]
        ends = Counter()
        for kind in kinds:
            path.write_bytes(damage(draw, data, kind))
            ends[kind, judge_damage(path, written)] += 1
        if arguments.headers:
            path.write_bytes(data)
            for place in outside_content(path):
                for bit in range(8):
                    changed = bytearray(data)
                    changed[place] ^= 1 << bit
                    path.write_bytes(changed)
                    ends["header bit", judge_damage(path, written)] += 1
    for kind in [*KINDS, *["header bit"] * arguments.headers]:
        counts = {end: ends[kind, end] for end in ("refused", "equal", "wrong")}
        wrong += counts["wrong"]
        print(f"{kind}: {', '.join(f'{count} {end}' for end, count in counts.items())}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
